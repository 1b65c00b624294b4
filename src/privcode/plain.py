"""Plain files only: how what privcode made is read back.

Promises:
- Nothing is followed, waited for or written.
- A link, a FIFO, a socket or a device below a run or a bundle is refused in one line. So is a file
  larger than it can be.

Does not: judge what the user names. A folder may be reached by a link. A model in the hub's cache,
which is made of links, is read by its name.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from privcode.errors import UserError

LIMIT = 64 * 2**20
"""The most bytes of a JSON document that is read as a whole, far above what privcode writes."""
MOST_FILES = 100_000
_DOCUMENTS = (".json", ".yaml", ".md", ".html")
_LARGEST = 2**30  # of a tokenizer; what is not read as a whole may be larger


def shown(path: Path) -> str:
    """A path in printable form: what no terminal should see is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading, and refuse a link or anything else.

    Raises:
        UserError: it is not a plain file, or cannot be read.
    """
    try:
        _refuse(path, os.lstat(path).st_mode)  # before opening: a device may act on being opened
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            _refuse(path, stat.S_IFLNK)
        raise UserError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    try:
        _refuse(path, os.fstat(file.fileno()).st_mode)
    except UserError:
        file.close()
        raise
    return file


def _refuse(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a plain file"
    raise UserError(f"{shown(path)}: is {kind}; put the file itself there")


def read_plain(path: Path, limit: int = LIMIT) -> bytes:
    """All bytes of a plain file of at most `limit` bytes.

    Raises:
        UserError: it is larger; what `open_plain` raises.
    """
    with open_plain(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{shown(path)}: is larger than {limit:,} bytes; restore it")
    return data


def hash_plain(path: Path) -> str:
    """Hex SHA-256 of a plain file's bytes.

    Raises:
        UserError: it is a document larger than any can be; what `open_plain` raises.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if path.suffix in _DOCUMENTS and size > _LARGEST:
            raise UserError(f"{shown(path)}: is larger than {_LARGEST:,} bytes; restore it")
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(root: Path) -> list[str]:
    """Names, relative to `root`, of all files below it, sorted. `root` itself may be a link.

    Raises:
        UserError: an entry there is not a plain file or a folder, or cannot be inspected; there are
            more than `MOST_FILES`.
    """
    found: list[str] = []
    folders = [Path()]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(root / here) as entries:
                for entry in entries:
                    mode = entry.stat(follow_symlinks=False).st_mode
                    name = here / entry.name
                    if stat.S_ISDIR(mode):
                        folders.append(name)
                    else:
                        _refuse(root / name, mode)
                        found.append(str(name))
        except OSError as error:
            where = shown(root / here)
            raise UserError(f"{where}: cannot be read ({error.strerror})") from error
        if len(found) + len(folders) > MOST_FILES:
            raise UserError(f"{shown(root)}: holds more than {MOST_FILES:,} files; is this right?")
    return sorted(found)


def is_plain_name(name: str) -> bool:
    """Whether `name` is the plain form of the name of a file below a folder."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") for part in parts) and "\x00" not in name


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """One JSON object: UTF-8, no key twice, finite numbers, no half of a surrogate pair.

    Raises:
        UserError: begins with `where`.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=_not_finite)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):  # also numbers too long to read
        raise UserError(f"{where}: is not valid JSON; restore it") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: is not a JSON object; restore it")
    return value


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The JSON object in a plain file. Raises what `read_plain` and `parse_object` raise."""
    return parse_object(read_plain(path, limit), shown(path))


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of these pairs, for a decoder's `object_pairs_hook`.

    Raises:
        ValueError: a key comes twice. The message quotes nothing.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice in an object")
    return found


def _not_finite(text: str) -> Any:
    raise ValueError(text)


def is_text(value: object) -> bool:
    """Whether a value of JSON is text that can be written as UTF-8."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
