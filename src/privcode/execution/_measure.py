"""What a program and all that it started use at a moment: processor time, memory, disk.

Promises:
- Every living descendant of the server counts. For processor time, so do those that were waited
  for.
- Memory is a program's own memory and what the kernel holds for it.

Does not:
- See what was used between two looks.
- See what is held by sockets that are themselves inside a socket's queue (their number is bounded).
- See the processor time of children that a process has reaped unseen. Their memory is seen.

It is the third part of `_inside`, where it runs.
"""

import os
import resource
import socket
import stat
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
        before: what `used_by_the_dead` returned before the program.
        begin: when the program began, by the monotonic clock.
    """
    bounds = request["bounds"]
    family = _family(os.getpid())
    if used_by_the_dead() - before + sum(map(_seconds, family)) > bounds["cpu"]:
        return "cpu"
    if time.monotonic() - begin - sum(map(_waited, family)) > bounds["wall"]:
        return "wall"
    processes = [folder for folder in map(_alive, family) if folder]
    if _memory(processes) > bounds["memory"]:
        return "memory"
    if request["on_disk"] and _on_disk(request["scratch"], processes) > bounds["disk"]:
        return "disk"
    return ""


def _read(path: str) -> str:
    """A file of /proc, empty once the process is gone."""
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


def _alive(pid: int) -> str:
    """The folder in /proc of a thread that is not dead, empty if there is none.

    A process's first thread may be dead. Threads of a process share memory and files.
    """
    folders = [f"/proc/{pid}"]
    while folders:
        folder = folders.pop()
        if _breathes(folder):
            return folder
        if folder == f"/proc/{pid}":
            folders = [f"{folder}/task/{thread}" for thread in _listed(f"{folder}/task")]
    return ""


def _breathes(folder: str) -> bool:
    return int(_read(f"{folder}/statm").partition(" ")[0] or 0) > 0


def _memory(processes: list[str]) -> int:
    """Bytes that processes hold, themselves and in the kernel, by their folders in /proc.

    This counts their pages and what `_PAGES` names, and mappings, watches and locks. Each socket
    and pipe counts as full, because only its owner could ask how full it is. What cannot be
    inspected counts as over any bound.
    """
    size = 0
    queues: set[tuple[int, int]] = set()
    for folder in processes:
        try:
            size += _pages(folder) + _listing(f"{folder}/maps", never=b"/dev/zero")
            for fd in _listed(f"{folder}/fd"):
                try:
                    found = os.stat(f"{folder}/fd/{fd}")
                except FileNotFoundError:
                    continue
                size += _listing(f"{folder}/fdinfo/{fd}")
                queue = found.st_dev, found.st_ino
                if queue not in queues:
                    size += _QUEUES.get(stat.S_IFMT(found.st_mode), 0)
                    queues.add(queue)
        except PermissionError:
            if _breathes(folder):
                return _OVER
    return size


def _pages(folder: str) -> int:
    """Bytes of a process's pages, page tables and stacks in the kernel."""
    size = 0
    for line in (_read(f"{folder}/smaps_rollup") + _read(f"{folder}/status")).splitlines():
        name, _, value = line.partition(":")
        if name in _PAGES:
            size += int(value.split()[0]) * _PAGES[name]
    return size


def _listing(path: str, never: bytes = b"\0") -> int:
    """Bytes that the kernel holds for what it lists: mappings, watches, locks.

    The kernel takes up to four times the text, on x86-64: 192 bytes for a lock of 65, 213 for a
    watch of 77, 195 for a mapping of 49. A listing that contains `never` is over any bound. (The
    filter refuses shared memory without a file: its pages stay when no process maps them. But the
    filter does not see that a file is /dev/zero.)
    """
    try:
        with open(path, "rb") as file:
            text = file.read()
            return _OVER if never in text else 4 * len(text)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _socket_bytes() -> int:
    """What a stream socket's queue holds at most: its last message may exceed the bound."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) * 5 // 4


_OVER = 1 << 62
# In memory or swapped out, shared pages in parts; a thread's stack and description in the kernel.
_PAGES = dict.fromkeys(("Pss", "SwapPss", "Shared_Hugetlb", "Private_Hugetlb", "VmPTE"), 1 << 10)
_PAGES["Threads"] = 32 << 10
_QUEUES = {stat.S_IFSOCK: _socket_bytes(), stat.S_IFIFO: 16 * resource.getpagesize()}


def _on_disk(scratch: str, processes: list[str]) -> int:
    """Bytes below `scratch`, and of deleted files that are still open or mapped.

    What cannot be inspected, or has too many entries, counts as over any bound.
    """
    size = entries = 0
    folders = [scratch]
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                entries += 1
                if entries > _MAX_FILES:
                    return _OVER
                try:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # closed to its owner, or too deep
            return _OVER
    deleted: dict[int, int] = {}
    for folder in processes:
        try:
            for fd in _listed(f"{folder}/fd"):
                try:
                    found = os.stat(f"{folder}/fd/{fd}")
                except FileNotFoundError:
                    continue
                if found.st_nlink == 0 and found.st_dev == os.stat(scratch).st_dev:
                    deleted[found.st_ino] = found.st_blocks * 512
            for line in _read(f"{folder}/maps").splitlines():
                if line.endswith(" (deleted)") and f" {scratch}/" in line:
                    deleted.setdefault(int(line.split()[4]), _OVER)
        except PermissionError:
            if _breathes(folder):  # otherwise it is merely dead
                return _OVER
    return size + sum(deleted.values())
