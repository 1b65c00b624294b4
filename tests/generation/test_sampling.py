"""A killed synthesis goes on at the chunk it was in, whatever is left of its file."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from privcode.cluster.chunks import on_disk
from privcode.files import jsonl_line, read_jsonl
from privcode.generation import Sampling
from privcode.generation.sampling import synthesize


class Echo:
    """Answers with the prompt, the number of the sample and that of the chunk."""

    def __init__(self) -> None:
        self.chunks: list[int] = []

    def __call__(self, prompts: Sequence[str], sampling: Sampling, chunk: int) -> list[list[str]]:
        self.chunks.append(chunk)
        return [[f"{p}\r\x85 {n} {chunk}" for n in range(sampling.n)] for p in prompts]


def written(path: Path, before: bytes | None, prompts: int) -> tuple[bytes, list[int], int]:
    hidden = path.with_name(f".{path.name}.partial")
    if before is not None:
        hidden.write_bytes(before)
    draw, done = Echo(), list[int]()
    texts = [f"p{i}" for i in range(prompts)]
    synthesize(draw, texts, str.upper, Sampling(n=2), path, 3, done.append)
    assert not hidden.exists()
    return path.read_bytes(), draw.chunks, sum(done)


@pytest.mark.parametrize("prompts", [1, 3, 7])
def test_whatever_was_written_before_the_file_is_the_same_in_the_end(
    tmp_path: Path, prompts: int
) -> None:
    whole, chunks, done = written(tmp_path / "whole", None, prompts)
    rows = [row for _, row in read_jsonl(tmp_path / "whole")]
    assert (len(rows), done, chunks) == (2 * prompts, prompts, list(range(-(-prompts // 3))))
    lines = [jsonl_line([n, rows[6 * n : 6 * n + 6]]).encode() for n in chunks]
    for kept in range(len(lines) + 1):
        for torn in (b"", b'[0, [{"id": "0'):
            before = b"".join(lines[:kept]) + torn
            again, made, done = written(tmp_path / f"{kept}{len(torn)}", before, prompts)
            assert (again, done) == (whole, prompts)
            assert made == chunks[kept:]


def test_only_the_chunk_that_is_made_is_asked_for(tmp_path: Path) -> None:
    class Counted(Sequence[int]):
        def __init__(self) -> None:
            self.most = 0

        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            found = range(10_000)[index]
            self.most = max(self.most, len(found))
            return found

    items = Counted()
    found = on_disk(lambda some, n: [{"n": i} for i in some], items, tmp_path / "p", 32, print)
    assert [row["n"] for row in found] == list(range(10_000))
    assert items.most == 32
