"""Rows of a source in any form: JSON Lines, JSON, CSV, Parquet, a `datasets` folder, the hub.

Promises: files on disk are read in place, with no copy in a cache; a source that cannot be read is
one line that names it and the mend, and quotes nothing of it.
Does not: look into a row.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from privcode.errors import UserError
from privcode.files import Row, read_jsonl

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_rows(source: str) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, row) from a file, a saved `datasets` folder or a hub name.

    Files: .jsonl and .json (a list of objects), both also .gz, .csv, .parquet. For JSON Lines the
    number is the line's. `FOLDER:SPLIT` and `OWNER/NAME:SPLIT` choose a split (default train).

    Raises:
        UserError: missing or unreadable source, bad UTF-8 or JSON, unknown suffix, no row.
    """
    number = 0
    try:
        for number, row in _open_rows(source):
            yield number, row
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
        # The kind only: a parser's own message may quote the text it met.
        raise UserError(
            f"{source}, after row {number}: cannot be read ({type(error).__name__}); check that "
            "the file is whole and readable"
        ) from None
    if number == 0:
        raise UserError(f"{source}: holds no row; name a file with at least one")


def is_local(source: str) -> bool:
    """Whether `source` is a file or folder here, rather than a name on the hub or nothing."""
    return Path(source).is_file() or Path(source.partition(":")[0]).is_dir()


def _open_rows(source: str) -> Iterator[tuple[int, Row]]:
    path = Path(source)
    if path.is_file():
        read = next((_READERS[end] for end in _READERS if path.name.endswith(end)), None)
        if read is None:
            raise UserError(
                f"{source}: unknown kind of file; use .jsonl, .jsonl.gz, .json, .json.gz, .csv "
                "or .parquet"
            )
        return read(path)
    name, _, split = source.partition(":")
    if Path(name).is_dir():
        return _read_folder(name, split or "train")
    # A mistyped local path must not be sent to the hub as a name.
    local = name.endswith((*_READERS, ".gz", ".txt")) or Path(name).parent.is_dir()
    if _HUB_NAME.fullmatch(name) and not local:
        return _read_hub(name, split or "train")
    raise UserError(f"{source}: no such file or folder; give a path, or OWNER/NAME on the hub")


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content: bytes = file.read()
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid UTF-8; re-encode the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); the file must be a list "
            "of objects, or be named .jsonl"
        ) from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: is not a list of objects; wrap the rows in [ ]")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, row {number}: is a {type(row).__name__}; every row must be an object"
            )
        yield number, row


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses a field of 128 KiB
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), start=1):
                if None in row:
                    raise UserError(
                        f"{path}, row {number}: has more fields than the header; quote the commas"
                    )
                yield number, row
    except UnicodeDecodeError:
        raise UserError(
            f"{path}, after row {number}: not valid UTF-8; re-encode the file as UTF-8"
        ) from None
    except csv.Error as error:
        raise UserError(
            f'{path}, row {number + 1}: not valid CSV ({error}); quote fields with " and double '
            "the quotes inside"
        ) from None


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowException:
        raise UserError(f"{path}: is not a readable Parquet file; write it again") from None


def _datasets() -> Any:
    """The library, without its bars, which count private records in whatever log there is."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _read_folder(name: str, split: str) -> Iterator[tuple[int, Row]]:
    datasets = _datasets()
    try:
        data = datasets.load_from_disk(name)
    except FileNotFoundError:
        raise UserError(
            f"{name}: is not a folder saved by datasets; name a file in it, or use save_to_disk"
        ) from None
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(f"{name}: has no split {split}; choose one of {', '.join(data)}")
        data = data[split]
    yield from enumerate(data.with_format(None), start=1)  # a saved format may be pandas


def _read_hub(name: str, split: str) -> Iterator[tuple[int, Row]]:
    datasets = _datasets()
    try:
        data = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub client raises more kinds than it documents
        raise UserError(
            f"{name}, split {split}: cannot be loaded from the hub ({type(error).__name__}); check "
            "the name, the split and the network, or give a local file"
        ) from error
    yield from enumerate(data, start=1)


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".json": _read_json,
    ".json.gz": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
