"""Small file habits shared by every stage.

Promises:
- A file appears whole or not at all. `write_*` write to a temporary name in the same directory,
  flush it to disk, then rename it. They replace nothing but a regular file.
- Files are opened as `inputs` does: regular ones alone, unpacked, decoded.
- Errors in JSON Lines name the file and row. An object with a key that comes twice is refused.
- Public outputs can be given one constant time (`settle`).

Does not: lock. One process writes a run directory at a time (`pipeline.directory.lock`).
"""

import hashlib
import json
import os
import secrets
import stat
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, overload

from privcode.errors import UserError, why
from privcode.inputs import (
    NO_MARK,
    NOT_UTF8,
    UNPACKING,
    decoded,
    open_input,
    open_regular,
    text_lines,
)
from privcode.outputs import check_output, deliver, is_stdout
from privcode.plain import is_text, once, parse_object, read_plain, shown

Row = dict[str, Any]

PUBLIC_TIME = 315_532_800
"""The time of all public files and folders: 1 January 1980 (UTC), the earliest in zip files."""
CODE = 16 << 20
"""The most bytes in a file of code."""
DOCUMENT = 1 << 30
"""The most bytes in a file that is read as a whole, after unpacking."""

_EACH_LINE = "each line must be one JSON object"
_REFUSED = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter",
    "inline_container",
)


def failed_write(error: BaseException) -> str | None:
    """Why the disk refused a write, if that is what `error` is, whatever its class.

    torch's zip writer raises a RuntimeError, safetensors an error of its own, tokenizers a bare
    Exception.
    """
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError):
            return why(at)
        if any(sign in str(at) for sign in _REFUSED):
            return "the disk took only a part"
        at = at.__cause__ or at.__context__
    return None


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk: a new or renamed file in it survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, or take the one that is there, mode 0700.

    Raises:
        UserError: it is a link, is not a folder, belongs to another user, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UserError(
                f"{path}: is a link; private files go into a folder of its own: remove the link"
            )
        if found.st_uid != os.geteuid():
            raise UserError(
                f"{path}: belongs to another user, who could read what is private; remove it or "
                "choose another directory"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except FileExistsError:
        raise UserError(f"{path}: is in the way and no folder; move it elsewhere") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be made ({why(error)}); choose another directory"
        ) from error


def write_with(path: Path, write: Callable[[IO[bytes]], object], mode: int = 0o644) -> None:
    """Call `write` on a temporary file next to `path`, then rename it into place.

    A link to a regular file stays a link, and its target is replaced. Standard output gets all
    that was written, or nothing.

    Raises:
        UserError: the disk is full, the directory cannot be written, or `path` is not a regular
            file.
    """
    try:
        if is_stdout(path):
            with tempfile.TemporaryFile() as file:
                write(file)
                file.seek(0)
                deliver(iter(partial(file.read, 1 << 20), b""))
            return
        target = check_output(path)
        temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.tmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            check_output(path)  # something may have come there while the content was made
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({why(error)}); free space or choose another directory"
        ) from error


def settle(root: Path) -> None:
    """Give `root`, and the public files and folders below it, one constant time.

    Times of writing reveal how long reading and training took, which depends on the records. A
    folder called `private` gets the time too, because anybody can see the folder's own time. The
    files in it do not. The system's times of change and of birth cannot be set.
    """
    for folder, folders, files in os.walk(root):
        for name in (".", *folders, *files):
            os.utime(Path(folder, name), (PUBLIC_TIME, PUBLIC_TIME), follow_symlinks=False)
        folders[:] = [name for name in folders if name != "private"]
    if root.is_file():
        os.utime(root, (PUBLIC_TIME, PUBLIC_TIME))


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode(), mode)


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write bytes atomically."""
    write_with(path, lambda file: file.write(data), mode)


def write_json(path: Path, value: object, mode: int = 0o644) -> None:
    """Write indented JSON atomically. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", mode)


