"""Folders on the machine for scratches and container roots, and what dead owners left of them.

Promises:
- Whoever makes the first folder removes the folders of dead processes of the same user. (Only
  killed processes leave any.)
- The folders of a live process are left alone, even if its number is reused. The owner holds a
  lock, which the kernel releases when the owner dies.

Does not: follow links.
"""

import atexit
import fcntl
import functools
import os
import shutil
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_PREFIX, _LOCK = "privcode-run-", "lock"
_HOUR = 3600.0  # a folder without a lock may be one that is just being made


def new_folder(kind: str) -> Path:
    """A new empty folder, for its owner alone.

    It is removed when this process ends. After a kill, a later process removes it.

    Args:
        kind: the beginning of its name.
    """
    return Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=_own(os.getpid())))


def remove(path: Path) -> None:
    """Delete a folder, however deep, even if a program closed it to its owner."""
    shutil.rmtree(path, onerror=lambda *_: None) if _shallow(path) else None
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if path.exists():
            subprocess.run([*command, "--", path], check=False, stderr=subprocess.DEVNULL)


@functools.cache
def _own(process: int) -> Path:
    """This process's folder (a fork gets another), with a lock that is held while it lives."""
    sweep(Path(tempfile.gettempdir()))
    while True:
        made = Path(tempfile.mkdtemp(prefix=_PREFIX))
        made.chmod(0o711)  # programs of other users pass through it
        lock = os.open(made / _LOCK, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (made / _LOCK).exists():  # no other process swept it in between
            break
        os.close(lock)
    atexit.register(lambda: remove(made) if os.getpid() == process else None)
    return made


def sweep(above: Path) -> None:
    """Delete the folders that processes of this user left in `above` when they were killed."""
    for entry in os.scandir(above):
        with suppress(OSError):
            if not entry.name.startswith(_PREFIX):
                continue
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            try:
                lock = os.open(Path(entry.path, _LOCK), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                if time.time() - found.st_mtime > _HOUR:
                    remove(Path(entry.path))
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its owner lives
                remove(Path(entry.path))
            finally:
                os.close(lock)


def _shallow(path: Path) -> bool:
    return all(not entry.is_dir(follow_symlinks=False) for entry in os.scandir(path))
