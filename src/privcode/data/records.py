"""Records: one (prompt, completion) pair each, with its unit and language.

Promises:
- A record is a whole row, never cut or joined.
- Which of a unit's records `bound_contributions` keeps depends on that unit alone.
- Records lie on disk (`arrow`). Memory holds a few numbers for each.

Does not: read a source of private data (`reading` does).
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa

from privcode.data.arrow import Table, write
from privcode.data.units import Names, Units, numbered, numbered_names
from privcode.errors import UserError


class Unit(NamedTuple):
    """Whose a record is: a kind and, within that kind, a name.

    The kind separates what privcode makes up from real owners. An owner's name may be any text,
    even "canary-1-1".
    """

    kind: Literal["owner", "row", "canary", "coin canary"]
    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """One whole private pair. `row` is its number in the source, from 1, header not counted."""

    prompt: str
    completion: str
    language: str | None
    unit: Unit
    row: int


_SCHEMA = pa.schema(
    [
        ("prompt", pa.large_string()),
        ("completion", pa.large_string()),
        ("language", pa.string()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("row", pa.int64()),
    ]
)


class Records(Sequence[Record]):
    """Records that lie on disk, and after them a few that lie in memory. `stored` makes them.

    Attributes:
        unit_numbers: [records] int64, equal where two records belong to one unit.
    """

    def __init__(
        self,
        table: Table,
        numbers: np.ndarray,
        index: np.ndarray | None = None,
        more: tuple[Record, ...] = (),
    ) -> None:
        """Use `stored`.

        Args:
            table: rows of records.
            numbers: [rows] the unit of each, as a number.
            index: the rows that belong to these records, ascending. None for all.
            more: records of other units that come last.
        """
        self._table, self._numbers, self._index, self._more = table, numbers, index, more
        self._own = len(table) if index is None else len(index)

    def __len__(self) -> int:
        return self._own + len(self._more)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Records": ...
    def __getitem__(self, index: "int | slice") -> "Record | Records":
        places = range(len(self))[index]
        if isinstance(places, range):
            if places.step != 1:
                raise ValueError("records are taken in their order: a step is 1")
            own = range(min(places.start, self._own), min(places.stop, self._own))
            after = slice(max(places.start - self._own, 0), max(places.stop - self._own, 0))
            whole = len(own) == self._own
            kept = self._index if whole else self._rows()[own.start : own.stop]
            return Records(self._table, self._numbers, kept, self._more[after])
        if places >= self._own:
            return self._more[places - self._own]
        return _record(*self._table[places if self._index is None else int(self._index[places])])

    def __iter__(self) -> Iterator[Record]:
        for fields in self._table.rows(self._index):
            yield _record(*fields)
        yield from self._more

    def texts(self) -> Iterator[tuple[str, str]]:
        """The prompt and the completion of each."""
        yield from self._table.rows(self._index, ("prompt", "completion"))
        yield from ((one.prompt, one.completion) for one in self._more)

    @property
    def unit_numbers(self) -> np.ndarray:
        """See the class."""
        own = self._numbers if self._index is None else self._numbers[self._index]
        if not self._more:
            return own
        first = int(self._numbers.max(initial=-1)) + 1
        return np.concatenate([own, first + numbered_names(one.unit for one in self._more)])

    def where(self, chosen: np.ndarray) -> "Records":
        """Those for which `chosen`, [records] bool, holds."""
        if self._more:
            raise ValueError("choose before other records are put after these")
        return Records(self._table, self._numbers, self._rows()[chosen])

    def followed_by(self, more: Sequence[Record]) -> "Records":
        """These, and then made-up records, which have units of their own."""
        if any(one.unit.kind in ("owner", "row") for one in more):
            raise ValueError("only made-up records follow: their units are no one else's")
        return Records(self._table, self._numbers, self._index, (*self._more, *more))

    def _rows(self) -> np.ndarray:
        return np.arange(self._own) if self._index is None else self._index


def _record(
    prompt: str,
    completion: str,
    language: str | None,
    kind: Literal["owner", "row", "canary", "coin canary"],
    name: str,
    row: int,
) -> Record:
    return Record(prompt, completion, language, Unit(kind, name), row)


def stored(records: Iterable[Record], folder: Path | None = None) -> Records:
    """Put records into a nameless file in `folder`. Default: where temporary files lie.

    Raises:
        UserError: the file cannot be written.
    """
    names = Names()

    def fields() -> Iterator[tuple[str | int | None, ...]]:
        for one in records:
            kind, name = one.unit
            names.add(kind, name)
            yield one.prompt, one.completion, one.language, kind, name, one.row

    table = write(fields(), _SCHEMA, folder)
    return Records(table, names.numbered())


def units_of(records: Sequence[Record]) -> Units:
    """The indices of each unit's records, with the units in order of first appearance."""
    return Units(numbered(unit_numbers(records)))


def unit_numbers(records: Sequence[Record]) -> np.ndarray:
    """[records] int64, equal where two records belong to one unit."""
    known: np.ndarray | None = getattr(records, "unit_numbers", None)
    return numbered_names(record.unit for record in records) if known is None else known


def bound_contributions(records: Records, max_per_unit: int, seed: int) -> tuple[Records, int]:
    """Keep at most `max_per_unit` records of each unit, in their order, and count the rest.

    A unit's records are ranked by a hash of the seed, the unit and the record's own content. Row
    numbers and running generators play no part. So adding or removing another unit changes nothing
    here, as unit-level neighbours require. Among exact duplicates, the earlier row is kept.

    Raises:
        UserError: `max_per_unit` is below 1.
    """
    if max_per_unit < 1:
        raise UserError("the bound on records per unit must be at least 1")
    key = str(seed).encode()

    def rank(index: int) -> tuple[bytes, int]:
        one = records[index]
        content = json.dumps([one.unit.name, one.prompt, one.completion, one.language])
        return hmac.digest(key, content.encode(), hashlib.sha256), index

    units = units_of(records)
    kept = np.ones(len(records), bool)
    for unit in np.flatnonzero(units.sizes > max_per_unit).tolist():
        ranked = sorted(map(rank, units[unit]))
        kept[[index for _, index in ranked[max_per_unit:]]] = False
    return records if kept.all() else records.where(kept), int(np.count_nonzero(~kept))


def hold_out(records: Records, share: float, seed: int) -> tuple[Records, Records]:
    """The records to train on, and those of about a `share` of the units, left out whole.

    A hash of the seed and of a unit's own records decides whether it is left out. Nothing else
    does: not the number of units, and not row numbers or names made of them, which adding a unit
    would shift. So two data sets that differ in one unit leave out the same units, apart from that
    one. The training data then differ in that unit or not at all. The mechanism's guarantee
    therefore carries over unchanged. (The sampling rate comes from the declared number of units
    and does not change.) Units with the same content share their fate.
    """
    key = f"privcode holdout {seed}".encode()

    def left_out(members: list[Record]) -> bool:
        content = sorted(json.dumps([one.prompt, one.completion, one.language]) for one in members)
        digest = hmac.digest(key, "\0".join(content).encode(), hashlib.sha256)
        return int.from_bytes(digest[:8], "big") < share * 2**64

    chosen = np.zeros(len(records), bool)
    if share > 0:
        units = units_of(records)
        alone = len(units) == len(records)  # then one pass in their order is enough
        each = ([one] for one in records) if alone else ([records[i] for i in u] for u in units)
        for unit, members in enumerate(each):
            if left_out(members):
                chosen[units[unit]] = True
    trained = records.where(~chosen) if chosen.any() else records
    return trained, records.where(chosen)
