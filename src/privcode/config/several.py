"""Several runs of one config: the arms of a comparison, and the settings of a sweep."""

from typing import Any, Literal

from pydantic import Field

from privcode.fields import Epsilon, Section, Seed, Size

Method = Literal["privcode", "base", "control", "dpft", "jft", "nondpft"]
Ablation = Literal[
    "synthesised",
    "latent",
    "described",
    "no-privsa",
    "constant-lambda",
    "no-execution",
    "no-round-trip",
    "no-surest",
    "no-filters",
]
Joint = Literal["dpft-joint", "nondpft-joint"]
Compared = Method | Ablation | Joint


class Compare(Section):
    """The arms that `privcode compare` runs. Every arm is this config with one thing changed."""

    methods: list[Compared] = Field(
        ["base", "control", "privcode", "dpft"],
        min_length=1,
        description="methods to run, or privcode without one part: synthesised or described "
        "(without public prompts), no-privsa, constant-lambda, no-execution, no-round-trip, "
        "no-surest, no-filters (none of the three); or a baseline on prompt and code: dpft-joint, "
        "nondpft-joint",
    )
    epsilons: dict[Compared, list[Epsilon]] = Field(
        default_factory=dict,
        description="values of ε for a method, e.g. {privcode: [1, 4]}; default: privacy.epsilon",
    )
    seeds: list[Seed] = Field(
        [0],
        min_length=1,
        description="seeds of sanitize, synthesize, boost, evaluate and audit; not of the noise",
    )
    settings: dict[Compared, dict[str, Any]] = Field(
        default_factory=dict,
        description="settings of one method, e.g. {dpft: {sanitize.learning_rate: 1.0e-4}}",
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="fields to vary for all methods, e.g. {validate.round_trip.threshold: [0, 1]}",
    )
    published: list[dict[str, Any]] = Field(
        default_factory=list,
        description="published figures to show next to ours: {method, epsilon, fields of grid, "
        "TASK: pass@1 from 0 to 1}",
    )
    parallel: Size = Field(
        1, description="number of arms at a time, each on its share of the cores"
    )


class Score(Section):
    """How settings are ranked: by pass@1 on a public task file."""

    task: str | None = Field(None, description="name of one of evaluate.tasks; default: the first")
    model: Literal["junior", "tuned"] = Field(
        "tuned", description="model to score, one of evaluate.models: junior or tuned"
    )


class Sweep(Section):
    """The settings that `privcode sweep` tries. They must not affect the guarantee or the score."""

    settings: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="values to try, by field, e.g. {sanitize.learning_rate: [1.0e-4, 1.0e-3]}",
    )
    score: Score = Field(default_factory=lambda: Score())
    parallel: Size = Field(
        1, description="number of runs at a time, each on its share of the cores"
    )
