"""Numbered chunks of rows, each on disk as soon as it is finished.

Promises:
- Rows come in the order of the items, whatever the order in which the chunks were finished.
- A killed stage loses the chunks that were being made, and no other.

Does not: know what a chunk is about, or where it is made.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from privcode.cluster import Engine, Here
from privcode.files import Row, jsonl_line, loads

T = TypeVar("T")
R = TypeVar("R")


def cut(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`items` in chunks of `size`. The last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def in_order(
    engine: Engine, work: Callable[[Sequence[T], int], R], chunks: Sequence[Sequence[T]]
) -> Iterator[R]:
    """`work(chunk, number)` of each chunk, in order."""
    waiting: dict[int, R] = {}
    turn = 0
    with closing(engine.each(lambda n: work(chunks[n], n), range(len(chunks)))) as finished:
        for number, result in finished:
            waiting[number] = result
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


def on_disk(
    work: Callable[[Sequence[T], int], list[Row]],
    items: Sequence[T],
    partial: Path,
    chunk_size: int,
    progress: Callable[[int], object],
    engine: Engine | None = None,
) -> list[Row]:
    """The rows of all chunks, in order.

    Args:
        work: makes the rows of a chunk, from its items and its number.
        items: what the rows are made from.
        partial: keeps the finished chunks, one line [number, rows] for each, in the order in which
            they were finished. It stays.
        chunk_size: items in a chunk. The result may depend on it.
        progress: called with the number of items done.
        engine: does the work. Default: this process.
    """
    chunks = cut(items, chunk_size)
    partial.parent.mkdir(parents=True, exist_ok=True)
    found = _finished(partial, len(chunks))
    progress(sum(len(chunks[number]) for number in found))
    missing = [number for number in range(len(chunks)) if number not in found]
    with (
        partial.open("ab") as file,
        closing((engine or Here()).each(lambda n: work(chunks[n], n), missing)) as finished,
    ):
        for number, rows in finished:
            file.write(jsonl_line([number, rows]).encode())
            file.flush()
            os.fsync(file.fileno())
            found[number] = rows
            progress(len(chunks[number]))
    return [row for number in range(len(chunks)) for row in found[number]]


def _finished(partial: Path, count: int) -> dict[int, list[Row]]:
    """The chunks that `partial` holds: number -> rows. What is no whole chunk is cut off."""
    found: dict[int, list[Row]] = {}
    if not partial.exists():
        return found
    whole = 0
    for line in partial.read_bytes().splitlines(keepends=True):
        try:
            number, rows = loads(line.decode())
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n") or number not in range(count) or not isinstance(rows, list):
            break
        found[number] = rows
        whole += len(line)
    with partial.open("r+b") as file:
        file.truncate(whole)
    return found
