"""Per-unit clipping of LoRA gradients in one backward pass.

Promises:
- After `accumulate`, the running sum holds the gradient of every unit in the batch. It is summed
  over the unit's records and scaled to norm at most `clip_norm`. After `divide`, each part of it
  is first scaled by itself, so that no part crowds out the others.
- One unit more or less moves the sum by at most `sensitivity` in L2.
- What a unit adds is computed from its own rows alone. It is a multiple of `grid`, a power of two,
  so sums are exact. The bits are the same in any order and in any split over micro-batches and
  processes.
- Every trainable parameter is covered, or construction fails with its name.
- A layer fails before the step if it is used twice, is not used, or gets anything but one row per
  record.
- The summed (unclipped) gradient is never formed.
- A unit whose gradient is not finite contributes exactly nothing.

Does not:
- Support trainable parameters other than bias-free linear layers (what peft's LoRA makes).
- See whether a model mixes the records of a batch: `training/independence.py` does.

How: the forward of each trainable linear layer becomes an autograd function. Its backward returns
the input's gradient and hands (input, output gradient) to the clipper. The clipper writes the
per-record weight gradients gᵀx into one [records, parameters] buffer.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from privcode.errors import UserError
from privcode.privacy import lora

_GRID_BITS = 32
_MARGIN = 2.0**-17
"""Share of the clip norm that units stay below. It covers rounding, for up to 2^30 coordinates:
2^-24 each for the factor and its products (fp32) and for the norm (double, added in any order),
and 2^-18 for half a step of the grid in every coordinate (2^-33 of the clip norm, times 2^15)."""

MOST_UNITS = 2**19
"""The most units whose contributions, with noise on top, add without rounding: a double holds 53
bits, and a contribution has up to 33."""


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, clipper: "Clipper", slot: int
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.clipper, ctx.slot = clipper, slot
        return linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.clipper._receive(ctx.slot, x, gradient)
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None


class Clipper:
    """Sums clipped per-unit gradients of a model's trainable parameters.

    Use: `with clipper.recording(records): loss.sum().backward()`, then `accumulate(units)`.
    After the last micro-batch, `take_sum()`.
    """

    def __init__(self, model: nn.Module, clip_norm: float) -> None:
        """Find every trainable parameter.

        Raises:
            UserError: a trainable parameter is not the weight of a bias-free linear layer, or
                is shared between layers; there is none at all.
        """
        self.clip_norm = clip_norm
        self.grid = 2.0 ** (math.floor(math.log2(clip_norm)) - _GRID_BITS)
        self._model = model
        self._layers: list[tuple[str, nn.Linear, int]] = []
        seen: dict[int, str] = {}
        offset = 0
        for name, module in model.named_modules():
            own = {n for n, p in module.named_parameters(recurse=False) if p.requires_grad}
            if not own:
                continue
            if type(module) is not nn.Linear or own != {"weight"} or module.bias is not None:
                raise UserError(
                    f"module {name}: trainable parameters {sorted(own)} of a "
                    f"{type(module).__name__} cannot be clipped per record; train LoRA adapters "
                    "on linear layers only"
                )
            if id(module.weight) in seen:
                raise UserError(f"module {name}: shares its weight with {seen[id(module.weight)]}")
            seen[id(module.weight)] = name
            self._layers.append((name, module, offset))
            offset += module.weight.numel()
        if len(seen) != sum(p.requires_grad for p in model.parameters()):
            raise UserError("the model has a trainable parameter outside its modules")
        if not offset:
            raise UserError("the model has no trainable parameter; attach an adapter first")
        self.parameters = offset
        self.device = self._layers[0][1].weight.device
        self._sum = torch.zeros(offset, dtype=torch.float64, device=self.device)
        self._buffer = torch.empty(0, offset, dtype=torch.float32, device=self.device)
        self._parts = 1
        self._reserved: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None
        self._hits: list[int] = []
        self._records = 0

    @property
    def sensitivity(self) -> float:
        """How far adding or removing one unit can move the sum, in L2."""
        return self.clip_norm

    def divide(self, parts: int) -> None:
        """Clip each of `parts` parts of a unit's gradient by itself, and then their sum.

        A part has at most clip_norm / √parts, which parts at right angles keep. The sum has at most
        the clip norm, so the sensitivity stays. `accumulate` is then given the numbers
        unit · parts + part. Gradients that are given to it are clipped whole.
        """
        self._parts = parts

    def reserve(self, coordinates: torch.Tensor) -> None:
        """Keep recorded gradients out of these flat coordinates. Only given ones have a part there.

        Choose the coordinates independently of the data. They are zeroed before clipping, so this
        changes the function whose gradient is taken, and the sensitivity stays the same.
        """
        self._reserved = coordinates.to(self._sum.device)

    @contextmanager
    def recording(self, records: int) -> Iterator[None]:
        """While open, backward passes over a batch of `records` rows are captured.

        Raises:
            UserError: some trainable layer saw no gradient, or more than one.
        """
        self._records, self._rows = records, None
        self._hits = [0] * len(self._layers)
        if len(self._buffer) < records:
            self._buffer = self._buffer.new_empty(records, self.parameters)
        slots = {module: slot for slot, (_, module, _) in enumerate(self._layers)}
        forwards: dict[nn.Module, Any] = {m: self._tapped(slot, m) for m, slot in slots.items()}
        for module in self._model.modules():
            parts = lora.halves(module)
            if parts and {parts.a, parts.b} <= slots.keys():
                receivers = (partial(self._receive, slots[half]) for half in (parts.a, parts.b))
                forwards[module] = lora.forward(module, parts, *receivers)
        for module, forward in forwards.items():
            module.forward = forward
        try:
            yield
        finally:
            for module in forwards:
                del module.__dict__["forward"]
        # If any layer did not write its part, there are no rows: the buffer still holds the
        # gradients of other records.
        for hits, (name, _, _) in zip(self._hits, self._layers, strict=True):
            if hits != 1:
                raise UserError(
                    f"module {name}: got {hits} gradients in one pass, and must get exactly one; "
                    "leave it out of lora.targets"
                )
        self._rows = self._buffer[:records]

    def _tapped(self, slot: int, module: nn.Linear) -> Any:
        def forward(x: torch.Tensor) -> torch.Tensor:
            tapped: torch.Tensor = _Tap.apply(x, module.weight, self, slot)  # type: ignore[no-untyped-call]
            return tapped

        return forward

    def _receive(
        self, slot: int, x: torch.Tensor, gradient: torch.Tensor, factor: float = 1.0
    ) -> None:
        """Keep each record's factor · gradientᵀ x of a layer, [records, out, in], in fp32."""
        name, module, offset = self._layers[slot]
        self._hits[slot] += 1
        if x.dim() < 3 or x.shape[0] != self._records:
            raise UserError(
                f"module {name}: gets an input of shape {list(x.shape)} for {self._records} "
                "records; a model that flattens or mixes the records of a batch "
                "cannot be clipped per record"
            )
        weight = module.weight
        part = self._buffer[: self._records, offset : offset + weight.numel()]
        rows = part.view(-1, *weight.shape)
        x, gradient = x.flatten(1, -2).detach(), gradient.flatten(1, -2).detach().transpose(1, 2)
        if x.dtype == gradient.dtype == torch.float32 or x.device.type == "cpu":
            product = torch.bmm(gradient.float(), x.float())
        else:  # the same products, added up in fp32 without a copy of either in fp32
            product = torch.bmm(gradient, x.to(gradient.dtype), out_dtype=torch.float32)
        torch.mul(product, factor, out=rows) if factor != 1.0 else rows.copy_(product)

    def take_rows(self) -> torch.Tensor:
        """[records, parameters] fp32: a copy of what was recorded, which is then forgotten."""
        rows, self._rows = self._rows, None
        assert rows is not None
        return rows.clone()

    def forget(self) -> None:
        """Drop what was recorded: it goes into no sum."""
        self._rows = None

    def layer_of(self, coordinate: int) -> str:
        """The name of the module that a flat coordinate belongs to."""
        return next(name for name, _, offset in reversed(self._layers) if offset <= coordinate)

    @torch.no_grad()
    def accumulate(self, unit_of_record: torch.Tensor, given: torch.Tensor | None = None) -> None:
        """Clip the recorded gradients per unit and add them to the sum.

        Args:
            unit_of_record: [records] long; records of one unit (see `divide`: of one part) carry
                the same number, and all records of a unit must be in this micro-batch. Recorded
                rows beyond these are left out.
            given: [records, parameters] fp32 gradients that replace the recorded ones, for the
                canaries of an audit; changed in place.
        """
        rows, self._rows = self._rows if given is None else given, None
        assert rows is not None
        first = _added_up(rows, enumerate(unit_of_record.tolist()[: len(rows)]))
        if given is None and self._reserved is not None:
            rows.index_fill_(1, self._reserved, 0.0)
        if given is None and self._parts > 1:
            share = self.clip_norm / math.sqrt(self._parts)
            rows.mul_((share / _norms(rows)).clamp(max=1.0).float()[:, None])
            first = _added_up(rows, ((row, part // self._parts) for part, row in first.items()))
        most = self.clip_norm * (1 - _MARGIN)
        add = self._add_one_by_one if rows.device.type == "cpu" else self._add_together
        add(rows, _norms(rows), most, list(first.values()))

    def _add_one_by_one(
        self, rows: torch.Tensor, norms: torch.Tensor, most: float, owned: list[int]
    ) -> None:
        """Clip and add these rows on a processor, whose cache holds one of them."""
        for row, norm in zip(owned, norms[owned].tolist(), strict=True):
            if math.isfinite(norm):
                scale = min(1.0, most / norm) if norm else 1.0
                self._sum.add_(rows[row].mul_(scale / self.grid).round_(), alpha=self.grid)

    def _add_together(
        self, rows: torch.Tensor, norms: torch.Tensor, most: float, owned: list[int]
    ) -> None:
        """Clip and add these rows without waiting for a GPU.

        Contributions are whole multiples of the grid, which add without rounding in any order.
        """
        scales = (most / norms).clamp(max=1.0) / self.grid
        counted = torch.zeros(len(rows), dtype=torch.bool)
        counted[owned] = True
        left_out = ~(norms.isfinite() & counted.to(rows.device))
        rows.mul_(scales.float()[:, None]).round_().masked_fill_(left_out[:, None], 0.0)
        self._sum.add_(rows.sum(0, dtype=torch.float64), alpha=self.grid)

    def take_sum(self) -> torch.Tensor:
        """[parameters] float64: the clipped sum since the last call. The sum restarts at 0."""
        total, self._sum = self._sum, torch.zeros_like(self._sum)
        return total

    def round(self, noise: torch.Tensor) -> torch.Tensor:
        """Noise rounded to the grid of the sums.

        The sum plus this noise equals the sum plus the unrounded noise, rounded. So the low bits of
        the sum show nothing that the noise does not cover.
        """
        return (noise / self.grid).round_() * self.grid

    def set_gradients(self, flat: torch.Tensor) -> None:
        """Write a flat [parameters] vector into the `.grad` of the trainable parameters."""
        for _, module, offset in self._layers:
            weight = module.weight
            part = flat[offset : offset + weight.numel()]
            weight.grad = part.view_as(weight).to(weight.dtype)


def _added_up(rows: torch.Tensor, numbered: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Add rows of one number to the first of them, in their order. Returns that row by number."""
    first: dict[int, int] = {}
    for row, number in numbered:
        if first.setdefault(number, row) != row:
            rows[first[number]] += rows[row]
    return first


def _norms(rows: torch.Tensor) -> torch.Tensor:
    """[rows] float64 norms.

    Row by row: a norm of several rows at once may be added up in another order than the norm of one
    row. In double: an fp32 norm over a million elements reads up to 1.5e-4 low on processors.
    """
    return torch.stack([torch.linalg.vector_norm(row, dtype=torch.float64) for row in rows])
