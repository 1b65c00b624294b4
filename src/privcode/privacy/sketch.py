"""Whether two runs read the same data, decided without keeping any of them.

Promises:
- A sketch holds keyed hashes of what the records say and nothing else. It reveals nothing to
  somebody without the key.
- It does not depend on the order of the records, on their owners, on the names of their columns, or
  on what formatters change: white space, quotation marks, commas, semicolons, round brackets.
- Memory and files are bounded, whatever the size of the data.

Does not:
- See code that was rewritten or renamed.
- See overlaps below `SHARE` of the smaller of two data sets.
- Compare sketches of two keys.

Source of the sampling: FracMinHash (Irber et al. 2022). The hash itself selects the sample, so
all data sets are sampled in the same way.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

SHARE = 0.01
"""Runs compose where at least this share of the smaller data set is also in the other one."""

SAMPLE = 2**20
"""At most this many different hashes of codes, and of prompts, are kept. Up to this size, data
sets are compared exactly."""

FEWEST = 100
"""With fewer sampled codes, the share that two data sets have in common cannot be estimated."""

_MAGIC = b"privcode sketch 1\n"
_HEAD = struct.Struct("<16sBQQ")
_DROPPED = str.maketrans("", "", "\"'`,;()\\")
_DROPPED_ASCII = bytes(code for code in range(128) if chr(code).isspace() or code in _DROPPED)


@dataclass(frozen=True, eq=False)
class Sketch:
    """Sorted, different 64-bit hashes of codes and of prompts, those below 2**(64 - `halvings`).

    `key` names the secret that they were made with, and does not reveal it.
    """

    key: bytes
    halvings: int
    codes: np.ndarray
    prompts: np.ndarray

    def to_bytes(self) -> bytes:
        """The sketch as a file."""
        head = _HEAD.pack(self.key, self.halvings, len(self.codes), len(self.prompts))
        hashes = (part.astype("<u8").tobytes() for part in (self.codes, self.prompts))
        return b"".join([_MAGIC, head, *hashes])


def from_bytes(data: bytes) -> Sketch:
    """Undo `to_bytes`.

    Raises:
        ValueError: the data are no sketch.
    """
    start = len(_MAGIC) + _HEAD.size
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise ValueError("no sketch")
    key, halvings, codes, prompts = _HEAD.unpack(data[len(_MAGIC) : start])
    hashes = np.frombuffer(data[start:], "<u8")
    if len(hashes) != codes + prompts or halvings > 64:
        raise ValueError("no whole sketch")
    return Sketch(key, halvings, hashes[:codes], hashes[codes:])


def sketch(texts: Iterable[tuple[str, str]], secret: bytes) -> Sketch:
    """The sketch of some (prompt, code) pairs under a secret of 32 bytes."""
    said = (text for pair in texts for text in pair)
    codes, prompts = np.empty(0, np.uint64), np.empty(0, np.uint64)
    halvings = 0
    # A part needs no more halvings than the whole, so they may be taken as soon as a part does.
    while len(both := _hashes(islice(said, 2 * SAMPLE), secret)):
        prompts = _below(np.union1d(prompts, both[::2]), halvings)
        codes = _below(np.union1d(codes, both[1::2]), halvings)
        while max(len(codes), len(prompts)) > SAMPLE:
            halvings += 1
            codes, prompts = _below(codes, halvings), _below(prompts, halvings)
    name = hashlib.blake2b(b"privcode key", key=secret, digest_size=16).digest()
    return Sketch(name, halvings, codes, prompts)


def shared(one: Sketch, other: Sketch) -> float | None:
    """What share of the smaller data set is also in the other. None where that cannot be decided.

    A text is shared if it is the code of a record on one side, and code or prompt on the other.
    So data with exchanged columns are the same data. A prompt that many data sets have in common
    makes none of them the same.
    """
    halvings = max(one.halvings, other.halvings)
    codes, their_codes = (_below(s.codes, halvings) for s in (one, other))
    prompts, their_prompts = (_below(s.prompts, halvings) for s in (one, other))
    smaller = min(len(codes), len(their_codes))
    if one.key != other.key or (halvings and smaller < FEWEST):
        return None
    common = (
        np.intersect1d(ours, theirs, assume_unique=True)
        for ours, theirs in ((codes, their_codes), (codes, their_prompts), (prompts, their_codes))
    )
    found = np.unique(np.concatenate(list(common)))
    return min(1.0, len(found) / smaller) if smaller else None


def _below(hashes: np.ndarray, halvings: int) -> np.ndarray:
    if not halvings:
        return hashes
    end = np.searchsorted(hashes, np.uint64(1 << (64 - halvings)), side="left")
    return hashes[:end]


def _hashes(texts: Iterable[str], secret: bytes) -> np.ndarray:
    """[texts] uint64."""
    found = bytearray()
    for text in texts:
        if text.isascii():  # the same bytes, ten times as fast
            whole = text.encode()
            said = whole.translate(None, _DROPPED_ASCII) or whole
        else:
            said = ("".join(text.split()).translate(_DROPPED) or text).encode()
        found += hashlib.blake2b(said, key=secret, digest_size=8).digest()
    return np.frombuffer(found, "<u8")
