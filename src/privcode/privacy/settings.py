"""The settings that decide the guarantee."""

from typing import Literal

from pydantic import Field, model_validator

from privcode.fields import Epsilon, Finite, Positive, Section, Seed
from privcode.privacy.plan import Selection


class Privacy(Section):
    """Everything that decides the guarantee."""

    epsilon: Epsilon | None = Field(4.0, description="target ε; .inf trains without privacy")
    noise_multiplier: Finite | None = Field(
        None, description="noise multiplier, to set instead of epsilon (then epsilon: null)"
    )
    delta: Finite = Field(description="δ; 1/(10·units) is usual, and more than 1/units is refused")
    units: Positive = Field(
        description="number of units that you declare and publish; not the true count"
    )
    unit: Literal["record", "column"] = Field(
        "record", description="what is protected: one record, or all records of one owner (column)"
    )
    max_records_per_unit: Positive = Field(
        1, description="maximum number of records of one unit that take part"
    )
    batch: Positive = Field(256, description="expected number of units in a step")
    steps: Positive = Field(100, description="number of training steps, each with noise")
    clip_norm: Finite = Field(
        1.0, description="clip norm: the largest L2 norm of one unit's gradient"
    )
    noise: Literal["cryptographic", "reproducible"] = Field(
        "cryptographic", description="reproducible noise makes a run repeatable, but not releasable"
    )
    seed: Seed = Field(
        0, description="seed of reproducible noise, and of the choice of each unit's records"
    )
    selection: Selection = Field(
        "composition",
        description="how earlier runs over the same data count. composition: all count in ε; "
        "trials: ε covers choosing the best run of a privcode sweep; not-charged: they do not "
        "count in ε, and every output says so",
    )
    trials: Finite | None = Field(
        None, ge=1, le=10**4, description="with selection: trials, the mean number of trials"
    )

    @model_validator(mode="after")
    def _one_target(self) -> "Privacy":
        if self.noise_multiplier is not None and self.epsilon is not None:
            raise ValueError("give epsilon: null with noise_multiplier")
        if (self.selection == "trials") != (self.trials is not None):
            raise ValueError("trials belongs to selection: trials; give both or none")
        return self
