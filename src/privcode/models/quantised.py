"""Bases of 8 or 4 bits a weight, by bitsandbytes (extra `[quant]`).

Promises:
- A quantised model computes what a model with the dequantised weights computes. Each linear layer
  makes its weights when it needs them, forward and backward, and drops them.
- So no pass rounds what goes through a layer, and none looks at the whole batch. (The library's own
  pass of 8 bits does both: columns that are large in one record change the products of others.)
- A machine or a model that cannot be quantised is refused in one line.

Does not:
- Quantise the head, the embeddings or an adapter.
- Save a quantised model. Later stages take the base as it is, with the adapter.
"""

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from privcode.errors import UserError
from privcode.models.settings import Quantization

_COARSE = {"8bit": 0.02, "4bit": 0.2}
"""Share of its norm by which quantising may move a random matrix: twice what it does."""


def check(quantization: Quantization, name: str, field: str, device: str) -> None:
    """Refuse a machine that cannot quantise. A small matrix is quantised and read back.

    Args:
        quantization: how.
        name: the model's.
        field: the section of the config, "junior" or "premium".
        device: "cpu" or "cuda".

    Raises:
        UserError: the extra is missing, what is read back is not the matrix, or the model is a
            GGUF file.
    """
    if quantization == "none":
        return
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"{field}.quantization: {quantization} needs bitsandbytes; "
            "pip install 'privcode[quant]'"
        )
    if name.endswith(".gguf"):
        raise UserError(
            f"{field}.quantization: a GGUF file is unpacked as it is loaded, and cannot be "
            "quantised again; write none, or give the model's folder"
        )
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    try:
        apart = (_read_back(quantization, weight, device) - weight).norm() / weight.norm()
        reason = None if float(apart) <= _COARSE[quantization] else "it reads back other numbers"
    except Exception as error:  # whatever a library says that was built for other machines
        reason = type(error).__name__
    if reason:
        raise UserError(
            f"{field}.quantization: {quantization} does not work with bitsandbytes on this "
            f"machine's {device} ({reason}); write none, or take another machine"
        )


def _read_back(quantization: Quantization, weight: torch.Tensor, device: str) -> torch.Tensor:
    import bitsandbytes as bnb

    if quantization == "8bit":
        layer = bnb.nn.Linear8bitLt(128, 64, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    return dequantised(layer.to(device)).float().cpu()


def options(quantization: Quantization, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """The options with which transformers quantises a model as it loads it onto `device`."""
    if quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    bits = {"load_in_8bit": True} if quantization == "8bit" else {"load_in_4bit": True}
    config = BitsAndBytesConfig(
        **bits, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_threshold=0.0
    )
    return {"quantization_config": config, "device_map": {"": device}}


def make_exact(name: str, model: nn.Module, dtype: torch.dtype) -> None:
    """Let the quantised layers of `model` compute with their dequantised weights, in `dtype`.

    Raises:
        UserError: no layer is quantised, or a weight is not finite. `name` is the model's.
    """
    layers = {n: module for n, module in model.named_modules() if is_quantised(module)}
    if not layers:
        raise UserError(f"model {name}: no layer of it can be quantised; write quantization: none")
    for path, layer in layers.items():
        if not bool(dequantised(layer).isfinite().all()):
            raise UserError(
                f"model {name}: weight {path}.weight is not finite (NaN or infinite) when it is "
                "quantised; download or copy it again, or write quantization: none"
            )
        vars(layer)["forward"] = partial(_forward, layer, dtype)


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is a linear layer of bitsandbytes."""
    return type(module).__module__.startswith("bitsandbytes.")


def dequantised(layer: nn.Module) -> torch.Tensor:
    """[out, in] the weights of a quantised layer, in full."""
    from bitsandbytes import functional

    weight: Any = layer.weight
    if hasattr(weight, "quant_state"):
        full: torch.Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    else:
        full = functional.int8_vectorwise_dequant(weight.data, weight.SCB)
    return full


def _forward(layer: Any, dtype: torch.dtype, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = _Linear.apply(x, layer, dtype)  # type: ignore[no-untyped-call]
    return y


class _Linear(torch.autograd.Function):
    """x ↦ x Wᵀ + b. It keeps the layer for the way back, not W."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any, dtype: torch.dtype) -> torch.Tensor:
        ctx.layer, ctx.dtype, ctx.given = layer, dtype, x.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return linear(x.to(dtype), dequantised(layer).to(dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        back = gradient.to(ctx.dtype) @ dequantised(ctx.layer).to(ctx.dtype)
        return back.to(ctx.given), None, None
