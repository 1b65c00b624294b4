"""Models, tokenizers and adapters, loaded by name.

Promises:
- A name that cannot be loaded gives one line, never a traceback.
- A model or adapter that lacks a weight is refused, because the libraries would draw the weight at
  random.
- A model or adapter with a weight that is not a finite number is refused.
- Code from a model's repository is never run.

Does not: train, or divide one model over several processes (`models.sharding`).
`models.saving` writes.
"""

import os
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForCausalLM, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from privcode.errors import UserError
from privcode.models import _gguf, quantised
from privcode.models.layers import Layers, layers_of, left_out
from privcode.models.settings import Dtype, Quantization
from privcode.models.trial import try_model

UNLIMITED = 1 << 40
"""Tokens: more than any text has."""

_BUNDLED = "bundled:"
_ASSETS = Path(__file__).parents[1] / "assets"
# What the libraries raise for a missing, half-written or unsupported model.
_LOAD_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    RuntimeError,
    SafetensorError,
    struct.error,
    AssertionError,
    AttributeError,
    TypeError,
    EOFError,
    UnpicklingError,
)
_POINTER = b"version https://git-lfs.github.com/"


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of model `name` (a folder, a GGUF file, a hub name or "bundled:junior").

    A tokenizer without a pad token pads with its end-of-sequence token.

    Raises:
        UserError: the tokenizer cannot be loaded, reports no offsets, or has neither token.
    """
    tokenizer = _load(AutoTokenizer, "tokenizer", name)
    if _gguf.is_gguf(name):
        _gguf.split_as_in(tokenizer, name)
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer {name}: reports no offsets; choose a model with a tokenizer.json"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"tokenizer {name}: has neither a pad nor an end-of-sequence token; "
                "set one in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str,
    dtype: Dtype = "float32",
    device: str | None = None,
    quantization: Quantization = "none",
) -> PreTrainedModel:
    """The causal language model `name` in `dtype`, in eval mode.

    It is on `device`; by default on the GPU, if there is one. A quantised model is frozen.

    Raises:
        UserError: the model cannot be loaded, lacks a weight, or has one that is not finite; it
            cannot be quantised.
    """
    kind: Any = AutoModelForCausalLM
    on, type_ = device or device_here(), getattr(torch, dtype)
    if quantization == "none":
        return _load_whole(kind, name, type_).to(on)
    packed = quantised.options(quantization, type_, on)
    model = _load_whole(kind, name, type_, options=packed)
    quantised.make_exact(name, model, type_)
    return model


@cache
def check_model(name: str, dtype: Dtype) -> None:
    """Load `name` once, on the CPU, try it on a few tokens, and drop it.

    Raises:
        UserError: as for `load_model` and `try_model`.
    """
    try_model(name, _load_whole(AutoModelForCausalLM, name, getattr(torch, dtype)))


def load_encoder(name: str) -> PreTrainedModel:
    """The model `name` without its head, fp32, in eval mode. It maps texts to hidden states.

    Its pooler may be missing, because hidden states do not pass through it. Language models have
    no pooler.

    Raises:
        UserError: the model cannot be loaded, lacks a weight, or has one that is not finite.
    """
    return _load_whole(AutoModel, name, torch.float32, unused=("pooler.",)).to(device_here())


def attach_lora(
    model: PreTrainedModel,
    r: int,
    alpha: float,
    dropout: float,
    targets: list[str] | None = None,
) -> PeftModel:
    """`model`, frozen, with trainable fp32 LoRA adapters (paper, released settings).

    Args:
        model: changed in place. Its weights are frozen.
        r: the adapters' rank.
        alpha: the update is scaled by alpha / r.
        dropout: dropout on the adapters' input.
        targets: names of layers. Default: all linear layers but the head; see `layers`.

    Raises:
        UserError: a named target is no linear layer of the model, or cannot be adapted.
    """
    return _adapted(model, layers_of(model, targets), r, alpha, dropout)


def _adapted(
    model: PreTrainedModel, layers: Layers, r: int, alpha: float, dropout: float
) -> PeftModel:
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=layers.names,
    )
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise UserError(
            f"lora.targets: cannot be adapted ({_reason(error)}); name other linear layers"
        ) from error


class Sizes(NamedTuple):
    """Numbers of parameters.

    Attributes:
        base: of the model.
        adapter: of its adapter.
        adapted: of the layers that have an adapter.
        left_out: of the other parts, by kind, without single vectors.
    """

    base: int
    adapter: int
    adapted: int
    left_out: dict[str, int]


def sizes(name: str, r: int, targets: list[str] | None = None) -> Sizes:
    """The sizes of model `name` and of its adapter, from its config: no weights, no network.

    Raises:
        UserError: the config is not on this machine or not supported; also as for `attach_lora`.
    """
    config = load_config(name)
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config)
        except _LOAD_ERRORS as error:
            raise UserError(f"model {name}: is not supported ({_reason(error)})") from error
    base, layers = model.num_parameters(), layers_of(model, targets)
    adapted = sum(model.get_submodule(name).weight.numel() for name in layers.modules)
    others = left_out(model, layers.modules)
    with torch.device("meta"):
        tuned = _adapted(model, layers, r, r, 0.0)
    adapter = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    return Sizes(base, adapter, adapted, others)


def load_adapter(model: PreTrainedModel, path: Path) -> PeftModel:
    """`model` with the adapter saved at `path`, for inference.

    Raises:
        UserError: there is no adapter at `path`, or the adapter does not fit this model.
    """
    if not (path / "adapter_config.json").is_file():
        raise UserError(f"{path}: holds no adapter_config.json; give an adapter's directory")
    try:
        config = PeftConfig.from_pretrained(str(path))
        config.inference_mode = True
        adapted = PeftModelForCausalLM(model, config)
        found = adapted.load_adapter(str(path), "default", is_trainable=False)
    except _LOAD_ERRORS as error:
        raise UserError(f"{path}: the adapter cannot be loaded ({_reason(error)})") from error
    for keys, what in (
        (found.missing_keys, "lacks weight"),
        (found.unexpected_keys, "holds a weight that the model has no place for,"),
    ):
        if keys:
            raise UserError(f"{path}: the adapter {what} {_named(keys)}; restore the file")
    _refuse_not_finite(f"{path}: the adapter", adapted)
    return adapted.eval()


def public_name(model: str) -> str:
    """A model's name as it may be published. For a local folder it is only the last part."""
    return Path(model).name if Path(model).is_absolute() or os.path.exists(model) else model


