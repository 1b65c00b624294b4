"""The settings of where the work on public data is done."""

from typing import Literal

from pydantic import Field

from privcode.fields import Amount, Section, Size, Text


class Scale(Section):
    """Where synthesize, validate and evaluate do their work. It does not change what they make."""

    engine: Literal["local", "ray"] = Field(
        "local", description="local (this machine), or ray (a Ray cluster that is running)"
    )
    address: Text = Field(
        "auto",
        description="auto (the cluster that this machine is part of), or HOST:PORT of its head",
    )
    workers: Size | None = Field(
        None,
        description="number of processes that hold a model; default: one for each GPU, or for each "
        "machine where there is none",
    )
    gpus: Amount | None = Field(
        None, description="number of GPUs of each; default: 1, or 0 where the cluster has none"
    )
