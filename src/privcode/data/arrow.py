"""Rows of text and numbers in an Arrow file without a name, mapped into memory.

Promises:
- The file has no name: nobody else can open it, and it is gone when the process ends, however it
  ends. So no half of it can be taken for whole, and no copy of private data is left behind.
- What is read of it are copies, but for `whole`. The pages behind them are given back, so memory
  does not grow with the number of rows, nor with the number of rows that were read.
- Threads may read at once.

Does not: know what a row means, or change one.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from privcode.errors import UserError, why

Fields = tuple[Any, ...]

ROWS = 1024
"""The most rows of a batch."""
CHARACTERS = 16 << 20
"""A batch ends with the row that reaches this many characters."""
_GIVE_BACK = 64
"""Batches read until their pages are given back."""


class Table:
    """Rows of one schema. `write` makes it."""

    def __init__(self, data: mmap.mmap | None, starts: np.ndarray) -> None:
        """Use `write`. `starts`: [batches + 1] the number of each batch's first row, then all."""
        self._data, self._starts = data, starts
        self._file: Any = None if data is None else pa.ipc.open_file(pa.py_buffer(data))
        self._read, self._lock = 0, Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Fields:
        """The row with this number, from 0."""
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        at = index - int(self._starts[batch])
        return tuple(column[at].as_py() for column in self._batch(batch).columns)

    def rows(
        self, indices: np.ndarray | None = None, names: Sequence[str] | None = None
    ) -> Iterator[Fields]:
        """The rows with these ascending numbers, one after the other. Default: all.

        `names`: the fields that are wanted. Default: all.
        """
        for batch, (first, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            wanted = None
            if indices is not None:
                here = indices[slice(*np.searchsorted(indices, (first, end)))]
                if not len(here):
                    continue
                wanted = here - first if len(here) < end - first else None
            found = self._batch(batch)
            found = found if names is None else found.select(names)
            found = found if wanted is None else found.take(pa.array(wanted))
            yield from zip(*(column.to_pylist() for column in found.columns), strict=True)

    def whole(self) -> Any:
        """All rows as a table of pyarrow, which takes them from the file. There must be some."""
        return self._file.read_all()

    def _batch(self, number: int) -> Any:
        with self._lock:
            self._read += 1
            if self._data is not None and self._read % _GIVE_BACK == 0:
                self._data.madvise(mmap.MADV_DONTNEED)  # they are read again where they are needed
            return self._file.get_batch(number)


def write(rows: Iterable[Fields], schema: Any, folder: Path | None = None) -> Table:
    """Put rows into a file without a name in `folder`, or where temporary files lie.

    Args:
        rows: a tuple for each, in the order of the schema's fields.
        schema: of pyarrow.
        folder: on a disk with room for all rows. The system's own may lie in memory.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    starts = [0]
    waiting = iter(rows)
    if (first := next(waiting, None)) is None:
        return Table(None, np.array(starts))
    try:
        # Private, mode 0600. Python opens it without a name, or removes its name at once.
        with tempfile.TemporaryFile(dir=folder) as file:
            with pa.ipc.new_file(file, schema) as out:
                for batch in _batches(chain([first], waiting)):
                    columns = zip(*batch, strict=True)
                    arrays = [
                        pa.array(list(column), field.type)
                        for column, field in zip(columns, schema, strict=True)
                    ]
                    out.write_batch(pa.record_batch(arrays, schema=schema))
                    starts.append(starts[-1] + len(batch))
            file.flush()
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise UserError(
            f"{where}: a copy of the records cannot be written there ({why(error)}); free "
            f"space{'' if folder else ', or set TMPDIR to a folder on a larger disk'}"
        ) from error
    with suppress(OSError):
        data.madvise(mmap.MADV_RANDOM)
    return Table(data, np.array(starts))


def _batches(rows: Iterable[Fields]) -> Iterator[list[Fields]]:
    batch: list[Fields] = []
    characters = 0
    for row in rows:
        batch.append(row)
        for value in row:
            if type(value) is str:
                characters += len(value)
        if len(batch) == ROWS or characters >= CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
