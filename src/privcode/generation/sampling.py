"""Stage 2a, synthesis: one or more solutions for each public prompt, from the DP junior.

Promises:
- Synthesis is post-processing only: nothing private is read.
- Prompts are done in fixed chunks. Each chunk has its own seed and is on disk when it is finished.
- A killed run goes on with the chunks that it lacks, and ends with the same bytes as an
  uninterrupted one.

Does not: judge the samples. `validation` does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from privcode.cluster import Engine
from privcode.cluster.chunks import on_disk
from privcode.files import Row, write_jsonl
from privcode.generation import Sampling

Draw = Callable[[Sequence[str], Sampling, int], list[list[str]]]
"""`Generator.generate` of one generator, or of several that share the chunks."""


def synthesize(
    draw: Draw,
    prompts: Sequence[str],
    asking: Callable[[str], str],
    sampling: Sampling,
    output: Path,
    chunk_size: int = 256,
    progress: Callable[[int], object] = lambda prompts: None,
    engine: Engine | None = None,
) -> None:
    """Write one row {id, prompt, completion} per sample to `output`.

    Args:
        draw: samples from the DP junior.
        prompts: public problems.
        asking: puts a problem into the junior's template.
        sampling: temperature, samples per prompt, seed.
        output: JSON Lines. It appears when all is done. Until then the work is in a hidden file
            next to it.
        chunk_size: prompts drawn together. The result depends on it.
        progress: called with the number of prompts done.
        engine: calls `draw`. Default: this process.
    """

    def rows(here: Sequence[str], chunk: int) -> list[Row]:
        texts = draw([asking(prompt) for prompt in here], sampling, chunk)
        first = chunk * chunk_size
        return [
            {"id": f"{i}-{n}", "prompt": prompt, "completion": text}
            for i, (prompt, answers) in enumerate(zip(here, texts, strict=True), first)
            for n, text in enumerate(answers)
        ]

    partial = output.with_name(f".{output.name}.partial")
    write_jsonl(output, on_disk(rows, prompts, partial, chunk_size, progress, engine))
    partial.unlink()
