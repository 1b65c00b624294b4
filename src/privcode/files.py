"""Small file habits shared by every stage.

Promises: a file appears whole or not at all (`write_*` go to a temporary name in the same
directory, are flushed to disk, then renamed); JSON Lines errors name the file and row; public
outputs can be given one constant time (`settle`).
Does not: lock; one process writes a run directory at a time (`run.py` sees to that).
"""

import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from privcode.errors import UserError
from privcode.plain import parse_object, read_plain, shown

Row = dict[str, Any]

PUBLIC_TIME = 315_532_800
"""Of every public file and folder: 1 January 1980 (UTC), the earliest that zip files can state."""

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
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "free space or choose another directory"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def settle(root: Path) -> None:
    """Give `root`, and the public files and folders below it, one constant time.

    When something was written tells how long reading and training took, which depends on the
    records. A folder called `private` gets the time too, as anybody can see its own; what lies in
    it does not. The system's times of change and of birth cannot be set.
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
    data = read_plain(path)
    value = parse_object(data, shown(path))
    if data != _sealed(value).encode():
        raise UserError(f"{path}: was changed after it was written; restore it")
    return value


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
