"""Stage 2a: sample pairs of prompt and code from the DP junior.

Promises: post-processing alone: nothing private is read. What is written in place of public prompts
is on disk before it is used, so a killed run goes on with the same prompts.
"""

from collections.abc import Sequence
from pathlib import Path

from privcode.console import progress_bar, say
from privcode.errors import UserError
from privcode.files import read_jsonl, write_jsonl
from privcode.generation import Generator, Sampling
from privcode.generation.backends import backend_named
from privcode.generation.sampling import synthesize
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_of, described_by, sampling_of, weights_of
from privcode.pipeline.stages._stage import Stage


def _work(run: RunDirectory) -> Path:
    config, chosen = run.config.synthesize, run.config.prompts
    backend = backend_named(config.backend, "synthesize.backend")
    junior = backend(weights_of(run, "junior"), config.batch_size)
    asking = asking_of(run.config.junior)
    code = sampling_of(config, config.samples_per_prompt)
    words = Sampling(
        temperature=chosen.temperature,
        top_p=config.top_p,
        max_new_tokens=chosen.max_new_tokens,
        seed=config.seed,
    )
    if chosen.source == "described":
        return _describe(run, _after_the_opening(run, junior, code), words)
    prompts = run.prompts() or _after_the_opening(run, junior, words)
    whole = [p for p in prompts if junior.fits(asking(p))]
    if len(whole) < len(prompts):
        say(f"synthesize: {len(prompts) - len(whole)} prompts too long for the junior")
    if not whole:
        where = chosen.public_file or "what the junior wrote"
        raise UserError(f"{where}: every prompt is too long for the junior's context")
    _sample(junior, "synthesize", whole, list(map(asking, whole)), code, run.raw)
    return run.raw


def _sample(
    generator: Generator,
    bar: str,
    prompts: Sequence[str],
    rendered: Sequence[str],
    sampling: Sampling,
    output: Path,
) -> None:
    with progress_bar(bar, len(prompts)) as progress:
        synthesize(generator, prompts, rendered, sampling, output, progress=progress)


def _after_the_opening(run: RunDirectory, junior: Generator, sampling: Sampling) -> list[str]:
    """What the junior writes after the public opening: distinct texts that are not blank.

    Raises:
        UserError: all texts are blank.
    """
    chosen = run.config.prompts
    if not run.written.exists():
        openings = [chosen.opening] * (chosen.limit or 0)
        asked = list(map(asking_of(run.config.junior), openings))
        _sample(junior, "write", openings, asked, sampling, run.written)
    texts = [row["completion"] for _, row in read_jsonl(run.written)]
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    if not distinct:
        raise UserError(
            "synthesize: the junior wrote nothing after prompts.opening; train it for more steps, "
            "or at another learning rate"
        )
    say(f"synthesize: {len(distinct)} distinct texts of {len(texts)} after the opening")
    return distinct


def _describe(run: RunDirectory, programs: Sequence[str], sampling: Sampling) -> Path:
    """Have the public describer write a prompt for each program (the paper's unconditional way)."""
    describer, question = described_by(run)
    asked = {program: question(program) for program in programs}
    whole = [program for program in programs if describer.fits(asked[program])]
    if not whole:
        raise UserError("synthesize: every program is too long for the describer's context")
    described = run.written.with_name(".described.jsonl")
    if not described.exists():
        rendered = [asked[program] for program in whole]
        _sample(describer, "describe", whole, rendered, sampling, described)
    rows = [row for _, row in read_jsonl(described)]
    write_jsonl(
        run.raw,
        (
            {"id": row["id"], "prompt": row["completion"], "completion": row["prompt"]}
            for row in rows
            if row["completion"].strip()
        ),
    )
    return run.raw


def _done(run: RunDirectory) -> None:
    """Delete what the samples were made of, not before the stage is noted."""
    for path in (run.written, run.written.with_name(".described.jsonl")):
        path.unlink(missing_ok=True)


STAGE = Stage(
    name="synthesize",
    made=lambda run: run.raw,
    work=_work,
    outputs=lambda run: [run.raw],
    done=_done,
)
