"""Numbered chunks: rows in order, whatever was finished first, and what is finished is kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from privcode.cluster import Finished, Here
from privcode.cluster.chunks import in_order, on_disk

ITEMS = list(range(7))


class Backwards(Here):
    """Finishes the last number first."""

    def each(self, work: Callable[[int], Any], numbers: Sequence[int]) -> Finished[Any]:
        yield from super().each(work, numbers[::-1])


def rows(items: Sequence[int], chunk: int) -> list[dict[str, Any]]:
    return [{"id": item, "chunk": chunk, "figure": 0.1 * item, "text": "ü\ud800"} for item in items]


@pytest.mark.parametrize("engine", [Here(), Backwards()])
def test_rows_come_in_the_order_of_the_items(tmp_path: Path, engine: Here) -> None:
    done: list[int] = []
    found = list(on_disk(rows, ITEMS, tmp_path / "partial", 3, done.append, engine))
    whole = [rows(ITEMS[3 * n : 3 * n + 3], n) for n in range(-(-len(ITEMS) // 3))]
    assert found == [row for some in whole for row in some]
    assert sum(done) == len(ITEMS)


def test_what_is_finished_is_not_made_again_in_whatever_order_it_was(tmp_path: Path) -> None:
    partial, made = tmp_path / "partial", list[int]()

    def stops(items: Sequence[int], chunk: int) -> list[dict[str, Any]]:
        if chunk == 0:
            raise KeyboardInterrupt
        return rows(items, chunk)

    def noted(items: Sequence[int], chunk: int) -> list[dict[str, Any]]:
        made.append(chunk)
        return rows(items, chunk)

    with pytest.raises(KeyboardInterrupt):
        on_disk(stops, ITEMS, partial, 3, lambda _: None, Backwards())
    assert partial.read_bytes().count(b"\n") == 2
    again = list(on_disk(noted, ITEMS, partial, 3, lambda _: None))
    assert made == [0]
    assert again == list(on_disk(rows, ITEMS, tmp_path / "other", 3, lambda _: None))


@pytest.mark.parametrize(
    "damage",
    [b"[0, [", b"[7, []]\n", b'{"id": 1, "chunk": 2}\n', b"\xff\n", b"[0, 3]\n", b"[[0], []]\n"],
)
def test_what_is_no_whole_chunk_is_made_again(tmp_path: Path, damage: bytes) -> None:
    whole = list(on_disk(rows, ITEMS, tmp_path / "whole", 3, lambda _: None))
    partial = tmp_path / "partial"
    partial.write_bytes((tmp_path / "whole").read_bytes().splitlines(keepends=True)[1] + damage)
    assert list(on_disk(rows, ITEMS, partial, 3, lambda _: None)) == whole


def test_results_are_handed_on_in_order() -> None:
    chunks = [ITEMS[at : at + 2] for at in range(0, len(ITEMS), 2)]
    assert list(in_order(Backwards(), lambda some, n: (n, sum(some)), ITEMS, 2)) == [
        (n, sum(chunk)) for n, chunk in enumerate(chunks)
    ]