def _sealed(value: Row) -> str:
    body = {key: entry for key, entry in value.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    body["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_sealed(path: Path, value: Row, mode: int = 0o644) -> None:
    """Write a JSON object with a digest over itself, in the one form that `read_sealed` accepts."""
    write_text(path, _sealed(value), mode)


def read_sealed(path: Path) -> Row:
    """Read what `write_sealed` wrote.

    The digest shows damage, not forgery: whoever can write the file can seal it again.

    Raises:
        UserError: the file is missing, or any byte of it was changed.
    """
    data = read_plain(path)
    value = parse_object(data, shown(path))
    if data != _sealed(value).encode():
        raise UserError(f"{path}: was changed after it was written; restore it")
    return value


def jsonl_line(row: object) -> str:
    """One row as one line of JSON Lines, newline included.

    A row with half a surrogate pair, which no UTF-8 has, is written with escapes alone.
    """
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return (line if is_text(line) else json.dumps(row, allow_nan=False)) + "\n"


HALF = "has half a surrogate pair"
"""What is wrong with text that JSON can spell and UTF-8 cannot hold."""


def unwritable(value: object) -> str:
    """Why `value`, which was read from JSON, cannot be written as JSON. Empty if it can."""
    try:
        if not is_text(json.dumps(value, ensure_ascii=False, allow_nan=False)):
            return HALF
    except ValueError:
        return "is NaN or infinite, which is not JSON"
    except RecursionError:
        return "is nested too deeply"
    return ""


def write_jsonl(path: Path, rows: Iterable[object], mode: int = 0o644) -> None:
    """Write JSON Lines atomically."""
    write_with(path, lambda file: file.writelines(jsonl_line(r).encode() for r in rows), mode)


def loads(text: str) -> Any:
    """The value of one JSON document.

    Raises:
        ValueError: it is not JSON, or a key comes twice in an object. The message quotes nothing.
        RecursionError: it is nested too deeply.
    """
    return _DECODER.decode(text)


_DECODER = json.JSONDecoder(object_pairs_hook=once)


def not_json(error: Exception) -> str:
    """What is wrong with a JSON document, in words that quote nothing of it."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return str(error) if "twice" in str(error) else "too long or too deep"


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, row). Blank lines are skipped but counted.

    Raises:
        UserError: what `text_lines` raises; a line is not a JSON object; an object has a key twice.
    """
    for number, line in text_lines(path, _EACH_LINE):
        if not line.strip():
            continue
        try:
            row = loads(line)
        except (ValueError, RecursionError) as error:  # also numbers too long to read
            wrong = NO_MARK if "\0" in line else f"not valid JSON ({not_json(error)}); {_EACH_LINE}"
            raise UserError(f"{path}, row {number}: {wrong}") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, row {number}: is a {type(row).__name__}, not a JSON object; {_EACH_LINE}"
            )
        yield number, row


class Lines(Sequence[Row]):
    """The rows of a JSON Lines file, read when they are asked for. Slices are lists.

    Memory holds one number for every `_EVERY` rows.
    """

    def __init__(self, path: Path) -> None:
        """Read the file once.

        Raises:
            UserError: see `read_jsonl`.
        """
        self._path, self._starts = path, array("q")
        self._count = sum(1 for _ in read_jsonl(path))
        seen = at = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    if seen % _EVERY == 0:
                        self._starts.append(at)
                    seen += 1
                at += len(line)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        wanted = range(self._count)[index]
        if isinstance(wanted, int):
            return self[wanted : wanted + 1][0]
        if wanted.step != 1 or not wanted:
            return [self[i] for i in wanted]
        with self._path.open("rb") as file:
            file.seek(self._starts[wanted.start // _EVERY])
            lines = islice((line for line in file if line.strip()), wanted.start % _EVERY, None)
            return [loads(line.decode()) for line in islice(lines, len(wanted))]

    def __iter__(self) -> Iterator[Row]:
        return (row for _, row in read_jsonl(self._path))


_EVERY = 256


def read_bytes(path: Path, most: int = DOCUMENT, *, unpack: bool = True) -> bytes:
    """The content of a file of at most `most` bytes, by default unpacked as its name says.

    Raises:
        UserError: the file is missing, not a regular one, packed in another way, or too large.
    """
    try:
        with open_input(path) if unpack else open_regular(path) as file:
            content: bytes = file.read(most + 1)
    except UNPACKING as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from error
    if len(content) > most:
        raise UserError(f"{path}: is larger than {most / 2**20:g} MB; name a smaller file")
    return content


def read_text(path: Path, most: int = DOCUMENT) -> str:
    """Read text, as `inputs` decodes it.

    Raises:
        UserError: as `read_bytes`, or the file is not UTF-8.
    """
    try:
        return decoded(read_bytes(path, most))
    except UnicodeDecodeError:
        raise UserError(f"{path}: {NOT_UTF8}") from None


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            raise UserError(
                f"{path}: begins a second value, as JSON Lines; name it .jsonl"
            ) from None
        raise UserError(f"{path}: is not valid JSON ({not_json(error)})") from None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        UserError: the file is missing or not a regular one.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(root: Path) -> dict[str, str]:
    """Relative path -> hex SHA-256 for every file below `root`, sorted by path."""
    return {
        str(path.relative_to(root)): sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
