"""Rows of a source in any form: files, folders of shards, a `datasets` folder, the hub.

Promises:
- Files on disk are read in place, with no copy in a cache.
- For a source that cannot be read, the error is one line that names the source and the fix. It
  quotes nothing of the source. It does not even quote the names of columns: without a header, these
  are a record.
- A key or a column that comes twice is refused, because one of the two would win.

Does not: look into a row.
"""

import csv
import glob
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from privcode.errors import UserError
from privcode.files import Row, loads, not_json, read_bytes, read_jsonl
from privcode.inputs import NO_MARK, NOT_UTF8, decoded, open_regular, open_text, unpacked_name
from privcode.outputs import kind_of

KINDS = ".jsonl, .json, .csv or .tsv (each also .gz or .zst), or .parquet"
"""The files that are read, in words."""

_FIELD = 64 << 20
"""The most bytes in a field of CSV."""
_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""What `save_to_disk` writes."""
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z0-9])", re.IGNORECASE)
_DOCUMENT = re.compile(r"^(readme|license|notice)|\.(md|txt|ya?ml|html)$", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".parquet")
_ARCHIVES = (".gz", ".bz2", ".xz", ".zip", ".7z", ".tar", ".tgz")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_rows(source: str) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, row) from files, a saved `datasets` folder or a hub name.

    Files: see `KINDS`. For JSON Lines, the number is that of the line. A folder of files, or a
    pattern like `data/*.parquet`, is read in the order of the names, and numbers go on from one
    file to the next. `FOLDER:SPLIT` and `OWNER/NAME:SPLIT` choose a split (default train).

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
    return bool(files_of(source)) or stat.S_ISDIR(_mode(source.partition(":")[0]))


def files_of(source: str) -> list[Path]:
    """The files of a source that is a file, a pattern or a folder of files, in their order.

    Empty for any other source.
    """
    if stat.S_ISREG(_mode(source)):
        return [Path(source)]
    if _is_pattern(source):
        found = map(Path, sorted(glob.glob(source, recursive=True)))
        return [path for path in found if not stat.S_ISDIR(_mode(path))]
    name, _, split = source.partition(":")
    folder = Path(name)
    if not stat.S_ISDIR(_mode(name)) or any(os.path.exists(folder / made) for made in _SAVED):
        return []
    of_split = re.compile(rf"{re.escape(split)}(?![a-z0-9])" if split else "", re.IGNORECASE)
    return [path for path in _inside(folder) if kind_of_file(path) and of_split.match(path.name)]


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what is hidden. Empty if it may not be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] not in "._")
    except OSError:
        return []


def located(source: str, folder: Path) -> str:
    """`source`, from which a relative name starts at `folder`. Other sources are unchanged."""
    if _is_pattern(source):
        pattern = os.path.join(glob.escape(str(folder)), source)
        return pattern if files_of(pattern) else source
    name = source if os.path.lexists(folder / source) else source.partition(":")[0]
    return str(folder / source) if name and os.path.exists(folder / name) else source


def _is_pattern(source: str) -> bool:
    there = any(map(os.path.lexists, (source, source.partition(":")[0])))
    return glob.has_magic(source) and not there


def kind_of_file(path: Path) -> str | None:
    """The suffix by which a file is read, as in `_READERS`. None if it is not."""
    end = Path(unpacked_name(path)).suffix
    packed = unpacked_name(path) != path.name.lower()
    return end if end in _READERS and not (packed and end == ".parquet") else None


def _read_file(path: Path) -> Iterator[tuple[int, Row]]:
    if kind := kind_of_file(path):
        return _READERS[kind](path)
    if path.name.lower().endswith(_ARCHIVES):
        raise UserError(f"{path}: is packed; unpack it, and name what was in it")
    raise UserError(f"{path}: unknown kind of file; use {KINDS}")


def _open_rows(source: str) -> Iterator[tuple[int, Row]]:
    mode = _mode(source)
    if stat.S_ISREG(mode):
        return _read_file(Path(source))
    if mode and not stat.S_ISDIR(mode):
        raise UserError(f"{source}: is {kind_of(mode)}, not a regular file; name a file")
    if files := files_of(source):
        return _read_shards(source, files)
    if _is_pattern(source):
        raise UserError(f"{source}: no file has such a name; check the pattern")
    name, _, split = source.partition(":")
    if stat.S_ISDIR(_mode(name)):
        return _read_saved(name, split or "train")
    # A mistyped local path must not be sent to the hub as a name.
    local = name.lower().endswith((*_READERS, *_ARCHIVES, ".zst", ".txt"))
    local = local or stat.S_ISDIR(_mode(Path(name).parent))
    if _HUB_NAME.fullmatch(name) and not local:
        return _read_hub(name, split or "train")
    raise UserError(f"{source}: no such file or folder; give a path, or OWNER/NAME on the hub")


def _read_shards(source: str, files: Sequence[Path]) -> Iterator[tuple[int, Row]]:
    """The rows of all files, one after the other."""
    if stat.S_ISDIR(_mode(folder := source.partition(":")[0])):
        _refuse_mixture(Path(folder), files)
    elif len({kind_of_file(path) for path in files}) > 1:
        raise UserError(f"{source}: fits files of several kinds; name those of one")
    columns: set[str] = set()
    last = 0
    for path in files:
        before = last
        for number, row in _read_file(path):
            if last == before and kind_of_file(path) in _TABLES:
                columns = columns or set(row)
                if columns != set(row):
                    raise UserError(
                        f"{path}: has other columns than {files[0].name}; give all the same, or "
                        "name the files of one kind"
                    )
            last = before + number
            yield last, row


def _refuse_mixture(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a folder of which not all would be read, or of which splits would be mixed."""
    kinds = {kind_of_file(path) for path in files}
    others = [
        path for path in _inside(folder) if not (kind_of_file(path) or _DOCUMENT.search(path.name))
    ]
    if len(kinds) > 1 or others:
        raise UserError(
            f"{folder}: holds files of several kinds, or folders; name those to read, as "
            f"{folder}/*{kind_of_file(files[0])}"
        )
    splits = {found[0].lower() for path in files if (found := _SPLIT.match(path.name))}
    if len(splits) > 1:
        raise UserError(
            f"{folder}: holds the splits {', '.join(sorted(splits))}; name one, as {folder}:train"
        )


