"""Where a command may write: regular files, folders, and standard output where it is named.

Promises:
- Anything else (a device, a pipe, a socket, a link that leads nowhere) is refused before work
  begins, and is never replaced.
- A link to a regular file stays a link, and its target is replaced.

Does not: write files (`files` does).
"""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from privcode.errors import UserError, why

CLOSED = sys.stdout is None
"""Whether standard output was closed when this process began."""

_STDOUT = (Path("-"), Path("/dev/stdout"))
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link that leads nowhere",
}


def kind_of(mode: int) -> str:
    """What a file of this mode is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def is_stdout(path: Path) -> bool:
    """Whether `path` stands for standard output: `-` or /dev/stdout."""
    return path in _STDOUT


def check_output(path: Path) -> Path:
    """Where `path` would be written: itself, or the regular file that it links to.

    Raises:
        UserError: it is not a regular file, or its folder cannot be written.
    """
    if is_stdout(path):
        if CLOSED:
            raise UserError("standard output: is closed; name a file with --out")
        return path
    try:
        target = Path(os.path.realpath(path))
        if os.path.lexists(target):
            if not stat.S_ISREG(mode := os.lstat(target).st_mode):
                raise UserError(
                    f"{path}: is {kind_of(mode)}, not a regular file; choose another --out"
                )
        elif os.path.islink(path):
            raise UserError(f"{path}: is a link that leads nowhere; choose another --out")
        folder = next(at for at in target.parents if os.path.lexists(at))
        if not folder.is_dir():
            raise UserError(f"{path}: {folder} is not a folder; choose another --out")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{path}: {folder} may not be written; choose another --out")
        if any(len(os.fsencode(part)) > 255 for part in target.parts):
            raise UserError(f"{path}: a name in it is too long; choose another --out")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written ({why(error)}); choose another --out") from None
    return target


def check_folder(path: Path) -> Path:
    """`path`, if it is a folder that can be written, or can become one.

    Raises:
        UserError: it is something else.
    """
    if is_stdout(path) or (os.path.islink(path) and not path.is_dir()):
        raise UserError(f"{path}: is no folder, which is what is written; choose another --out")
    check_output(path / "config.yaml")
    return path


def deliver(content: Iterable[bytes]) -> None:
    """Write bytes to standard output, whatever its encoding.

    Raises:
        UserError: it cannot be written.
        SystemExit: the reader is gone.
    """
    with standard_output():
        sys.stdout.flush()
        for part in content:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


@contextmanager
def standard_output() -> Iterator[None]:
    """A context for writing to standard output: an error becomes one line, or ends the process.

    Raises:
        UserError: it cannot be written.
        SystemExit: the reader is gone.
    """
    try:
        yield
    except OSError as error:
        # The interpreter would try again to write what is left in the buffer when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None
        raise UserError(f"standard output: cannot be written ({why(error)})") from None
