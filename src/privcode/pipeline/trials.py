"""Trying settings: which there are, which are drawn, and which run is the best.

Promises: only settings that bear neither on the guarantee nor on the score are tried; the number
of trials is Poisson, and each trial's settings uniform over the grid, from the operating system's
cryptographic generator: what `privacy.selection: trials` is accounted for (Papernot & Steinke
2022, theorem 6).
Does not: run anything.
"""

import math
from collections.abc import Mapping
from itertools import product
from random import SystemRandom
from typing import Any

from privcode.config import Config, Sweep, plan_of, with_settings
from privcode.errors import UserError

SECTIONS = ("junior", "sanitize", "synthesize", "validate", "premium", "boost")
MOST_SETTINGS = 1000
Settings = dict[str, Any]


def checked(config: Config) -> Sweep:
    """The section `sweep`, with the name of the score's task.

    Raises:
        UserError: there is nothing to try or no score, or it tries what may not be tried.
    """
    sweep, tasks = config.sweep, [task.name for task in config.evaluate.tasks]
    if not sweep.settings:
        raise UserError("sweep.settings: is empty; name fields and the values to try")
    for field, values in sweep.settings.items():
        if field.partition(".")[0] not in SECTIONS:
            raise UserError(
                f"sweep.settings, {field}: may not vary, since it bears on the guarantee or on "
                f"the score; fields of {', '.join(SECTIONS)} may"
            )
        if not values:
            raise UserError(f"sweep.settings, {field}: has no values; give at least one")
        for value in values:
            if plan_of(variant(config, {field: value})) != plan_of(config):
                raise UserError(f"sweep.settings, {field}: changes the privacy plan; leave it out")
    if (count := math.prod(map(len, sweep.settings.values()))) > MOST_SETTINGS:
        raise UserError(f"sweep.settings: are {count:.3g}, over {MOST_SETTINGS}; try fewer")
    task = sweep.score.task or next(iter(tasks), None)
    if task not in tasks:
        raise UserError(f"sweep.score.task: {task} is none of evaluate.tasks")
    if sweep.score.model not in config.evaluate.models:
        raise UserError(f"sweep.score.model: {sweep.score.model} is none of evaluate.models")
    if 1 not in config.evaluate.k:
        raise UserError("evaluate.k: must hold 1; the score of a sweep is pass@1")
    if config.method != "privcode":
        raise UserError(f"method: is {config.method}; only privcode runs are swept")
    return sweep.model_copy(update={"score": sweep.score.model_copy(update={"task": task})})


def variant(config: Config, settings: Settings) -> Config:
    """`config` with these settings, field -> value.

    Raises:
        UserError: there is no such field, or the value is wrong.
    """
    return with_settings(config, settings, "sweep.settings")


def grid(sweep: Sweep) -> list[Settings]:
    """All settings."""
    return [
        dict(zip(sweep.settings, values, strict=True))
        for values in product(*sweep.settings.values())
    ]


def poisson(mean: float, random: SystemRandom) -> int:
    """A Poisson-distributed number: how many arrivals, exponentially spaced, before `mean`."""
    count, time = -1, 0.0
    while time < mean:
        time -= math.log1p(-random.random())
        count += 1
    return count


def draw(sweep: Sweep, mean: float) -> list[Settings]:
    """The settings of Poisson-many trials, each drawn alone. There may be none."""
    random = SystemRandom()
    everything = grid(sweep)
    return [random.choice(everything) for _ in range(poisson(mean, random))]


def best(scores: Mapping[str, float | None]) -> str | None:
    """Name of the highest score, the first of equals; None where no run has a score."""
    scored = [name for name, score in scores.items() if score is not None]
    return max(scored, key=lambda name: scores[name] or 0.0, default=None)
