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
    """The parts of `module`, if it is a plain LoRA layer whose adapter is on.

    Not for a base in fp16: gradients on their way to A would vanish there while B is small.
    """
    peft: Any = sys.modules.get("peft.tuners.lora.layer")  # not loaded: no layer is one of its own
    if peft is None or type(module) is not peft.Linear or _is_watched(module):
        return None
    layer: Any = module
    if len(layer.active_adapters) != 1 or layer.merged or layer.disable_adapters:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant:
        return None
    found = Halves(layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.scaling[name])
    dropout = layer.lora_dropout[name]
    if dropout.training and not isinstance(dropout, nn.Identity):
        return None
    if any(type(part) is not nn.Linear or _is_watched(part) for part in found[:3]):
        return None
    weight = found.base.weight
    exact = weight.dtype in (torch.float32, torch.bfloat16)
    return found if exact and not weight.requires_grad else None


def _is_watched(part: nn.Module) -> bool:
    """Whether somebody has changed the passes of a module, or listens to them."""
    hooks = (part._forward_hooks, part._forward_pre_hooks)
    return any((*hooks, part._backward_hooks, part._backward_pre_hooks)) or "forward" in vars(part)


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
        y = linear(x.flatten(0, -2), weight, bias)
        y.addmm_(narrow.flatten(0, -2), b.to(x.dtype).t(), alpha=scaling)
        ctx.save_for_backward(x, narrow, weight, a, b)
        ctx.scaling, ctx.to_a, ctx.to_b = scaling, to_a, to_b
        # No view, which the model could not change in place, as some do to cap a projection.
        whole: torch.Tensor = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], y.shape[-1]])
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, narrow, weight, a, b = ctx.saved_tensors
        back = gradient @ b.to(gradient.dtype)
        ctx.to_b(narrow, gradient, ctx.scaling)
        ctx.to_a(x, back, ctx.scaling)
        if not ctx.needs_input_grad[0]:
            return (None,) * 8
        total = gradient.flatten(0, -2) @ weight
        total.addmm_(back.flatten(0, -2), a.to(gradient.dtype), alpha=ctx.scaling)
        return total.view(x.shape), *[None] * 7
