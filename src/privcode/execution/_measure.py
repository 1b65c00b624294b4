"""What a program and all it started use at a moment: processor time, memory, disk.

Promises: every living descendant of the server counts, and for processor time those that were
waited for. The second part of `_inside`, where it runs.
Does not: see what was used between two looks; and a process that has its children reaped unseen
hides their processor time, not their memory.
"""

import os
import resource
import time
from typing import Any

_MAX_FILES = 10_000


def used_by_the_dead() -> float:
    """Processor seconds of all processes that were ever waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def beyond(request: dict[str, Any], before: float, begin: float) -> str:
    """Which bound all the program's processes together have passed, if any.

    Args:
        request: with "bounds", "scratch" and "on_disk".
        before: what `used_by_the_dead` said before the program.
        begin: when it began, by the monotonic clock.
    """
    bounds = request["bounds"]
    family = _family(os.getpid())
    if used_by_the_dead() - before + sum(map(_seconds, family)) > bounds["cpu"]:
        return "cpu"
    if time.monotonic() - begin - sum(map(_waited, family)) > bounds["wall"]:
        return "wall"
    if sum(map(_resident, family)) > bounds["memory"]:
        return "memory"
    if request["on_disk"] and _on_disk(request["scratch"], family) > bounds["disk"]:
        return "disk"
    return ""


def _read(path: str) -> str:
    """A file of /proc; empty once the process is gone."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _family(pid: int) -> list[int]:
    """All living descendants: an orphan's parent is the server."""
    children = [
        int(child)
        for task in _listed(f"/proc/{pid}/task")
        for child in _read(f"/proc/{pid}/task/{task}/children").split()
    ]
    return children + [pid for child in children for pid in _family(child)]


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _seconds(pid: int) -> float:
    """Processor time of a process and of those it has waited for."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _waited(pid: int) -> float:
    """Seconds for which a process's threads were ready to run and had no core."""
    tasks = _listed(f"/proc/{pid}/task")
    found = [_read(f"/proc/{pid}/task/{task}/schedstat").split() for task in tasks]
    return sum(int(fields[1]) for fields in found if len(fields) > 1) / 1e9


def _resident(pid: int) -> int:
    """Bytes in memory; shared pages in parts, where this kernel lets them be told apart."""
    try:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except PermissionError:
        pass
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * resource.getpagesize() if fields else 0


def _on_disk(scratch: str, family: list[int]) -> int:
    """Bytes below `scratch`, and of deleted files that live on while they are open or mapped.

    What cannot be looked into, or has too many entries, counts as over any bound.
    """
    over = 1 << 62
    size = entries = 0
    folders = [scratch]
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                entries += 1
                if entries > _MAX_FILES:
                    return over
                try:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # closed to its owner, or too deep
            return over
    deleted: dict[int, int] = {}
    for pid in family:
        try:
            for fd in _listed(f"/proc/{pid}/fd"):
                try:
                    found = os.stat(f"/proc/{pid}/fd/{fd}")
                except FileNotFoundError:
                    continue
                if found.st_nlink == 0 and found.st_dev == os.stat(scratch).st_dev:
                    deleted[found.st_ino] = found.st_blocks * 512
            for line in _read(f"/proc/{pid}/maps").splitlines():
                if line.endswith(" (deleted)") and f" {scratch}/" in line:
                    deleted.setdefault(int(line.split()[4]), over)
        except PermissionError:
            if int(_read(f"/proc/{pid}/statm").split(" ")[0] or 0):  # not merely dead
                return over
    return size + sum(deleted.values())
