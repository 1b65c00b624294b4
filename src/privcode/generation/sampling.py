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

from privcode.files import cut_lines, jsonl_line
from privcode.generation import Generator, Sampling


def synthesize(
    generator: Generator,
    prompts: Sequence[str],
    asking: Callable[[str], str],
    sampling: Sampling,
    output: Path,
    chunk_size: int = 256,
    progress: Callable[[int], object] = lambda prompts: None,
) -> None:
    """Write one row {id, prompt, completion} per sample to `output`.

    Args:
        generator: the DP junior.
        prompts: public problems.
        asking: puts a problem into the junior's template.
        sampling: temperature, samples per prompt, seed.
        output: JSON Lines. It appears when all is done. Until then the work is in a hidden file
            next to it.
        chunk_size: prompts drawn together. The result depends on it.
        progress: called with the number of prompts done.
    """
    partial = output.with_name(f".{output.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    rows, in_a_chunk = len(prompts) * sampling.n, chunk_size * sampling.n
    whole = cut_lines(
        partial, lambda lines: rows if lines >= rows else lines // in_a_chunk * in_a_chunk
    )
    done = whole // sampling.n
    progress(done)
    with partial.open("ab") as file:
        for start in range(done, len(prompts), chunk_size):
            here = range(start, min(start + chunk_size, len(prompts)))
            asked = [asking(prompts[i]) for i in here]
            texts = generator.generate(asked, sampling, start // chunk_size)
            lines = [
                jsonl_line({"id": f"{i}-{n}", "prompt": prompts[i], "completion": text})
                for i, answers in zip(here, texts, strict=True)
                for n, text in enumerate(answers)
            ]
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            progress(len(here))
    partial.rename(output)
