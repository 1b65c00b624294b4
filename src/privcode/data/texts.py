"""Public texts, by the million: they lie on disk, and memory holds no text.

Promises: texts keep their order. They are compared by a digest of 128 bits.

Does not: know what a text is about.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

from privcode.data.arrow import Table, write

_SCHEMA = pa.schema([("text", pa.large_string())])


class Texts(Sequence[str]):
    """Texts in a file without a name, where temporary files lie. Slices are lists."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Write `texts`.

        Raises:
            UserError: the file cannot be written.
        """
        self._table: Table = write(((text,) for text in texts), _SCHEMA)
        self._index: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._table) if self._index is None else len(self._index)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        (text,) = self._table[places if self._index is None else int(self._index[places])]
        return str(text)

    def __iter__(self) -> Iterator[str]:
        return (text for (text,) in self._table.rows(self._index))

    def where(self, chosen: np.ndarray) -> "Texts":
        """Those for which `chosen`, [texts] bool, holds."""
        found = Texts.__new__(Texts)
        own = np.arange(len(self)) if self._index is None else self._index
        found._table, found._index = self._table, own[chosen]
        return found


def digest(text: str) -> bytes:
    """16 bytes that tell a text from others."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def distinct(texts: Iterable[str]) -> Iterator[str]:
    """`texts` without exact repeats, in their order."""
    seen: set[bytes] = set()
    for text in texts:
        if (known := digest(text)) not in seen:
            seen.add(known)
            yield text
