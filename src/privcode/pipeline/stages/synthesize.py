"""Stage 2a: sample pairs of prompt and code from the DP junior.

Promises: post-processing alone: nothing private is read. What is written in place of public prompts
is on disk before it is used, so a killed run goes on with the same prompts.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from privcode.cluster import Engine, Workers, engine
from privcode.console import progress_bar, say
from privcode.data.texts import Texts, distinct
from privcode.errors import NothingLeft
from privcode.files import Lines, write_jsonl
from privcode.generation import Generator, Sampling
from privcode.generation.sampling import synthesize
from privcode.pipeline import topics
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_of, draw, fitting, question_of, sampling_of
from privcode.pipeline.scale import describing, generators
from privcode.pipeline.stages._stage import Stage


def _work(run: RunDirectory) -> Path:
    config, chosen = run.config.synthesize, run.config.prompts
    code = sampling_of(config, config.samples_per_prompt)
    words = Sampling(
        temperature=chosen.temperature,
        top_p=config.top_p,
        max_new_tokens=chosen.max_new_tokens,
        seed=config.seed ^ 1 << 62,  # another stream than that of the code
        latent=chosen.source == "latent",
    )
    with engine(run.config.scale) as where:
        with generators(where, run, "junior", config, "synthesize") as juniors:
            if chosen.source == "public":
                prompts = run.prompts()
            else:
                first = code if chosen.source == "described" else words
                prompts = _after_the_opening(run, where, juniors, first)
            if chosen.source != "described":
                asking = asking_of(run.config.junior)
                _answers(where, juniors, "synthesize", prompts, asking, code, run.raw)
                return run.raw
        described = _described(run)
        if not described.exists():
            question = question_of(run.config)
            with describing(where, run.config, run.answers) as describers:
                _answers(where, describers, "describe", prompts, question, words, described)
    rows = (row for row in Lines(described) if row["completion"].strip())
    swapped = (row | {"prompt": row["completion"], "completion": row["prompt"]} for row in rows)
    write_jsonl(run.raw, swapped)
    return run.raw


def _answers(
    where: Engine,
    models: Workers[Generator],
    bar: str,
    prompts: Texts,
    asking: Callable[[str], str],
    sampling: Sampling,
    output: Path,
) -> None:
    """Write what models answer to the prompts that are short enough for them.

    Raises:
        NothingLeft: none is.
    """
    fits = fitting(models, prompts, asking, where)
    whole = prompts.where(fits)
    if len(whole) < len(prompts):
        say(f"{bar}: {len(prompts) - len(whole)} of {len(prompts)} texts too long for the model")
    if not whole:
        raise NothingLeft(
            f"{bar}: every text is too long for the model's context; choose a model with a longer "
            "one, or give shorter prompts"
        )
    with progress_bar(bar, len(whole)) as progress:
        sample = partial(draw, models)
        synthesize(sample, whole, asking, sampling, output, progress=progress, engine=where)


def _after_the_opening(
    run: RunDirectory, where: Engine, juniors: Workers[Generator], sampling: Sampling
) -> Texts:
    """What the junior writes after the public opening: distinct texts that are not blank.

    Raises:
        NothingLeft: all texts are blank.
    """
    if not run.written.exists():
        openings = topics.openings(run)
        asking = asking_of(run.config.junior)
        asked = {opening: asking(opening) for opening in dict.fromkeys(openings)}
        put = asked.__getitem__
        _answers(where, juniors, "write", Texts(openings), put, sampling, run.written)
    texts = Lines(run.written)
    written = Texts(distinct(row["completion"] for row in texts if row["completion"].strip()))
    if not written:
        raise NothingLeft(
            "synthesize: the junior wrote nothing after prompts.opening; train it for more steps, "
            "or at another learning rate"
        )
    say(f"synthesize: {len(written)} distinct texts of {len(texts)} after the opening")
    return written


def _described(run: RunDirectory) -> Path:
    return run.written.with_name(".described.jsonl")


def _done(run: RunDirectory) -> None:
    """Delete what the samples were made of, not before the stage is noted."""
    for path in (run.written, _described(run)):
        path.unlink(missing_ok=True)


STAGE = Stage(
    name="synthesize",
    made=lambda run: run.raw,
    work=_work,
    outputs=lambda run: [run.raw],
    done=_done,
)
