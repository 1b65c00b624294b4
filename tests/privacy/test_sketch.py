"""A sketch made in parts, and by the fast way for ASCII, is the sketch of before."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privcode.privacy import sketch as sketches
from privcode.privacy.sketch import sketch

SECRET = bytes(range(32))


def plainly(text: str) -> int:
    said = "".join(text.split()).translate(str.maketrans("", "", "\"'`,;()\\")) or text
    digest = hashlib.blake2b(said.encode(), key=SECRET, digest_size=8).digest()
    return int.from_bytes(digest, "little")


@given(st.text(max_size=20) | st.text(st.characters(max_codepoint=127), max_size=20))
def test_a_text_has_the_hash_that_it_always_had(text: str) -> None:
    assert sketches._hashes([text, text], SECRET).tolist() == [plainly(text)] * 2


@pytest.mark.parametrize("most", [3, 16, 10**6])
@pytest.mark.parametrize("distinct", [1, 5, 60])
def test_a_sketch_in_parts_is_the_sketch_of_the_whole(
    most: int, distinct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketches, "SAMPLE", most)
    pairs = [(f"p{i % 7}", f"c{i * i % distinct}") for i in range(200)]
    hashes = [np.unique(np.array([plainly(pair[i]) for pair in pairs], np.uint64)) for i in (0, 1)]
    halvings = 0
    while max(map(len, hashes)) > most:
        halvings += 1
        hashes = [h[h < np.uint64(1 << (64 - halvings))] for h in hashes]
    found = sketch(pairs, SECRET)
    assert found.halvings == halvings
    assert (found.prompts.tolist(), found.codes.tolist()) == tuple(h.tolist() for h in hashes)
