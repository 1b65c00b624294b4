"""A LoRA layer as one operation, in place of the seven of peft.

Promises:
- The output is that of the layer: base(x) + scaling · B(A(x)). Products are taken in the type of
  the base's weights, as mixed-precision training takes them. The adapter itself stays fp32.
- The gradient of each record is handed out in two parts, one for A and one for B.

Does not: know any layer but peft's plain one over an ordinary linear layer. A layer with active
dropout, several adapters, hooks, or a variant like DoRA keeps its own forward pass.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear

Receive = Callable[[torch.Tensor, torch.Tensor, float], None]
"""Takes a linear layer's input, the gradient of its output, and a factor for their product."""


class Halves(NamedTuple):
    """The parts of a LoRA layer."""

    base: nn.Linear
    a: nn.Linear
    b: nn.Linear
    scaling: float


def halves(module: nn.Module) -> Halves | None:
    """The parts of `module`, if it is a plain LoRA layer whose adapter is on."""
    peft: Any = sys.modules.get("peft.tuners.lora.layer")  # not loaded: no layer is one of its own
    if peft is None or type(module) is not peft.Linear:
        return None
    layer: Any = module
    (name, *more) = layer.active_adapters
    if more or layer.merged or layer.disable_adapters or name not in layer.lora_A:
        return None
    found = Halves(layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.scaling[name])
    dropout = layer.lora_dropout[name]
    drops = dropout.training and not isinstance(dropout, nn.Identity)
    plain = all(map(_is_plain, (found.base, found.a, found.b)))
    return found if plain and not drops and name not in layer.lora_variant else None


def _is_plain(part: nn.Module) -> bool:
    """Whether it is a linear layer that nobody changed or listens to."""
    watched = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    return type(part) is nn.Linear and not watched


def forward(layer: nn.Module, parts: Halves, to_a: Receive, to_b: Receive) -> Any:
    """A forward pass for `layer` that hands out the gradients of its `parts` when it goes back."""
    base, a, b, scaling = parts

    def run(x: torch.Tensor) -> Any:
        if layer.disable_adapters:
            return base(x)
        return _Lora.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, a.weight, b.weight, scaling, to_a, to_b
        )

    return run


class _Lora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        to_a: Receive,
        to_b: Receive,
    ) -> torch.Tensor:
        narrow = linear(x, a.to(x.dtype))
        y = linear(x, weight, bias)
        y.view(-1, y.shape[-1]).addmm_(narrow.flatten(0, -2), b.to(x.dtype).t(), alpha=scaling)
        ctx.save_for_backward(x, narrow, weight, a, b)
        ctx.scaling, ctx.to_a, ctx.to_b = scaling, to_a, to_b
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, narrow, weight, a, b = ctx.saved_tensors
        back = gradient @ b.to(gradient.dtype)
        ctx.to_b(narrow, gradient, ctx.scaling)
        ctx.to_a(x, back, ctx.scaling)
        if not ctx.needs_input_grad[0]:
            return (None,) * 8
        total = gradient @ weight
        total.view(-1, total.shape[-1]).addmm_(
            back.flatten(0, -2), a.to(gradient.dtype), alpha=ctx.scaling
        )
        return total, *[None] * 7
