"""Small file habits shared by every stage.

Promises: a file appears whole or not at all (`write_*` go to a temporary name in the same
directory, are flushed to disk, then renamed); JSON Lines errors name the file and row.
Does not: lock; one process writes a run directory at a time (`run.py` sees to that).
"""

import hashlib
import json
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from privcode.errors import UserError

Row = dict[str, Any]

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
            return at.strerror or str(at)
        if any(sign in str(at) for sign in _REFUSED):
            return "the disk took only a part"
        at = at.__cause__ or at.__context__
    return None


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk: a new or renamed file in it is there after a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> None:
    """Make a folder that its owner alone may enter, or take the one that is there, mode 0700.

    Raises:
        UserError: it is a link, no folder or somebody else's, or cannot be made.
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
            f"{path}: cannot be made ({error.strerror or error}); choose another directory"
        ) from error


def write_with(path: Path, write: Callable[[IO[bytes]], object], mode: int = 0o644) -> None:
    """Call `write` on a temporary file beside `path`, then rename it into place.

    Raises:
        UserError: the disk is full or the directory cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free space or choose another directory"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode(), mode)


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write bytes atomically."""
    write_with(path, lambda file: file.write(data), mode)


def write_json(path: Path, value: object, mode: int = 0o644) -> None:
    """Write indented JSON atomically; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", mode)


def _sealed(value: Row) -> str:
    body = {key: entry for key, entry in value.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    body["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_sealed(path: Path, value: Row, mode: int = 0o644) -> None:
    """Write a JSON object with a digest over itself, in the one form `read_sealed` accepts."""
    write_text(path, _sealed(value), mode)


def read_sealed(path: Path) -> Row:
    """Read what `write_sealed` wrote.

    The digest shows damage, not forgery: whoever can write the file can seal it again.

    Raises:
        UserError: the file is missing, or any byte of it was changed.
    """
    value = read_json(path)
    try:
        whole = isinstance(value, dict) and path.read_bytes() == _sealed(value).encode()
    except ValueError:  # NaN, half a surrogate pair: never written here
        whole = False
    if not whole:
        raise UserError(f"{path}: was changed after it was written; restore it")
    sealed: Row = value
    return sealed


def jsonl_line(row: object) -> str:
    """One row as one line of JSON Lines, newline included."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[object], mode: int = 0o644) -> None:
    """Write JSON Lines atomically."""
    write_with(path, lambda file: file.writelines(jsonl_line(r).encode() for r in rows), mode)


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, row); blank lines are skipped but counted.

    Raises:
        UserError: the file is missing, a line is not UTF-8, or is not a JSON object.
    """
    import gzip

    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8"))
                except UnicodeDecodeError:
                    raise UserError(
                        f"{path}, row {number}: not valid UTF-8; re-encode the file as UTF-8"
                    ) from None
                except (ValueError, RecursionError) as error:  # also numbers too long to read
                    reason = getattr(error, "msg", "too long or too deep")
                    raise UserError(
                        f"{path}, row {number}: not valid JSON ({reason}); "
                        "each line must be one JSON object"
                    ) from None
                if not isinstance(row, dict):
                    raise UserError(
                        f"{path}, row {number}: is a {type(row).__name__}, not a JSON object; "
                        "each line must be one JSON object"
                    )
                yield number, row
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error


def read_text(path: Path) -> str:
    """Read UTF-8 text.

    Raises:
        UserError: the file is missing or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid UTF-8; re-encode the file as UTF-8") from None


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(root: Path) -> dict[str, str]:
    """Relative path -> hex SHA-256 for every file below `root`, sorted by path."""
    return {
        str(path.relative_to(root)): sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
