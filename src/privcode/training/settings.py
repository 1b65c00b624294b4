"""How the junior is tuned with DP-SGD, and the premium without noise."""

from typing import Literal

from pydantic import Field

from privcode.fields import Amount, Count, Fraction, Positive, Rate, Section, Seed, Size


class Syntax(Section):
    """PrivSA, the syntax-aware term: λ(t) × KL to the untuned junior on structural tokens."""

    schedule: Literal["decay", "constant", "off"] = Field("decay", description="of λ")
    lambda_max: Amount = Field(1000.0, description="at the start")
    lambda_min: Amount = Field(0.1, description="in the end")
    decay: Amount = Field(0.01, description="α: λ falls as exp(-α·step)")


class Sanitize(Section):
    """DP-SGD on the junior: optimisation only, nothing here bears on the guarantee."""

    learning_rate: Rate = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Count = 5
    weight_decay: Amount = 0.05
    micro_batch: Size = Field(8, description="records at a time; memory only, same result")
    checkpoint_every: Positive = Field(10, description="steps between checkpoints")
    syntax: Syntax = Field(default_factory=lambda: Syntax())
    merge: bool = Field(False, description="also write the whole model, adapter merged in")
    seed: Seed = Field(0, description="of the adapter's start")


class Boost(Section):
    """Plain fine-tuning of the premium model on the accepted pairs."""

    method: Literal["lora", "full"] = "lora"
    epochs: Size = 2
    learning_rate: Rate = 1e-4
    batch_size: Size = 32
    micro_batch: Size = 8
    warmup_ratio: Fraction = 0.05
    weight_decay: Amount = 0.0
    merge: bool = Field(False, description="lora: also write the whole model, adapter merged in")
    limit: Positive | None = Field(None, description="nondpft, jft: private records to tune on")
    seed: Seed = 0
