"""The settings of the filters, which decide what samples are kept."""

from typing import Literal, Self

from pydantic import Field, model_validator

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
from privcode.generation.settings import Sampled
from privcode.models.settings import Dtype


class Execution(Section):
    """Execution filter: keep samples whose code ends with exit code 0 in the sandbox."""

    enabled: bool = Field(True, description="whether this filter is used")
    sandbox: str = Field("auto", description="auto, or the name of a sandbox that doctor lists")
    prelude: File | None = Field(
        None, description="file of code to put before each sample in the language of the data"
    )
    files: list[File] = Field(
        default_factory=list,
        description="files to put next to every program: modules, headers, jars, data",
    )
    cpu_seconds: Seconds = Field(5.0, description="processor time limit of each program")
    memory_mb: Memory = Field(
        1024, description="memory limit of each program with all its processes"
    )
    preload: list[str] = Field(
        default_factory=list, description="modules that are imported before every program starts"
    )


class RoundTrip(Sampled):
    """Round-trip filter: keep samples whose code, described in words, resembles the prompt."""

    method: Literal["bertscore", "embeddings", "likelihood", "off"] = Field(
        "likelihood",
        description="likelihood (how much the code helps to guess the prompt); bertscore (the "
        "paper's) or embeddings (similarity of a description and the prompt); off",
    )
    describer: File | None = Field(
        None, description="model that reads the code; default: the premium"
    )
    dtype: Dtype = Field("float32", description="data type of the describer's weights")
    template: Text = Field(
        "Answer:\n{code}\n\nQuestion:\n", description="template that asks for the problem"
    )
    chat: bool | None = Field(
        None,
        description="whether the describer is asked in its chat template; default: true where "
        "the premium describes and its template is a chat",
    )
    similarity_model: File | None = Field(
        None, description="encoder model, for bertscore and embeddings"
    )
    similarity_layers: Size | None = Field(
        None, description="number of the encoder's layer to read, for bertscore"
    )
    samples: Size = Field(20, description="number of descriptions of each sample's code")
    temperature: Temperature = Field(0.8, description="temperature of the descriptions")
    max_new_tokens: Size = Field(200, description="maximum number of tokens of a description")
    threshold: Finite = Field(
        0.0, description="lowest score τ to keep; for likelihood, gain in nats per token"
    )
    batch_size: Size = Field(16, description="number of sequences in one pass")
    seed: Seed = Field(0, description="seed of the descriptions")

    @model_validator(mode="after")
    def _gives_probabilities(self) -> Self:
        if self.method == "likelihood" and self.backend != "local":
            raise ValueError(
                f"backend: is {self.backend}, and method likelihood reads probabilities, "
                "which only local gives; choose method bertscore or embeddings, or backend local"
            )
        return self


class Validate(Section):
    """The filters. A sample is kept if it passes all of them."""

    execution: Execution = Field(default_factory=lambda: Execution())
    round_trip: RoundTrip = Field(default_factory=lambda: RoundTrip())
    filters: list[Name] = Field(
        default_factory=list,
        description="names of filters that other packages add; applied after the two above",
    )
    surest: Share = Field(
        1.0,
        description="share to keep of the samples that pass: those that the junior finds "
        "likeliest, by the mean log-probability of their tokens (not in the paper; 1: all)",
    )
