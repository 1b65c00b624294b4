"""Models and their tokenizers: loaded by name, adapted, and asked in one way by every stage.

Promises:
- A model that cannot be used is refused in one line.
- A prompt becomes the same tokens in training and in generation.

Does not: train or sample. It imports torch and transformers only when one of these is asked for,
because every config is read through this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from privcode.models.settings import Dtype
from privcode.models.templates import around, asking, is_chat, is_fim, render

if TYPE_CHECKING:
    from privcode.models.latent import Latent, attach_latent, load_latent
    from privcode.models.loading import (
        Sizes,
        attach_lora,
        check_model,
        context_length,
        device_here,
        load_adapter,
        load_encoder,
        load_generation_config,
        load_model,
        load_tokenizer,
        public_name,
        sizes,
        source_of,
    )
    from privcode.models.saving import save_merged, save_model
    from privcode.models.tokens import (
        Answer,
        answer_texts,
        answer_tokens,
        end_tokens,
        pair_tokens,
        prompt_tokens,
        special_tokens_before,
        tokenizer_of,
    )

__all__ = [
    "Answer",
    "Dtype",
    "Latent",
    "Sizes",
    "answer_texts",
    "answer_tokens",
    "around",
    "asking",
    "attach_latent",
    "attach_lora",
    "check_model",
    "context_length",
    "device_here",
    "end_tokens",
    "is_chat",
    "is_fim",
    "load_adapter",
    "load_encoder",
    "load_generation_config",
    "load_latent",
    "load_model",
    "load_tokenizer",
    "pair_tokens",
    "prompt_tokens",
    "public_name",
    "render",
    "save_merged",
    "save_model",
    "sizes",
    "source_of",
    "special_tokens_before",
    "tokenizer_of",
]
_MODULES = {
    "latent": ("Latent", "attach_latent", "load_latent"),
    "saving": ("save_merged", "save_model"),
    "tokens": (
        "Answer",
        "answer_texts",
        "answer_tokens",
        "end_tokens",
        "pair_tokens",
        "prompt_tokens",
        "special_tokens_before",
        "tokenizer_of",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names), "loading")
    return getattr(import_module(f"{__name__}.{module}"), name)
