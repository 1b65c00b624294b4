"""What the context cuts off the private records: for the owner's console alone.

Promises:
- The figures are private. They are shown at a terminal, and kept in `private/`.
- Records of which no code is left at all are refused before any budget is spent. A single record
  with code lets the run go on. Nothing that is published shows how many there are.

Does not: cut anything (`training.examples` does).
"""

from collections.abc import Iterable
from typing import NamedTuple

from privcode.errors import UserError
from privcode.models.settings import Model
from privcode.training.examples import Example


class Truncation(NamedTuple):
    """Numbers of records. All of them are private.

    Attributes:
        records: all.
        cut: those that lose code.
        emptied: those that lose all of their code.
    """

    records: int
    cut: int
    emptied: int


def truncation(encoded: Iterable[tuple[Example, bool]]) -> Truncation:
    """Of examples, each with whether it was cut."""
    pairs = list(encoded)
    emptied = sum(len(example.ids) <= example.start for example, _ in pairs)
    return Truncation(len(pairs), sum(cut for _, cut in pairs), emptied)


def refuse_emptied(found: Truncation, field: str) -> None:
    """Refuse records of which no code is left.

    Raises:
        UserError: names the field max_tokens of the section `field`.
    """
    if found.records and found.emptied == found.records:
        raise UserError(
            f"{field}.max_tokens: no private record has code within it, so the run would spend its "
            "budget and learn nothing; raise it, or shorten the prompts"
        )


def words(found: Truncation, section: Model, field: str) -> str:
    """What the owner should know, in a line. Empty if no record is cut. Private."""
    if not found.cut:
        return ""
    return (
        f"{found.cut} of {found.records} records lose code, because they are longer than "
        f"{field}.max_tokens = {section.max_tokens}; {found.emptied} of these lose all of it, and "
        "nothing is learned from them"
    )
