"""Which samples are kept."""

from typing import Literal

from pydantic import Field

from privcode.fields import (
    File,
    Finite,
    Memory,
    Name,
    Seconds,
    Section,
    Seed,
    Share,
    Size,
    Temperature,
    Text,
)
from privcode.models.settings import Dtype


class Execution(Section):
    """Keep samples whose code runs with exit code 0, in the sandbox."""

    enabled: bool = True
    sandbox: str = Field("auto", description="auto, or the name of one that doctor lists")
    prelude: File | None = Field(
        None, description="file of code put before each sample in the language of the data"
    )
    files: list[File] = Field(
        default_factory=list,
        description="files that lie beside every program: modules to import, headers, jars, data",
    )
    cpu_seconds: Seconds = 5.0
    memory_mb: Memory = 1024
    preload: list[str] = Field(
        default_factory=list, description="modules that every program finds imported already"
    )


class RoundTrip(Section):
    """Keep samples whose code, put back into words, resembles the prompt."""

    method: Literal["bertscore", "embeddings", "likelihood", "off"] = "likelihood"
    describer: File | None = Field(None, description="model that describes; default: the premium")
    dtype: Dtype = Field("float32", description="of the describer's weights")
    template: Text = Field("Answer:\n{code}\n\nQuestion:\n", description="asks for the problem")
    similarity_model: File | None = Field(None, description="for bertscore and embeddings")
    similarity_layers: Size | None = Field(None, description="bertscore: layer to read")
    samples: Size = 20
    temperature: Temperature = 0.8
    max_new_tokens: Size = 200
    threshold: Finite = Field(0.0, description="τ; likelihood: nats per token gained")
    batch_size: Size = 16
    seed: Seed = 0


class Validate(Section):
    """The filters."""

    execution: Execution = Field(default_factory=lambda: Execution())
    round_trip: RoundTrip = Field(default_factory=lambda: RoundTrip())
    filters: list[Name] = Field(
        default_factory=list,
        description="filters that other packages add, by name; asked after the two above",
    )
    surest: Share = Field(
        1.0,
        description="share to keep of what passes both: the samples that the junior finds "
        "likeliest, by the mean log-probability of their tokens (not in the paper; 1: all)",
    )
