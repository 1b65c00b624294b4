"""What the context cuts off the private records: for the owner's console alone.

Promises:
- The figures are private. They are shown at a terminal, and kept in `private/`.
- Up to `LOOKED_AT` records, all are counted. Of more records so many are, evenly spaced, because
  tokens take longer to make than records to read. The words say so.
- Records of which no code is left at all are refused before any budget is spent. A single record
  with code lets the run go on. Nothing that is published shows how many there are.

Does not: cut anything (`training.examples` does).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from privcode.errors import UserError
from privcode.models.settings import Model
from privcode.training.examples import Example

LOOKED_AT = 10_000
"""The most records that are tokenised before training."""


class Truncation(NamedTuple):
    """Numbers of records. All of them are private.

    Attributes:
        records: those that were looked at.
        cut: those of them that lose code.
        emptied: those of them that lose all of their code.
        all: all that there are.
    """

    records: int
    cut: int
    emptied: int
    all: int


def looked_at(records: int) -> Sequence[int]:
    """Which of so many records are looked at: all, or `LOOKED_AT` evenly spaced ones."""
    return range(0, records, max(1, -(-records // LOOKED_AT)))


def truncation(encoded: Iterable[tuple[Example, bool]], records: int) -> Truncation:
    """Of examples, each with whether it was cut, out of so many records."""
    seen = cut = emptied = 0
    for example, was_cut in encoded:
        seen += 1
        cut += was_cut
        emptied += is_emptied(example)
    return Truncation(seen, cut, emptied, records)


def is_emptied(example: Example) -> bool:
    """Whether no code is left of it."""
    return len(example.ids) <= example.start


def refuse_emptied(found: Truncation, field: str, example: Callable[[int], Example]) -> None:
    """Refuse records of which no code is left.

    Args:
        found: see `truncation`.
        field: the section whose max_tokens it is.
        example: the example of a record, by its number. Where those that were looked at have no
            code, the others are looked at until one has.

    Raises:
        UserError: names the field max_tokens of the section `field`.
    """
    if not found.records or found.emptied < found.records:
        return
    rest = range(found.all) if found.records < found.all else ()
    if any(not is_emptied(example(index)) for index in rest):
        return
    raise UserError(
        f"{field}.max_tokens: no private record has code within it, so the run would spend its "
        "budget and learn nothing; raise it, or shorten the prompts"
    )


def words(found: Truncation, section: Model, field: str) -> str:
    """What the owner should know, in a line. Empty if no record is cut. Private."""
    if not found.cut:
        return ""
    sample = f" that were looked at, of {found.all}," if found.records < found.all else ""
    return (
        f"{found.cut} of {found.records} records{sample} lose code, because they are longer than "
        f"{field}.max_tokens = {section.max_tokens}; {found.emptied} of these lose all of it, and "
        "nothing is learned from them"
    )
