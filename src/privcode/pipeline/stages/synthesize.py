"""Stage 2a: sample solutions of the public prompts from the DP junior."""

from pathlib import Path

from privcode.console import progress_bar, say
from privcode.errors import UserError
from privcode.generation.backends import backend_of
from privcode.generation.sampling import synthesize
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_of, sampling_of, weights_of
from privcode.pipeline.stages._stage import Stage


def _work(run: RunDirectory) -> Path:
    config, section = run.config.synthesize, run.config.junior
    prompts = run.prompts()
    backend = backend_of(config, "synthesize", run.answers)
    generator = backend(weights_of(run, "junior"), config.batch_size)
    asking = asking_of(section)
    whole = [p for p in prompts if generator.fits(asking(p))]
    if len(whole) < len(prompts):
        say(f"synthesize: {len(prompts) - len(whole)} prompts too long for the junior")
    if not whole:
        raise UserError(
            f"{run.config.prompts.file}: every prompt is too long for the junior's context"
        )
    with progress_bar("synthesize", len(whole)) as progress:
        synthesize(
            generator,
            whole,
            list(map(asking, whole)),
            sampling_of(config, config.samples_per_prompt),
            run.raw,
            progress=progress,
        )
    return run.raw


STAGE = Stage(
    name="synthesize", made=lambda run: run.raw, work=_work, outputs=lambda run: [run.raw]
)
