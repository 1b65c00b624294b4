"""What stands in more than one record: exact and near copies of code, and signs of secrets.

Promises: memory holds no text, only three hashes of each record and one of each sign.

Does not: say what is shared. All figures are private.
"""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from privcode.data.masking import signs

_TOKEN = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|[^\W\d]\w*|\d[\w.]*|[^\w\s]")


@dataclass(frozen=True)
class Repeats:
    """What stands in more than one record. Every figure is private.

    `exact` and `near` count records whose code an earlier record also has. Exact means up to white
    space. Near means up to white space, literals and consistently renamed words. `widest_code` is
    the number of units that share the most common code, exact or near. `widest_secret` gives, by
    kind, the number of units whose prompt or code has the most common sign of a secret. The texts
    themselves are not kept.
    """

    exact: int
    near: int
    widest_code: int
    widest_secret: Mapping[str, int]


def _hash(parts: Sequence[str]) -> int:
    """64 bits, with a key of this process unless PYTHONHASHSEED sets it."""
    return hash("\0".join(parts))


def distinct_of(hashes: Sequence[int]) -> int:
    """How many different ones there are."""
    return len(np.unique(np.asarray(hashes, np.int64)))


def _first(hashes: np.ndarray) -> np.ndarray:
    """[hashes] whether each comes for the first time."""
    found = np.zeros(len(hashes), bool)
    found[np.unique(hashes, return_index=True)[1]] = True
    return found


def _widest(groups: np.ndarray, members: np.ndarray) -> int:
    """The most different members that a group has. Both: [pairs]."""
    order = np.lexsort((members, groups))
    groups, members = groups[order], members[order]
    new = np.ones(len(groups), bool)
    new[1:] = (groups[1:] != groups[:-1]) | (members[1:] != members[:-1])
    _, counts = np.unique(groups[new], return_counts=True)
    return int(counts.max(initial=0))


def _renamed(code: str) -> list[str]:
    """The tokens of code, each word replaced by the order of its first use, each literal by 0."""
    order: dict[str, int] = {}
    return [
        f"w{order.setdefault(token, len(order))}"
        if token[0].isalpha() or token[0] == "_"
        else "0"
        if token[0] in "\"'" or token[0].isdigit()
        else token
        for token in _TOKEN.findall(code)
    ]


def repeats(records: Iterable[tuple[Hashable, str, str]]) -> Repeats:
    """Look for what several records share, given (unit, prompt, code) of each."""
    found = Repeated()
    for unit, prompt, code in records:
        found.add(unit, prompt, code)
    return found.counted()


class Repeated:
    """Hashes of records, which are added one by one."""

    def __init__(self) -> None:
        self._codes, self._renamed, self._units = array("q"), array("q"), array("q")
        self._secrets: defaultdict[tuple[str, int], set[Hashable]] = defaultdict(set)

    def add(self, unit: Hashable, prompt: str, code: str) -> None:
        """One more record."""
        self._codes.append(_hash(code.split()))
        self._renamed.append(_hash(_renamed(code)))
        self._units.append(hash(unit))
        text = f"{prompt}\n{code}"
        for kind, start, end in signs(text):
            self._secrets[kind, _hash(text[start:end].casefold().split())].add(unit)

    def counted(self) -> Repeats:
        """What they share."""
        codes, renamed, units = map(np.asarray, (self._codes, self._renamed, self._units))
        first = _first(codes)
        widest: Counter[str] = Counter()
        for (kind, _), those in self._secrets.items():
            widest[kind] = max(widest[kind], len(those))
        return Repeats(
            exact=int(np.count_nonzero(~first)),
            near=int(np.count_nonzero(first & ~_first(renamed))),
            widest_code=_widest(renamed, units),
            widest_secret=dict(widest),
        )
