"""Stage 2a, synthesis: one or more solutions for each public prompt, from the DP junior.

Promises:
- Synthesis is post-processing only: nothing private is read.
- Prompts are done in fixed chunks. Each chunk has its own seed and is on disk before the next
  begins.
- A killed run goes on at the chunk it was in, and ends with the same bytes as an uninterrupted one.

Does not: judge the samples. `validation` does.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from privcode.files import jsonl_line
from privcode.generation import Generator, Sampling


def synthesize(
    generator: Generator,
    prompts: Sequence[str],
    rendered: Sequence[str],
    sampling: Sampling,
    output: Path,
    chunk_size: int = 256,
    progress: Callable[[int], object] = lambda prompts: None,
) -> None:
    """Write one row {id, prompt, completion} per sample to `output`.

    Args:
        generator: the DP junior.
        prompts: public problems.
        rendered: the same problems, in the junior's template.
        sampling: temperature, samples per prompt, seed.
        output: JSON Lines. It appears when all is done. Until then the work is in a hidden file
            next to it.
        chunk_size: prompts drawn together. The result depends on it.
        progress: called with the number of prompts done.
    """
    partial = output.with_name(f".{output.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    per_chunk = [len(prompts[i : i + chunk_size]) for i in range(0, len(prompts), chunk_size)]
    done = _whole_chunks(partial, [size * sampling.n for size in per_chunk])
    progress(sum(per_chunk[:done]))
    with partial.open("ab") as file:
        for chunk in range(done, len(per_chunk)):
            start = chunk * chunk_size
            here = range(start, start + per_chunk[chunk])
            texts = generator.generate([rendered[i] for i in here], sampling, chunk)
            lines = [
                jsonl_line({"id": f"{i}-{n}", "prompt": prompts[i], "completion": text})
                for i, answers in zip(here, texts, strict=True)
                for n, text in enumerate(answers)
            ]
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            progress(per_chunk[chunk])
    partial.rename(output)


def _whole_chunks(partial: Path, sizes: Sequence[int]) -> int:
    """How many whole chunks `partial` holds. What follows them is cut off."""
    if not partial.exists():
        return 0
    data = partial.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    done = rows = 0
    while done < len(sizes) and rows + sizes[done] <= len(lines):
        rows += sizes[done]
        done += 1
    with partial.open("r+b") as file:
        file.truncate(sum(map(len, lines[:rows])))
    return done
