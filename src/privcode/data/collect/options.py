"""What a collection may be told: the options of `privcode collect`, as one value."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["author", "repository"]


@dataclass(frozen=True)
class Options:
    """The options of one collection.

    Attributes:
        style: describe: a request in words and the definition that fulfils it. fim: a window of a
            file with a gap, and the code that fills it.
        unit: the column that will be the unit of privacy. It decides what a duplicate across units
            is.
        author: whose a definition is. most: of the person who wrote most of its lines. last: of
            the one who wrote its newest line. only: of the one who wrote every line that the
            record quotes; other definitions are left out.
        duplicates: what happens to a near copy of another unit's code. drop: it is left out.
            count: it is kept and counted.
        secrets: what happens to a definition with a sign of a secret. flag: the column `secrets`
            names the kinds. drop: it is left out.
        context: for fim, the most characters of the window before the gap, of the gap, and of the
            window behind it.
        longest: for describe, the most characters of a prompt and its completion together.
        exclude: patterns of paths that are left out.
    """

    style: Literal["describe", "fim"] = "describe"
    unit: Unit = "author"
    author: Literal["most", "last", "only"] = "most"
    duplicates: Literal["drop", "count"] = "drop"
    secrets: Literal["flag", "drop"] = "flag"
    context: int = 2000
    longest: int = 8000
    exclude: tuple[str, ...] = ()
