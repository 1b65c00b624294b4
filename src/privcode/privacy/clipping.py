"""Per-unit clipping of LoRA gradients in one backward pass.

Promises: after `accumulate`, the running sum holds, for every unit in the batch, its gradient
summed over its records and scaled to norm at most `clip_norm`; one unit more or less moves the
sum by at most `sensitivity` in L2. Every trainable parameter is covered, or construction fails
with its name; a layer used twice, not used, or fed anything but one row per record fails before
the step. The summed (unclipped) gradient is never formed. A unit whose gradient is not finite
contributes exactly nothing.
Does not: support trainable parameters other than bias-free linear layers (what peft's LoRA
makes), nor models that mix the records of a batch.

How: each trainable linear's forward becomes an autograd function whose backward returns the
input's gradient and hands (input, output gradient) to the clipper, which writes the
per-record weight gradients gᵀx into one [records, parameters] buffer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from privcode.errors import UserError


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
        ctx.clipper._receive(ctx.slot, x.detach(), gradient.detach())
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None


class Clipper:
    """Sums clipped per-unit gradients of a model's trainable parameters.

    Use: `with clipper.recording(records): loss.sum().backward()`, then `accumulate(units)`;
    after the last micro-batch, `take_sum()`.
    """

    def __init__(self, model: nn.Module, clip_norm: float) -> None:
        """Find every trainable parameter.

        Raises:
            UserError: a trainable parameter is not the weight of a bias-free linear layer, or
                is shared between layers; there is none at all.
        """
        self.clip_norm = clip_norm
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
        self._sum = torch.zeros(offset, dtype=torch.float32, device=self.device)
        self._buffer = torch.empty(0, offset, dtype=torch.float32, device=self.device)
        self._reserved: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None
        self._hits: list[int] = []
        self._records = 0

    @property
    def sensitivity(self) -> float:
        """L2 distance by which adding or removing one unit can move the sum."""
        return self.clip_norm

    def reserve(self, coordinates: torch.Tensor) -> None:
        """Keep recorded gradients out of these flat coordinates; only given ones have a part there.

        Which ones has to be decided without the data: then it is a change of the function whose
        gradient is taken, before the clip, and the sensitivity is what it was.
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
        for slot, (_, module, _) in enumerate(self._layers):
            module.forward = self._tapped(slot, module)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for _, module, _ in self._layers:
                del module.__dict__["forward"]
        # Unless every layer has written its part there are no rows: the buffer still holds the
        # gradients of other records.
        for hits, (name, _, _) in zip(self._hits, self._layers, strict=True):
            if hits != 1:
                raise UserError(
                    f"module {name}: got {hits} gradients in one pass, and must get exactly one; "
                    "leave it out of junior.lora.targets"
                )
        self._rows = self._buffer[:records]

    def _tapped(self, slot: int, module: nn.Linear) -> Any:
        def forward(x: torch.Tensor) -> torch.Tensor:
            tapped: torch.Tensor = _Tap.apply(x, module.weight, self, slot)  # type: ignore[no-untyped-call]
            return tapped

        return forward

    def _receive(self, slot: int, x: torch.Tensor, gradient: torch.Tensor) -> None:
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
        x, gradient = x.flatten(1, -2), gradient.flatten(1, -2)
        rows.copy_(torch.bmm(gradient.transpose(1, 2).float(), x.float()))

    def try_out(self, losses: Callable[[int], torch.Tensor], tolerance: float = 1e-3) -> None:
        """Refuse a model that mixes the records of a batch, before it is trained.

        Args:
            losses: for 0 and 1, the two losses of a batch of two made-up records of which the
                first is the same both times, and the second another of the same length.
            tolerance: by how much of its norm the first record's gradient may differ.

        Raises:
            UserError: names the first module whose gradient for one record depends on the other,
                or that did not get exactly one gradient.
        """
        alone = []
        for other in (0, 1):
            with self.recording(2):
                losses(other).sum().backward()  # type: ignore[no-untyped-call]
            assert self._rows is not None
            alone.append(self._rows[0].clone())
            self._rows = None
        bound = tolerance * float(alone[0].norm())
        for name, module, offset in self._layers:
            part = slice(offset, offset + module.weight.numel())
            if not float((alone[0][part] - alone[1][part]).norm()) <= bound:
                raise UserError(
                    f"module {name}: its gradient for one record depends on the others in the "
                    "batch, or on chance; a model that mixes records, or drops out at random, "
                    "cannot be clipped per record"
                )

    @torch.no_grad()
    def accumulate(self, unit_of_record: torch.Tensor, given: torch.Tensor | None = None) -> None:
        """Clip the recorded gradients per unit and add them to the sum.

        Args:
            unit_of_record: [records] long; records of one unit carry the same number, and all
                records of a unit must be in this micro-batch.
            given: [records, parameters] fp32 gradients in place of the recorded ones, for an
                audit's canaries; changed where not finite.
        """
        rows, self._rows = self._rows if given is None else given, None
        assert rows is not None
        units, row_unit = torch.unique(unit_of_record.to(rows.device), return_inverse=True)
        if len(units) < len(rows):
            rows = torch.zeros(len(units), self.parameters, device=rows.device).index_add_(
                0, row_unit, rows
            )
        if given is None and self._reserved is not None:
            rows.index_fill_(1, self._reserved, 0.0)
        # Squares are added layer by layer and in double precision: one fp32 norm over a million
        # elements reads up to 1.5e-4 low on CPUs, which would leave rows above the clip norm.
        squares = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for _, module, offset in self._layers:
            part = rows[:, offset : offset + module.weight.numel()]
            squares += part.square().sum(1, dtype=torch.float64)
        norms = squares.sqrt()
        finite = norms.isfinite()
        scale = torch.where(finite, (self.clip_norm / norms).clamp(max=1.0), 0.0)
        # 0 · NaN is NaN: the row itself must go. (A mask would write the whole buffer again.)
        rows.index_fill_(0, (~finite).nonzero()[:, 0], 0.0)
        self._sum.addmv_(rows.T, scale.float())

    def take_sum(self) -> torch.Tensor:
        """[parameters] fp32: the clipped sum since the last call; the sum starts again at 0."""
        total, self._sum = self._sum, torch.zeros_like(self._sum)
        return total

    def set_gradients(self, flat: torch.Tensor) -> None:
        """Write a flat [parameters] vector into the `.grad` of the trainable parameters."""
        for _, module, offset in self._layers:
            weight = module.weight
            part = flat[offset : offset + weight.numel()]
            weight.grad = part.view_as(weight).to(weight.dtype)
