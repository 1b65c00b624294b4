"""A model and its adapter, as the config names them."""

from typing import Literal

from pydantic import Field

from privcode.fields import File, Fraction, Positive, Section, Size, Text

Dtype = Literal["float32", "bfloat16", "float16"]


class Lora(Section):
    """A low-rank adapter."""

    r: Positive = Field(16, le=65536, description="rank")
    alpha: Size = Field(32, description="scale: the update is multiplied by alpha / r")
    dropout: Fraction = Field(0.0, description="of plain training; DP training goes without")
    targets: list[str] | None = Field(None, description="layers; default: attention and MLP")


class Model(Section):
    """A Hugging Face causal language model."""

    model: File = Field(description="hub id, local path, or bundled:junior / bundled:premium")
    dtype: Dtype = Field("float32", description="of the base model's weights")
    lora: Lora = Field(default_factory=lambda: Lora())
    max_tokens: Size = Field(1024, description="context; longer records are truncated")
    template: Text = Field("Question: {prompt}\n\nAnswer:\n", description="how a prompt is put")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
