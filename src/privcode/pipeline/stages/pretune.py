"""Jft's first stage: plain tuning of the premium model on the private records, masked."""

from pathlib import Path

from privcode.data.masking import mask
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.stages._stage import Stage
from privcode.pipeline.stages.boost import private_pairs, tune


def _work(run: RunDirectory) -> Path:
    pairs, number = private_pairs(run)
    masked = ((mask(prompt), mask(code)) for prompt, code in pairs)
    tune(run, masked, number, run.pretuned)
    return run.pretuned


STAGE = Stage(
    name="pretune",
    made=lambda run: run.pretuned,
    work=_work,
    outputs=lambda run: [],
    private=("pretuned",),
)
