"""What is planted and held out, to measure what leaks."""

from typing import Literal

from pydantic import Field

from privcode.fields import Count, Name, Planted, Repetitions, Section, Seed, Size

Place = Literal["code", "prompt", "both"]
"""Where a planted secret stands in its pair."""


class Audit(Section):
    """Planted canaries, and units held out for membership inference. By default there are none."""

    repetitions: list[Repetitions] = Field(
        default_factory=list,
        description="numbers of records to plant a canary in, e.g. [1, 10, 100]; empty: none",
    )
    places: list[Place] = Field(
        ["code"],
        min_length=1,
        description="where the secret of a canary stands: in the code, in the prompt, or the same "
        "secret in both; each canary is planted once for every place",
    )
    candidates: Count = Field(
        1000,
        le=10**7,
        description="number of other secrets that each canary is ranked among; 0: no exposure",
    )
    holdout: Count = Field(
        0,
        description="expected number of units that are not trained on, for membership inference; "
        "its results stay in private/",
    )
    samples: Size = Field(
        20, description="samples for each canary's prompt, in addition to its likeliest answer"
    )
    max_new_tokens: Size = Field(128, description="maximum number of tokens of each sample")
    seed: Seed = Field(0, description="seed of the canaries, the held-out units and the samples")
    gradient_canaries: Planted = Field(
        0,
        description="number of made-up units with a known gradient, for a lower bound on ε from "
        "what training releases; about half take part; each takes a coordinate of the adapter",
    )
    attacks: list[Name] = Field(
        default_factory=list,
        description="names of attacks that other packages add; their results stay in private/",
    )
    coin_canaries: Planted = Field(
        0,
        description="number of made-up records, for lower bounds on ε from the models; about half "
        "take part",
    )
