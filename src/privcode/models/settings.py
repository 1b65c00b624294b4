"""The settings of a model and its adapter."""

from typing import Literal

from pydantic import Field, model_validator

from privcode.fields import File, Fraction, Positive, Section, Size, Text
from privcode.models.templates import FIM, is_chat

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "8bit", "4bit"]


class Lora(Section):
    """The low-rank adapter (LoRA) of the model."""

    r: Positive = Field(16, le=65536, description="rank of the adapter")
    alpha: Size = Field(
        32, description="scale of the adapter: its update is multiplied by alpha / r"
    )
    dropout: Fraction = Field(0.0, description="dropout of plain training; DP training has none")
    targets: list[str] | None = Field(
        None, description="names of layers to adapt; default: all linear layers but the head"
    )


class Model(Section):
    """A Hugging Face causal language model."""

    model: File = Field(
        description="hub name, local folder, GGUF file, or bundled:junior, bundled:premium or "
        "bundled:writer"
    )
    dtype: Dtype = Field("float32", description="data type of the base model's weights")
    quantization: Quantization = Field(
        "none",
        description="bits of the base model's weights while its adapter is trained: none (those of "
        "dtype), 8bit or 4bit (extra quant); less memory, more time",
    )
    lora: Lora = Field(default_factory=lambda: Lora())
    max_tokens: Size = Field(1024, description="context in tokens; longer records are cut")
    template: Text = Field(
        "Question: {prompt}\n\nAnswer:\n",
        description="how a prompt is put to the model: a text with {prompt}; chat (the "
        "tokenizer's chat template); a Jinja chat template; fim (code completion: the model fills "
        "the gap where the prompt has <FILL_ME>); or a text with {prefix} and {suffix}",
    )
    system: Text | None = Field(None, description="text of the system turn, for chat templates")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations: less memory, more time"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Model":
        chat = is_chat(self.template)
        placed = "{prompt}" in self.template or "{suffix}" in self.template
        if not (chat or placed or self.template == FIM):
            raise ValueError(
                "template: holds no {prompt}; write chat, fim, a Jinja chat template, or a text "
                "with {prompt}, or with {prefix} and {suffix}"
            )
        if self.system and not chat:
            raise ValueError("system: only a chat has a system turn; write template: chat")
        return self
