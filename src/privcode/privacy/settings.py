"""Everything that decides the guarantee, as the config says it."""

from typing import Literal

from pydantic import Field, model_validator

from privcode.fields import Epsilon, Finite, Positive, Section, Seed
from privcode.privacy.plan import Selection


class Privacy(Section):
    """Everything that decides the guarantee."""

    epsilon: Epsilon | None = Field(4.0, description="target ε; .inf trains without privacy")
    noise_multiplier: Finite | None = Field(
        None, description="instead of epsilon: the noise itself"
    )
    delta: Finite = Field(description="δ; 1/(10·units) is usual, more than 1/units is refused")
    units: Positive = Field(description="declared, public number of units: not the true count")
    unit: Literal["record", "column"] = Field(
        "record", description="what is protected: one record, or all records of one owner (column)"
    )
    max_records_per_unit: Positive = Field(1, description="records of one unit that may take part")
    batch: Positive = Field(256, description="expected units per step")
    steps: Positive = Field(100, description="noised updates")
    clip_norm: Finite = Field(1.0, description="bound on one unit's gradient")
    noise: Literal["cryptographic", "reproducible"] = Field(
        "cryptographic", description="reproducible noise makes runs repeatable, not releasable"
    )
    seed: Seed = Field(0, description="of reproducible noise; unused otherwise")
    selection: Selection = Field(
        "composition",
        description="runs over the same data, and choosing settings by them: composition composes "
        "all of them into ε; trials charges the best of a privcode sweep; not-charged leaves them "
        "out of ε, and says so on everything",
    )
    trials: Finite | None = Field(
        None, ge=1, le=10**4, description="selection trials: mean of the random number of trials"
    )

    @model_validator(mode="after")
    def _one_target(self) -> "Privacy":
        if self.noise_multiplier is not None and self.epsilon is not None:
            raise ValueError("give epsilon: null with noise_multiplier")
        if (self.selection == "trials") != (self.trials is not None):
            raise ValueError("trials belongs to selection: trials; give both or none")
        return self