def _mode(path: Path | str) -> int:
    """The mode of what is at `path`, 0 where nothing is, or nothing can be."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _read_json(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = loads(decoded(read_bytes(path)))
    except UnicodeDecodeError:
        raise UserError(f"{path}: {NOT_UTF8}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(_not_a_document(path, error)) from None
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 and lists[0] and isinstance(lists[0][0], dict) else rows
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: is not a list of objects; wrap the rows in [ ] (pandas: to_json with "
            "orient='records')"
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, row {number}: is a {type(row).__name__}; every row must be an object"
            )
        yield number, row


def _not_a_document(path: Path, error: Exception) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"{path}: not valid JSON ({not_json(error)}); the file must be a list of objects"
    if error.doc[error.pos :][:1] == "\0" or error.doc[:2].endswith("\0"):
        return f"{path}: {NO_MARK}"
    if error.msg == "Extra data":
        return f"{path}, line {error.lineno}: begins a second value, as JSON Lines; name it .jsonl"
    return (
        f"{path}, line {error.lineno}: not valid JSON ({error.msg}); the file must be a list of "
        "objects, or be named .jsonl"
    )


def _read_csv(path: Path, separator: str = ",") -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(_FIELD)  # the default refuses a field of 128 KiB
    number = 0
    try:
        with open_text(path) as file:
            rows = csv.DictReader(_lines(path, file), strict=True, delimiter=separator)
            _check_header(path, rows.fieldnames or (), separator)
            for number, row in enumerate(rows, start=1):
                if None in row:
                    raise UserError(
                        f"{path}, row {number}: has more fields than the header; quote fields with "
                        f"{_SEPARATORS[separator]} inside"
                    )
                yield number, row
    except UnicodeDecodeError:
        raise UserError(f"{path}, after row {number}: {NOT_UTF8}") from None
    except csv.Error as error:
        raise UserError(
            f'{path}, row {number + 1}: not valid CSV ({error}); quote fields with " and double '
            "the quotes inside"
        ) from None


_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}


def _check_header(path: Path, names: Sequence[str], separator: str) -> None:
    _no_twins(path, names)
    if any("\0" in name for name in names):
        raise UserError(f"{path}, header: {NO_MARK}")
    for other, word in _SEPARATORS.items():
        if len(names) == 1 and other != separator and other in names[0]:
            remedy = {",": "name it .csv", "\t": "name it .tsv"}.get(
                other, "write it again with commas"
            )
            raise UserError(f"{path}, header: its columns are separated by {word}; {remedy}")


def _lines(path: Path, file: TextIOWrapper) -> Iterator[str]:
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


def _read_saved(name: str, split: str) -> Iterator[tuple[int, Row]]:
    datasets = _datasets()
    for path in Path(name).rglob("*"):
        if not stat.S_ISDIR(mode := _mode(path)) and not stat.S_ISREG(mode):
            raise UserError(f"{path}: is {kind_of(mode)}, not a regular file; name a file")
    try:
        data = datasets.load_from_disk(name)
    except FileNotFoundError:
        raise UserError(
            f"{name}: is not a folder saved by datasets, and holds no file that is read; name a "
            f"file, a pattern or a folder of {KINDS}"
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
    ".ndjson": read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, separator="\t"),
    ".parquet": _read_parquet,
}