def context_length(config: Any) -> int:
    """The most tokens, prompt and answer together, of a model with this configuration.

    `UNLIMITED` for a model without such a number: one with ALiBi, or a state-space model.
    """
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or UNLIMITED)


def load_config(name: str) -> Any:
    """The configuration of model `name`, which is on this machine.

    Raises:
        UserError: it is not, or cannot be read.
    """
    return _load(AutoConfig, "model", name, local_files_only=True)


def load_generation_config(name: str) -> GenerationConfig:
    """The generation config that `load_model` would give to model `name`, without its weights.

    Raises:
        UserError: the model's configuration is not on this machine, or cannot be read.
    """
    made = GenerationConfig.from_model_config(load_config(name))
    try:
        return GenerationConfig.from_pretrained(source_of(name))
    except OSError:  # it has none of its own
        return made


def source_of(name: str) -> str:
    """The folder of model `name`, or its name on the hub."""
    if name.startswith(_BUNDLED):
        return str(_ASSETS / name.removeprefix(_BUNDLED))
    return name


def _load(kind: Any, noun: str, name: str, **options: Any) -> Any:
    source = source_of(name)
    disable_progress_bar()
    try:
        if _gguf.is_gguf(name):
            source, file = _gguf.source_of(name)
            with _gguf.quietly():
                return kind.from_pretrained(source, trust_remote_code=False, **file, **options)
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except _LOAD_ERRORS as error:
        remedy = _remedy(Path(source)) or (
            "give a model directory, a GGUF file, a hub name, or bundled:junior"
        )
        raise UserError(f"{noun} {name}: cannot be loaded ({_reason(error)}); {remedy}") from error


def _remedy(folder: Path) -> str | None:
    """What to do about a folder that is not a whole model, where that can be told."""
    for file in sorted(folder.glob("*")):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_POINTER):
            return f"{file.name} is a pointer to a file of Git LFS; fetch it: git lfs pull"
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter; merge it into its base model, and give the merged model"
    return None


def _load_whole(
    kind: Any,
    name: str,
    dtype: torch.dtype,
    unused: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A model with all its weights, in eval mode. Weights named `unused`… may be missing."""
    options = {"quantization_config": _gguf.unpacked()} if _gguf.is_gguf(name) else options
    model, found = _load(
        kind, "model", name, dtype=dtype, output_loading_info=True, **(options or {})
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(
            f"model {name}: has an adapter next to its weights, which would be a part of it; merge "
            "the two, or move adapter_config.json to another folder"
        )
    missing = [key for key in found["missing_keys"] if not key.startswith(unused or ("\0",))]
    wrong = [key for key, *_ in found["mismatched_keys"]]
    if missing or wrong:
        raise UserError(
            f"model {name}: lacks weight {_named(missing or wrong)}, which would be drawn at "
            "random; download or copy the model again"
        )
    _refuse_not_finite(f"model {name}:", model)
    loaded: PreTrainedModel = model
    loaded.config.return_dict = True  # some configurations ask for tuples
    _keep_savable(loaded)
    return loaded


def _keep_savable(model: PreTrainedModel) -> None:
    """Drop sampling settings that contradict each other: such a model loads, and cannot be saved.

    Nothing here samples by a model's own settings.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
        kept = {name: getattr(config, name) for name in tokens}
        model.generation_config = GenerationConfig(**kept)


def _refuse_not_finite(whose: str, model: torch.nn.Module) -> None:
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel():
            low, high = torch.aminmax(weight.detach())  # both are NaN if any weight is NaN
            if not bool(low.isfinite() & high.isfinite()):
                raise UserError(
                    f"{whose} weight {name} is not finite (NaN or infinite); download or copy it "
                    "again, or choose another dtype"
                )


def _named(keys: Iterable[str]) -> str:
    """The name of the first of some tensors, and how many more there are."""
    first, *others = sorted(keys)
    return first + (f" (and {len(others)} more)" if others else "")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")


def device_here() -> str:
    """The kind of device that models are on: "cuda" if there is a GPU, or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
