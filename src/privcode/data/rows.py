"""Rows of a source in any form: JSON Lines, JSON, CSV, Parquet, a `datasets` folder, the hub.

Promises:
- Files on disk are read in place, with no copy in a cache.
- For a source that cannot be read, the error is one line that names the source and the fix. It
  quotes nothing of the source. It does not even quote the names of columns: without a header, these
  are a record.
- A key or a column that comes twice is refused, because one of the two would win.

Does not: look into a row.
"""

import csv
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from privcode.errors import UserError
from privcode.files import Row, loads, not_json, open_regular, read_bytes, read_jsonl
from privcode.outputs import kind_of

_FIELD = 64 << 20
"""The most bytes in a field of CSV."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_rows(source: str) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, row) from a file, a saved `datasets` folder or a hub name.

    Files: .jsonl and .json (a list of objects), both also .gz, .csv, .parquet. For JSON Lines, the
    number is that of the line. `FOLDER:SPLIT` and `OWNER/NAME:SPLIT` choose a split (default
    train).

    Raises:
        UserError: missing or unreadable source, bad UTF-8 or JSON, unknown suffix, no row.
    """
    number = 0
    try:
        for number, row in _open_rows(source):
            yield number, row
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
        # The kind only: a parser's own message may quote the text that it met.
        raise UserError(
            f"{source}, after row {number}: cannot be read ({type(error).__name__}); check that "
            "the file is whole and readable"
        ) from None
    if number == 0:
        raise UserError(f"{source}: holds no row; name a file with at least one")


def is_local(source: str) -> bool:
    """Whether `source` is a file or folder here, not a name on the hub or nothing."""
    return stat.S_ISREG(_mode(source)) or stat.S_ISDIR(_mode(source.partition(":")[0]))


def _open_rows(source: str) -> Iterator[tuple[int, Row]]:
    path = Path(source)
    mode = _mode(source)
    if stat.S_ISREG(mode):
        read = next((_READERS[end] for end in _READERS if path.name.endswith(end)), None)
        if read is None:
            raise UserError(
                f"{source}: unknown kind of file; use .jsonl, .jsonl.gz, .json, .json.gz, .csv "
                "or .parquet"
            )
        return read(path)
    if mode and not stat.S_ISDIR(mode):
        raise UserError(f"{source}: is {kind_of(mode)}, not a regular file; name a file")
    name, _, split = source.partition(":")
    if stat.S_ISDIR(_mode(name)):
        return _read_folder(name, split or "train")
    # A mistyped local path must not be sent to the hub as a name.
    local = name.endswith((*_READERS, ".gz", ".txt")) or stat.S_ISDIR(_mode(Path(name).parent))
    if _HUB_NAME.fullmatch(name) and not local:
        return _read_hub(name, split or "train")
    raise UserError(f"{source}: no such file or folder; give a path, or OWNER/NAME on the hub")


def _mode(path: Path | str) -> int:
    """The mode of what is at `path`, 0 where nothing is, or nothing can be."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = loads(read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid UTF-8; re-encode the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(
            f"{path}{line}: not valid JSON ({not_json(error)}); the file must be a list of "
            "objects, or be named .jsonl"
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
    csv.field_size_limit(_FIELD)  # the default refuses a field of 128 KiB
    number = 0
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(_lines(path, file), strict=True)
            _no_twins(path, rows.fieldnames or ())
            for number, row in enumerate(rows, start=1):
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


def _lines(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    for line in iter(partial(file.readline, _FIELD + 1), ""):
        if len(line) > _FIELD:
            raise UserError(f"{path}: has a line of over {_FIELD >> 20} MB; is it CSV?")
        yield line


def _no_twins(path: Path, names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if first.setdefault(name, number) != number:
            raise UserError(
                f"{path}, header: columns {first[name]} and {number} have the same name; give each "
                "column its own, in a first line of names"
            )


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with open_regular(path) as raw:
            file = pq.ParquetFile(raw)
            _no_twins(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except OverflowError:
        raise UserError(
            f"{path}, after row {number}: has a date or time outside the years 1 to 9999; write "
            "that column as text, or leave it out"
        ) from None
    except pa.ArrowException:
        raise UserError(f"{path}: is not a readable Parquet file; write it again") from None


def _datasets() -> Any:
    """The library without its progress bars, which would count private records in any log."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _read_folder(name: str, split: str) -> Iterator[tuple[int, Row]]:
    datasets = _datasets()
    for path in Path(name).rglob("*"):
        if not stat.S_ISDIR(mode := _mode(path)) and not stat.S_ISREG(mode):
            raise UserError(f"{path}: is {kind_of(mode)}, not a regular file; name a file")
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
    except Exception as error:  # the hub client raises more kinds of errors than it documents
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
