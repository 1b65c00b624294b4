"""What is planted and held out, to measure what leaks."""

from pydantic import Field

from privcode.fields import Count, Name, Planted, Repetitions, Section, Seed, Size


class Audit(Section):
    """Planted canaries (empty repetitions: none), and records held out for membership inference."""

    repetitions: list[Repetitions] = Field(default_factory=list, description="e.g. [1, 10, 100]")
    candidates: Count = Field(
        1000,
        le=10**7,
        description="other secrets that each canary's exposure is ranked among; 0: none",
    )
    holdout: Count = Field(
        0,
        description="about so many units are not trained on, to see whether others can be told "
        "from them; what comes of it stays in private/",
    )
    samples: Size = Field(
        20, description="samples for each canary's own prompt, beside its likeliest answer"
    )
    max_new_tokens: Size = 128
    seed: Seed = 0
    gradient_canaries: Planted = Field(
        0,
        description="units of known gradient, half of which take part: a lower bound on ε from "
        "what training gives away; each takes a coordinate of the adapter",
    )
    attacks: list[Name] = Field(
        default_factory=list,
        description="attacks that other packages add, by name; what they find stays in private/",
    )
    coin_canaries: Planted = Field(
        0,
        description="made-up records, half of which take part: lower bounds on ε from the models",
    )
