"""Private data, read into records.

Promises:
- A row that cannot be used is refused with file, row, field and the remedy. If the caller asks for
  that, it is instead left out and counted by reason.
- A record has one owner. A record with several owners is refused.
- Records are read once, in their order.

Does not:
- Quote a record in an error, or the names of columns: without a header, these are a record.
- Let one row decide how another is read.
- Guess the unit: the owner chooses whose privacy is protected.
- Repair text.

Counts in a `ReadReport` are private figures.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from privcode.data.columns import (
    BadField,
    Columns,
    completion_text,
    guess_of_row,
    prompt_text,
    text_field,
    value_of,
)
from privcode.data.records import Record, Records, Unit, stored
from privcode.data.rows import read_rows
from privcode.errors import UserError
from privcode.files import Row
from privcode.languages import canonical_language
from privcode.languages import languages as all_languages


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
