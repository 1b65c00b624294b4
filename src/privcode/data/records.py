"""Private data, read into records: one (prompt, completion) pair each, with its unit and language.

Promises:
- A row that cannot be used is refused with file, row, field and the remedy. If the caller asks for
  that, it is instead left out and counted by reason.
- A record is a whole row, never cut or joined.
- A record has one owner. A record with several owners is refused.
- Which of a unit's records `bound_contributions` keeps depends on that unit alone.
- Records are read once, in their order, and lie on disk (`arrow`). Memory holds a few numbers for
  each.

Does not:
- Quote a record in an error, or the names of columns: without a header, these are a record.
- Let one row decide how another is read.
- Guess the unit: the owner chooses whose privacy is protected.
- Repair text.

Counts in a `ReadReport` are private figures.
"""

import hashlib
import hmac
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa

from privcode.data.arrow import Table, write
from privcode.data.columns import (
    BadField,
    Columns,
    completion_text,
    guess_of_row,
    prompt_text,
    text_field,
    value_of,
)
from privcode.data.rows import read_rows
from privcode.data.units import Names, Units, numbered, numbered_names
from privcode.errors import UserError
from privcode.files import Row
from privcode.languages import canonical_language
from privcode.languages import languages as all_languages


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


@dataclass(frozen=True)
class ReadReport:
    """What reading did: rows seen, records kept, rows left out by reason, records by language."""

    rows: int
    kept: int
    left_out: Mapping[str, int]
    languages: Mapping[str, int]


SEVERAL_OWNERS = "several owners"
"""Why a row that belongs to no single unit cannot be used."""


def owner(row: Row, field: str) -> str:
    """The one owner named in a row's field: text, a whole number, or a list that names one.

    A record with several owners belongs to no single unit. Neither sampling nor clipping then
    bounds what each of them gives. If it were assigned to the first owner, it would also be data
    of the others, outside their bounds. A greedy choice (keep it while every owner has room) is no
    better. Without one owner, others have room for other rows, so neighbours differ in more than
    that owner's records. Leaving such a row out is sound, because that depends on the row alone.

    Raises:
        BadField: no owner, several, or none that can be recognised (text that spells a list).
    """
    value = value_of(row, field)
    if hasattr(value, "tolist"):  # an array, or a number or text from one
        return owner({field: value.tolist()}, field)
    if isinstance(value, (list, tuple)):
        names = {owner({field: name}, field) for name in value}
        if len(names) > 1:
            raise BadField(
                field,
                SEVERAL_OWNERS,
                "such a row belongs to no single unit, so neither sampling nor clipping can bound "
                "each owner's part; keep one owner per row, or leave such rows out with "
                "data.on_bad_row: skip",
            )
        return names.pop() if names else text_field({field: ""}, field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    name = text_field({field: _as_it_looks(text_field(row, field))}, field)
    if name.startswith("[") and name.endswith("]"):
        raise BadField(field, "a list written as text", "write one owner per row, or a real list")
    return name


@lru_cache(maxsize=1024)
def _as_it_looks(name: str) -> str:
    """Spellings that look the same are one: composed letters, invisible ones, white space."""
    text = unicodedata.normalize("NFKC", name)
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(text.split())


def _canonical(names: Collection[str]) -> frozenset[str]:
    canonical = {name: canonical_language(name) for name in names}
    for name, known in canonical.items():
        if known is None:
            raise UserError(f"language {name}: not known; use one of {', '.join(all_languages())}")
    return frozenset(known for known in canonical.values() if known)


def read_records(
    source: str,
    columns: Columns | None,
    *,
    language: str | None = None,
    languages: Collection[str] | None = None,
    contains: str | None = None,
    on_bad_row: Literal["refuse", "skip"] = "refuse",
    folder: Path | None = None,
    seen: Callable[[Record], object] = lambda record: None,
) -> tuple[Records, ReadReport]:
    """Read private records, once and in their order, and report what was left out.

    Args:
        source: see `read_rows`.
        columns: the source's columns; without `unit` each row is a unit (kind "row"). None
            guesses them from the names in each row alone.
        language: the language of all rows, where no column gives it.
        languages: keep only rows in these; others count as "other language", unknown names too.
        contains: keep only rows whose prompt or code contains this text, whatever its case;
            others count as "not selected".
        on_bad_row: "skip" leaves bad rows out, counted as "FIELD: REASON". A source that cannot
            be parsed is always refused.
        folder: see `stored`.
        seen: called with each record that is kept, in their order.

    Raises:
        UserError: what `read_rows` raises; a bad row (unless skipped): missing column, null, not a
            string, empty, broken Unicode, unknown language, no owner or several; no row left; the
            records cannot be written to `folder`.
    """
    given = next(iter(_canonical([language])), None) if language else None
    wanted = None if languages is None else _canonical(languages)
    left_out: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    rows = 0

    def read(number: int, row: Row) -> Record | str:
        """The record in a row, or why the row is left out."""
        named = columns or guess_of_row(row)
        if named is None:
            raise BadField(
                "prompt and code", "no known pair of columns", "name them in data.columns"
            )
        name = text_field(row, named.language) if named.language else None
        spoken = canonical_language(name) if name else given
        if wanted is not None and spoken not in wanted:
            return "other language"
        if named.language and spoken is None:
            raise BadField(
                named.language,
                "unknown language",
                f"use {', '.join(all_languages())}, or keep only some with data.languages",
            )
        record = Record(
            prompt=prompt_text(row, named),
            completion=completion_text(row, named),
            language=spoken,
            unit=Unit("owner", owner(row, named.unit))
            if named.unit
            else Unit("row", f"row-{number}"),
            row=number,
        )
        if (
            contains
            and contains.casefold() not in f"{record.prompt}\0{record.completion}".casefold()
        ):
            return "not selected"
        return record

    def each() -> Iterator[Record]:
        nonlocal rows
        for number, row in read_rows(source):
            rows += 1
            try:
                found = read(number, row)
            except BadField as bad:
                if on_bad_row == "refuse":
                    raise bad.at(source, number) from None
                found = f"{bad.field}: {bad.reason}"
            if isinstance(found, str):
                left_out[found] += 1
                continue
            kept[found.language or "unknown"] += 1
            seen(found)
            yield found

    records = stored(each(), folder)
    if not records:
        reasons = ", ".join(left_out)
        raise UserError(f"{source}: no row is left ({reasons}); keep more rows or fix the data")
    return records, ReadReport(rows, len(records), dict(left_out), dict(kept))


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
