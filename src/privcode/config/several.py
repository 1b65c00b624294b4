"""Several runs of one config: the arms of a comparison, and the settings of a sweep."""

from typing import Any, Literal

from pydantic import Field

from privcode.fields import Epsilon, Section, Seed, Size

Method = Literal["privcode", "base", "control", "dpft", "jft", "nondpft"]
Ablation = Literal[
    "no-privsa", "constant-lambda", "no-execution", "no-round-trip", "no-surest", "no-filters"
]
Compared = Method | Ablation


class Compare(Section):
    """Which arms `privcode compare` runs; every arm is this config with one thing changed."""

    methods: list[Compared] = Field(
        ["base", "control", "privcode", "dpft"],
        min_length=1,
        description="methods, and privcode without one part: no-privsa, constant-lambda, "
        "no-execution, no-round-trip, no-surest, no-filters (none of the three)",
    )
    epsilons: dict[Compared, list[Epsilon]] = Field(
        default_factory=dict,
        description="e.g. {privcode: [1, 4]}; methods that are not named: privacy.epsilon",
    )
    seeds: list[Seed] = Field([0], min_length=1, description="of everything but the noise")
    settings: dict[Compared, dict[str, Any]] = Field(
        default_factory=dict,
        description="what a method has of its own: {dpft: {sanitize.learning_rate: 1.0e-4}}",
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="fields to vary under all methods: {validate.round_trip.threshold: [0, 1]}",
    )
    published: list[dict[str, Any]] = Field(
        default_factory=list,
        description="to show beside: {method, epsilon, fields of grid, TASK: pass@1 from 0 to 1}",
    )
    parallel: Size = Field(1, description="arms at a time, each on its share of the cores")


class Score(Section):
    """What makes one setting better than another: pass@1 on a public task file."""

    task: str | None = Field(None, description="one of evaluate.tasks; default: the first")
    model: Literal["junior", "tuned"] = Field("tuned", description="one of evaluate.models")


class Sweep(Section):
    """Settings that `privcode sweep` tries: nothing that bears on the guarantee or the score."""

    settings: dict[str, list[Any]] = Field(
        default_factory=dict, description="e.g. {sanitize.learning_rate: [1.0e-4, 1.0e-3]}"
    )
    score: Score = Field(default_factory=lambda: Score())
    parallel: Size = Field(1, description="runs at a time, each on its share of the cores")
