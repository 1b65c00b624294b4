"""Private data, read into records: one (prompt, completion) pair each, with its unit and language.

Promises:
- A row that cannot be used is refused with file, row, field and the remedy. If the caller asks for
  that, it is instead left out and counted by reason.
- A record is a whole row, never cut or joined.
- A record has one owner. A record with several owners is refused.
- Which of a unit's records `bound_contributions` keeps depends on that unit alone.

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
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
    # Spellings that look the same are one owner: composed letters, invisible ones, white space.
    text = unicodedata.normalize("NFKC", text_field(row, field))
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    name = text_field({field: " ".join(text.split())}, field)
    if name.startswith("[") and name.endswith("]"):
        raise BadField(field, "a list written as text", "write one owner per row, or a real list")
    return name


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
) -> tuple[list[Record], ReadReport]:
    """Read private records and report what was left out.

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

    Raises:
        UserError: what `read_rows` raises; a bad row (unless skipped): missing column, null, not a
            string, empty, broken Unicode, unknown language, no owner or several; no row left.
    """
    given = next(iter(_canonical([language])), None) if language else None
    wanted = None if languages is None else _canonical(languages)
    records: list[Record] = []
    left_out: Counter[str] = Counter()
    rows = 0
    for number, row in read_rows(source):
        rows += 1
        try:
            named = columns or guess_of_row(row)
            if named is None:
                raise BadField(
                    "prompt and code", "no known pair of columns", "name them in data.columns"
                )
            name = text_field(row, named.language) if named.language else None
            spoken = canonical_language(name) if name else given
            if wanted is not None and spoken not in wanted:
                left_out["other language"] += 1
                continue
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
        except BadField as bad:
            if on_bad_row == "refuse":
                raise bad.at(source, number) from None
            left_out[f"{bad.field}: {bad.reason}"] += 1
            continue
        if (
            contains
            and contains.casefold() not in f"{record.prompt}\0{record.completion}".casefold()
        ):
            left_out["not selected"] += 1
            continue
        records.append(record)
    if not records:
        reasons = ", ".join(left_out)
        raise UserError(f"{source}: no row is left ({reasons}); keep more rows or fix the data")
    kept = Counter(record.language or "unknown" for record in records)
    return records, ReadReport(rows, len(records), dict(left_out), dict(kept))


def bound_contributions(
    records: Sequence[Record], max_per_unit: int, seed: int
) -> tuple[list[Record], int]:
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
    ranked: defaultdict[Unit, list[tuple[bytes, int]]] = defaultdict(list)
    for index, record in enumerate(records):
        content = json.dumps([record.unit.name, record.prompt, record.completion, record.language])
        rank = hmac.digest(key, content.encode(), hashlib.sha256)
        ranked[record.unit].append((rank, index))
    kept = sorted(index for unit in ranked.values() for _, index in sorted(unit)[:max_per_unit])
    return [records[index] for index in kept], len(records) - len(kept)


def hold_out(
    records: Sequence[Record], share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """The records to train on, and those of about a `share` of the units, left out whole.

    A hash of the seed and of a unit's own records decides whether it is left out. Nothing else
    does: not the number of units, and not row numbers or names made of them, which adding a unit
    would shift. So two data sets that differ in one unit leave out the same units, apart from that
    one. The training data then differ in that unit or not at all. The mechanism's guarantee
    therefore carries over unchanged. (The sampling rate comes from the declared number of units
    and does not change.) Units with the same content share their fate.
    """
    key = f"privcode holdout {seed}".encode()
    units: defaultdict[Unit, list[str]] = defaultdict(list)
    for one in records:
        units[one.unit].append(json.dumps([one.prompt, one.completion, one.language]))

    def left_out(content: list[str]) -> bool:
        digest = hmac.digest(key, "\0".join(sorted(content)).encode(), hashlib.sha256)
        return int.from_bytes(digest[:8], "big") < share * 2**64

    chosen = {unit for unit, content in units.items() if left_out(content)}
    return (
        [one for one in records if one.unit not in chosen],
        [one for one in records if one.unit in chosen],
    )
