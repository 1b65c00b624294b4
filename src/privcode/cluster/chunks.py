"""Numbered chunks of rows, each on disk as soon as it is finished.

Promises:
- Rows come in the order of the items, whatever the order in which the chunks were finished.
- A killed stage loses the chunks that were being made, and no other.

Does not: know what a chunk is about, or where it is made.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from privcode.cluster import Engine, Here
from privcode.files import Row, jsonl_line, loads

T = TypeVar("T")
R = TypeVar("R")


def chunk(items: Sequence[T], size: int, number: int) -> Sequence[T]:
    """Of `items` in chunks of `size`, the one with this number, from 0. The last may be smaller."""
    return items[number * size : (number + 1) * size]


def chunks_of(items: Sequence[T], size: int) -> range:
    """The numbers of the chunks."""
    return range(-(-len(items) // size))


def in_order(
    engine: Engine, work: Callable[[Sequence[T], int], R], items: Sequence[T], size: int
) -> Iterator[R]:
    """`work(chunk, number)` of each chunk of `items`, in order."""
    waiting: dict[int, R] = {}
    turn = 0

    def made(number: int) -> R:
        return work(chunk(items, size, number), number)

    with closing(engine.each(made, chunks_of(items, size))) as finished:
        for number, result in finished:
            waiting[number] = result
            while turn in waiting:
                yield waiting.pop(turn)
                turn += 1


@dataclass(frozen=True)
class OnDisk:
    """The rows of finished chunks in order, read from the file that keeps them. It must stay.

    Attributes:
        path: the file.
        starts: of each chunk, by its number, the byte where its line begins.
    """

    path: Path
    starts: dict[int, int]

    def __iter__(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for number in range(len(self.starts)):
                file.seek(self.starts[number])
                yield from loads(file.readline().decode())[1]


def on_disk(
    work: Callable[[Sequence[T], int], list[Row]],
    items: Sequence[T],
    partial: Path,
    chunk_size: int,
    progress: Callable[[int], object],
    engine: Engine | None = None,
) -> OnDisk:
    """The rows of all chunks. Only the chunks that are being made are in memory.

    Args:
        work: makes the rows of a chunk, from its items and its number.
        items: what the rows are made from. Slices of it are taken, also by several threads.
        partial: keeps the finished chunks, one line [number, rows] for each, in the order in which
            they were finished. It stays.
        chunk_size: items in a chunk. The result may depend on it.
        progress: called with the number of items done.
        engine: does the work. Default: this process.
    """

    def size(number: int) -> int:
        return min(chunk_size, len(items) - number * chunk_size)

    def made(number: int) -> list[Row]:
        return work(chunk(items, chunk_size, number), number)

    numbers = chunks_of(items, chunk_size)
    partial.parent.mkdir(parents=True, exist_ok=True)
    starts = _finished(partial, len(numbers))
    progress(sum(map(size, starts)))
    missing = [number for number in numbers if number not in starts]
    with (
        partial.open("ab") as file,
        closing((engine or Here()).each(made, missing)) as finished,
    ):
        for number, rows in finished:
            starts[number] = file.tell()
            file.write(jsonl_line([number, rows]).encode())
            file.flush()
            os.fsync(file.fileno())
            progress(size(number))
    return OnDisk(partial, starts)


def _finished(partial: Path, count: int) -> dict[int, int]:
    """Where the chunks that `partial` holds begin, by number. What is no whole chunk is cut off."""
    starts: dict[int, int] = {}
    if not partial.exists():
        return starts
    with partial.open("r+b") as file:
        whole = 0
        for line in file:
            try:
                number, rows = loads(line.decode())
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n") or number not in range(count) or not isinstance(rows, list):
                break
            starts[number] = whole
            whole += len(line)
        file.truncate(whole)
    return starts
