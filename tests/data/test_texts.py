"""Public texts lie on disk: they come back as they were, and memory does not grow with them."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from privcode.data.prompts import read_prompts
from privcode.data.texts import Texts, distinct

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=30)


@given(TEXTS, st.data())
def test_texts_come_back_in_their_order(texts: list[str], data: st.DataObject) -> None:
    stored = Texts(texts)
    assert list(stored) == texts
    assert [stored[i] for i in range(len(stored))] == stored[:] == texts
    chosen = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    kept = [text for text, wanted in zip(texts, chosen, strict=True) if wanted]
    some = stored.where(np.array(chosen, bool))
    assert (list(some), some[:], len(some)) == (kept, kept, len(kept))
    assert list(some.where(np.ones(len(some), bool))) == kept
    assert list(distinct(texts)) == list(dict.fromkeys(texts))


def test_threads_read_slices_at_once() -> None:
    texts = [f"text {number}" for number in range(20_000)]
    stored = Texts(texts)
    with ThreadPoolExecutor(4) as pool:
        slices = pool.map(lambda at: stored[at : at + 100], range(0, len(texts), 100))
        assert [text for some in slices for text in some] == texts


def test_memory_does_not_hold_the_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{number} {'x' * 1000}\n" for number in range(20_000)))
    tracemalloc.start()
    prompts = read_prompts(str(path))
    assert sum(1 for _ in prompts) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2
