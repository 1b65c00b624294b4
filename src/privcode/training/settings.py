"""How the junior is tuned with DP-SGD, and the premium without noise."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from privcode.fields import Amount, Count, Fraction, Positive, Rate, Section, Seed, Size


def _micro_batch(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (number and 1 <= value <= 10**6 and value == int(value)):
        raise ValueError("must be auto, or a whole number from 1 to 1,000,000")
    return value


MicroBatch = Annotated[int | Literal["auto"], BeforeValidator(_micro_batch)]


class Syntax(Section):
    """PrivSA, the syntax-aware term: λ(t) × KL to the untuned junior on structural tokens."""

    schedule: Literal["decay", "constant", "off"] = Field(
        "decay", description="schedule of λ: decay, constant (at lambda_max) or off (no term)"
    )
    lambda_max: Amount = Field(1000.0, description="λ at the start")
    lambda_min: Amount = Field(0.1, description="value that λ decays to")
    decay: Amount = Field(0.01, description="rate α of the decay: λ falls as exp(-α·step)")


class Sanitize(Section):
    """DP-SGD on the junior. These settings only steer training. None affects the guarantee."""

    learning_rate: Rate = Field(1e-4, description="highest learning rate (AdamW)")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="schedule of the learning rate after warm-up: cosine or constant"
    )
    warmup_steps: Count = Field(5, description="steps in which the learning rate rises")
    weight_decay: Amount = Field(0.05, description="weight decay (AdamW)")
    micro_batch: MicroBatch = Field(
        8,
        description="records in one pass; affects memory, and on a GPU or in 16 bits the last "
        "bits; auto: as many as fit, by a trial before the budget is spent",
    )
    shard: bool = Field(
        False,
        description="divide the frozen model over the processes of torchrun: less memory in each, "
        "more traffic between them, the same update",
    )
    checkpoint_every: Positive = Field(10, description="number of steps between checkpoints")
    syntax: Syntax = Field(default_factory=lambda: Syntax())
    merge: bool = Field(False, description="write the whole model too, with the adapter merged in")
    seed: Seed = Field(0, description="seed of the adapter's initial weights")


class Boost(Section):
    """Plain fine-tuning of the premium model on the accepted pairs."""

    method: Literal["lora", "full"] = Field(
        "lora", description="lora: train an adapter; full: train all weights"
    )
    epochs: Size = Field(2, description="number of passes over the pairs")
    learning_rate: Rate = Field(1e-4, description="highest learning rate (AdamW)")
    batch_size: Size = Field(
        32, description="pairs in one step, of all processes of torchrun together"
    )
    micro_batch: Size = Field(8, description="pairs in one pass of a process; affects memory")
    shard: bool = Field(
        False,
        description="divide the model, its gradients and the optimizer over the processes of "
        "torchrun: less memory in each, more traffic between them",
    )
    warmup_ratio: Fraction = Field(
        0.05, description="share of the steps in which the learning rate rises"
    )
    weight_decay: Amount = Field(0.0, description="weight decay (AdamW)")
    merge: bool = Field(
        False, description="lora: write the whole model too, with the adapter merged in"
    )
    limit: Positive | None = Field(
        None, description="nondpft and jft: number of private records to tune on; default: all"
    )
    seed: Seed = Field(0, description="seed of the adapter's initial weights and of the order")
