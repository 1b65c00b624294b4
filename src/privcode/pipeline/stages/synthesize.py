"""Stage 2a: sample solutions of the public prompts from the DP junior."""

from functools import partial
from pathlib import Path

from privcode.cluster import engine
from privcode.console import progress_bar, say
from privcode.errors import UserError
from privcode.generation.sampling import synthesize
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_of, draw, fitting, sampling_of
from privcode.pipeline.scale import generators
from privcode.pipeline.stages._stage import Stage


def _work(run: RunDirectory) -> Path:
    config, section = run.config.synthesize, run.config.junior
    prompts = run.prompts()
    asking = asking_of(section)
    with (
        engine(run.config.scale) as chosen,
        generators(chosen, run, "junior", config, "synthesize") as juniors,
    ):
        fits = fitting(juniors, prompts, asking, chosen)
        whole = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        if len(whole) < len(prompts):
            say(f"synthesize: {len(prompts) - len(whole)} prompts too long for the junior")
        if not whole:
            raise UserError(
                f"{run.config.prompts.file}: every prompt is too long for the junior's context"
            )
        with progress_bar("synthesize", len(whole)) as progress:
            synthesize(
                partial(draw, juniors),
                whole,
                asking,
                sampling_of(config, config.samples_per_prompt),
                run.raw,
                progress=progress,
                engine=chosen,
            )
    return run.raw


STAGE = Stage(
    name="synthesize", made=lambda run: run.raw, work=_work, outputs=lambda run: [run.raw]
)
