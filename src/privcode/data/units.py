"""Which records belong to which unit, in arrays: a few bytes for each record.

Promises:
- Units come in the order of their first records, and a unit's records in their own order.
- Names are told apart by a hash of 128 bits with a key of this process, which nobody can aim at.

Does not: keep a name, or read a record.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import overload

import numpy as np

_KEY = secrets.token_bytes(32)
_BYTES = 16


class Units(Sequence[list[int]]):
    """For each unit, the indices of its records, ascending."""

    def __init__(self, numbers: np.ndarray) -> None:
        """`numbers`: [records] the number of each record's unit, as `numbered` gives it."""
        self._order = np.argsort(numbers, kind="stable")
        sizes = np.bincount(numbers) if len(numbers) else np.zeros(0, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, unit: int) -> list[int]: ...
    @overload
    def __getitem__(self, unit: slice) -> list[list[int]]: ...
    def __getitem__(self, unit: int | slice) -> list[int] | list[list[int]]:
        if isinstance(unit, slice):
            return [self[one] for one in range(*unit.indices(len(self)))]
        if not 0 <= unit < len(self):
            raise IndexError(unit)
        found: list[int] = self._order[self._starts[unit] : self._starts[unit + 1]].tolist()
        return found

    @property
    def sizes(self) -> np.ndarray:
        """[units] how many records each has."""
        return np.diff(self._starts)

    @cached_property
    def facts(self) -> str:
        """A digest of which record is whose."""
        digest = hashlib.sha256(self._order.astype("<i8").tobytes())
        digest.update(self._starts.astype("<i8").tobytes())
        return digest.hexdigest()


class Names:
    """Names as they come, each of two parts, told apart later."""

    def __init__(self) -> None:
        self._hashes = bytearray()

    def add(self, kind: str, name: str) -> None:
        """One more name."""
        if kind == "row" and (number := _number(name)) is not None:
            self._hashes += number.to_bytes(_BYTES, "little")  # as good, and sooner
            return
        data = f"{len(kind)} {kind}{name}".encode("utf-8", "surrogatepass")
        self._hashes += hashlib.blake2b(data, key=_KEY, digest_size=_BYTES).digest()

    def numbered(self) -> np.ndarray:
        """[names] the number of each name. See `numbered`."""
        halves = np.frombuffer(self._hashes, np.uint64).reshape(-1, 2)
        low, high = halves.T
        if not high.any() and (low[1:] > low[:-1]).all():  # rows one after the other
            return np.arange(len(low))
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal names keep their order
        new = np.ones(len(order), bool)
        new[1:] = False
        for half in halves.T:
            half = half[order]
            new[1:] |= half[1:] != half[:-1]
        first = order[new]
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        found = np.empty(len(order), np.int64)
        found[order] = rank[np.cumsum(new) - 1]
        return found


def _number(name: str) -> int | None:
    """N of a name "row-N", which is written in one way."""
    digits = name[4:]
    if len(digits) < 19 and digits.isdecimal() and f"row-{int(digits)}" == name:
        return int(digits)
    return None


def numbered(keys: np.ndarray) -> np.ndarray:
    """[keys] for each key, how many other keys came for the first time before it did."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    found: np.ndarray = rank[inverse]
    return found


def numbered_names(names: Iterable[tuple[str, str]]) -> np.ndarray:
    """[names] the number of each name. See `numbered`."""
    found = Names()
    for name in names:
        found.add(*name)
    return found.numbered()
