"""The formats of benchmarks, one module each.

Promises:
- A benchmark's own files are read as they are. Only MBPP's prompts are rewritten, into evalplus's
  format.
- Another package adds a format by an entry point of the group `privcode.formats` (see
  `extensions`).
"""

from functools import cache

from privcode.errors import UserError
from privcode.extensions import with_added
from privcode.files import Row
from privcode.scoring.format import Format
from privcode.scoring.formats import bigcodebench, evalplus, humaneval, mbpp, multipl

_OWN = (
    humaneval.FORMAT,
    evalplus.HUMANEVAL_PLUS,
    mbpp.FORMAT,
    evalplus.MBPP_PLUS,
    bigcodebench.FORMAT,
    multipl.FORMAT,
)


@cache
def formats() -> dict[str, Format]:
    """All formats by name: privcode's own, and those that other packages add.

    Raises:
        UserError: an extension cannot be used.
    """
    return with_added("formats", {row.name: row for row in _OWN}, Format)


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        UserError: there is no such format.
    """
    if name not in formats():
        for entry, found in formats().items():
            if found.name == name:
                raise UserError(
                    f"format {name}: its entry point is named {entry}; give both the same name"
                )
        raise UserError(f"format {name}: unknown; choose one of {', '.join(formats())}")
    return formats()[name]


def format_of(row: Row) -> Format:
    """The format of a file, by its first row.

    The last format that owns the row is taken. If none owns it, HumanEval's is taken.
    """
    owners = (found for found in reversed(list(formats().values())) if found.owns(row))
    return next(owners, humaneval.FORMAT)
