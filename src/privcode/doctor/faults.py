"""Wrong versions of the engine, planted one at a time, to test that each is noticed.

Promises:
- Each is a context manager. It replaces one or two functions by what the official code or a
  careless engineer would write, and then restores them.

Does not: run in training. Only `privcode doctor` and the tests plant anything.

docs/evidence/faults.md says how badly each fault breaks the guarantee and which test catches it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from privcode.distributed import rank, world
from privcode.privacy.clipping import Clipper
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan
from privcode.privacy.randomness import Randomness
from privcode.training import dp_sgd, latent, learner, loss

_noise, _sample, _clipper = PrivacyPlan.noise, PrivacyPlan.sample, PrivacyPlan.clipper
_accumulate, _take_sum = Clipper.accumulate, Clipper.take_sum
_set_gradients = Clipper.set_gradients
_alignment, _divergence = latent.alignment, latent.divergence

_Planted = AbstractContextManager[Any]


def _losses() -> Callable[..., torch.Tensor]:
    found: Callable[..., torch.Tensor] = vars(learner)["per_example_losses"]
    return found


def _noise_becomes(
    change: Callable[[torch.Tensor, float, Clipper], torch.Tensor],
) -> Callable[[], _Planted]:
    """The plan's noise, changed by `change`, which also gets its standard deviation."""

    def noise(plan: PrivacyPlan, clipper: Clipper, step: int, source: Randomness) -> torch.Tensor:
        stdev = plan.noise_multiplier * clipper.sensitivity
        return change(_noise(plan, clipper, step, source), stdev, clipper)

    return lambda: patch.object(PrivacyPlan, "noise", noise)


def _from_torch(plan: PrivacyPlan, clipper: Clipper, step: int, source: Randomness) -> torch.Tensor:
    return torch.randn(clipper.parameters) * plan.noise_multiplier * clipper.sensitivity


def _one_layers(noise: torch.Tensor, clipper: Clipper) -> torch.Tensor:
    own = clipper._layers[0][1].weight.numel()
    return noise[:own].repeat(-(-len(noise) // own))[: len(noise)]


@contextmanager
def _same_noise_on_two_ranks() -> Iterator[None]:
    """Every rank adds its share σ/√ranks to its own sum, from generators with the same seed."""

    def share(plan: PrivacyPlan, clipper: Clipper, step: int, _: Randomness) -> torch.Tensor:
        return _noise(plan, clipper, step, Randomness(42)) / math.sqrt(world())

    def clipper(plan: PrivacyPlan, model: Any) -> Clipper:
        made = _clipper(plan, model)
        vars(made).update(plan=plan, step=0)
        return made

    def take_sum(self: Any) -> torch.Tensor:
        total = _take_sum(self)
        if rank():
            total = total + share(self.plan, self, self.step, Randomness())
        self.step += 1
        return total

    with (
        patch.object(PrivacyPlan, "noise", share),
        patch.object(PrivacyPlan, "clipper", clipper),
        patch.object(Clipper, "take_sum", take_sum),
    ):
        yield


def _one_clip_for_the_micro_batch(clipper: Clipper, units: torch.Tensor, *given: Any) -> None:
    _accumulate(clipper, torch.zeros_like(units), *given)


def _one_clip_for_each_layer(clipper: Clipper, units: torch.Tensor) -> None:
    assert clipper._rows is not None
    for _, module, offset in clipper._layers:
        part = clipper._rows[:, offset : offset + module.weight.numel()]
        part *= (clipper.clip_norm / part.norm(dim=1, keepdim=True)).clamp(max=1)
    clipper._sum += clipper._rows.sum(0)


def _last_micro_batch_only(clipper: Clipper, units: torch.Tensor, *given: Any) -> None:
    clipper._sum.zero_()
    _accumulate(clipper, units, *given)


@contextmanager
def _syntax_term_outside_the_clip() -> Iterator[None]:
    """The clipped loss is cross-entropy alone. The gradient of λ·KL is added to the sum."""
    real = _losses()
    batches: list[tuple[Any, Any, float]] = []

    def cross_entropy(model: Any, batch: Any, weight: float, *head: Any) -> torch.Tensor:
        batches.append((model, batch, weight))
        return real(model, batch, 0.0, *head)

    def accumulate(clipper: Clipper, units: torch.Tensor, *given: Any) -> None:
        _accumulate(clipper, units, *given)
        model, batch, weight = batches.pop()
        weights = [module.weight for _, module, _ in clipper._layers]
        with torch.enable_grad():
            term = (real(model, batch, weight) - real(model, batch, 0.0)).sum()
            parts = torch.autograd.grad(term, weights)
        clipper._sum += torch.cat([part.flatten() for part in parts])

    with (
        patch.object(learner, "per_example_losses", cross_entropy),
        patch.object(Clipper, "accumulate", accumulate),
    ):
        yield


@contextmanager
def _loss_averaged_over_the_batch() -> Iterator[None]:
    real = _losses()

    def averaged(*arguments: Any) -> torch.Tensor:
        losses: torch.Tensor = real(*arguments)
        return losses / len(losses)

    with (
        patch.object(learner, "per_example_losses", averaged),
        patch.object(dp_sgd, "try_out", lambda *_: "any number"),
    ):
        yield


def _shuffled(plan: PrivacyPlan, present: int, step: int, source: Randomness) -> np.ndarray:
    """Epochs of a shuffled data loader."""
    batch = min(plan.expected_batch, present)
    epoch, place = divmod(step, present // batch)
    order = np.random.default_rng(epoch).permutation(present)
    return np.sort(order[place * batch : (place + 1) * batch])


def _capped(plan: PrivacyPlan, present: int, step: int, source: Randomness) -> np.ndarray:
    """Poisson batches cut off at a quarter above their mean, to fit into memory."""
    return _sample(plan, present, step, source)[: plan.expected_batch * 5 // 4]


@contextmanager
def _real_batch_in_the_denominator() -> Iterator[None]:
    ratio = 1.0

    def sample(plan: PrivacyPlan, present: int, step: int, source: Randomness) -> np.ndarray:
        nonlocal ratio
        drawn = _sample(plan, present, step, source)
        ratio = plan.expected_batch / max(1, len(drawn))
        return drawn

    with (
        patch.object(PrivacyPlan, "sample", sample),
        patch.object(Clipper, "set_gradients", lambda c, flat: _set_gradients(c, flat * ratio)),
    ):
        yield


def _records_in_chunks() -> _Planted:
    """A long record becomes several, each a unit of its own."""
    from privcode.pipeline.stages import sanitize

    real = vars(sanitize)["private_records"]

    def chunked(*arguments: Any, **options: Any) -> Any:
        records, *rest = real(*arguments, **options)
        chunks = [
            replace(
                record,
                completion=record.completion[at : at + 300],
                unit=record.unit._replace(name=f"{record.unit.name}/{at}"),
            )
            for record in records
            for at in range(0, len(record.completion), 300)
        ]
        return chunks, *rest

    return patch.object(sanitize, "private_records", chunked)


@contextmanager
def _teacher_with_gradients() -> Iterator[None]:
    """The teacher's pass keeps the adapter on, and keeps its graph."""
    attached = SimpleNamespace(**{**vars(torch), "no_grad": torch.enable_grad})
    with (
        patch.object(loss, "torch", attached),
        patch.object(loss, "without_adapter", lambda model: nullcontext()),
    ):
        yield


@contextmanager
def _padded_to_the_longest_of_the_batch() -> Iterator[None]:
    """Micro-batches of similar length, padded to the longest, so masks and shapes depend on it."""

    def batches(
        units: Any, sizes: Any, most: int, rank: int = 0, world: int = 1
    ) -> Iterator[list[int]]:
        order = sorted(range(len(units)), key=lambda u: max(sizes[i] for i in units[u]))
        mine = order[rank::world]
        for start in range(0, len(mine), most):
            yield mine[start : start + most]

    with (
        patch.object(dp_sgd, "micro_batches", batches),
        patch.object(dp_sgd, "try_out", lambda *_: "any number"),
    ):
        yield


@contextmanager
def _first_come_first_served() -> Iterator[None]:
    """Experts of limited capacity: tokens that come too late in the micro-batch pass unchanged."""
    real = _losses()

    def served(mlp: Any, forward: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        keep = torch.arange(x.shape[0] * x.shape[1], device=x.device) < 40
        return torch.where(keep.view(*x.shape[:2], 1), forward(x), x)

    def losses(model: Any, *arguments: Any) -> torch.Tensor:
        experts = [m for n, m in model.named_modules() if n.endswith(".mlp")]
        with ExitStack() as limited:
            for mlp in experts:
                limited.enter_context(
                    patch.object(mlp, "forward", partial(served, mlp, mlp.forward))
                )
            return real(model, *arguments)

    with (
        patch.object(learner, "per_example_losses", losses),
        patch.object(dp_sgd, "try_out", lambda *_: "any number"),
    ):
        yield


@contextmanager
def _dropout_left_on() -> Iterator[None]:
    """A model in training mode, whose masks are drawn for one micro-batch at a time."""
    with (
        patch.object(dp_sgd, "without_dropout", lambda model: model.train()),
        patch.object(dp_sgd, "try_out", lambda *_: "any number"),
    ):
        yield


@contextmanager
def _forgotten_steps() -> Iterator[None]:
    """Continue from the checkpoint, whatever the ledger holds. A repeated step is not a new one."""

    def step(ledger: Ledger, step: int) -> None:
        if all(entry.get("step") != step for entry in ledger.entries):
            ledger.append(kind="step", step=step)

    with (
        patch.object(Ledger, "step", step),
        patch.object(Ledger, "steps", property(lambda ledger: 0)),
    ):
        yield


@contextmanager
def _contrasted_with_the_batch() -> Iterator[None]:
    """The draws of the prior are replaced by the other records of the batch, as in PrivCode++."""

    def alignment(
        code: torch.Tensor, prompt: torch.Tensor, prior: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        return _alignment(code, prompt, prompt, temperature)

    with (
        patch.object(latent, "alignment", alignment),
        patch.object(dp_sgd, "try_out", lambda *_: "any number"),
    ):
        yield


@contextmanager
def _divergence_of_the_batchs_mean() -> Iterator[None]:
    def divergence(mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        return _divergence(mean.mean(0, keepdim=True), spread.mean(0, keepdim=True))

    with (
        patch.object(latent, "divergence", divergence),
        patch.object(dp_sgd, "try_out", lambda *_: "any number"),
    ):
        yield


def _encoder_outside_the_clip(clipper: Clipper, units: torch.Tensor, *given: Any) -> None:
    """The clip is that of the adapter. The encoder's gradient is added as it is."""
    rows = clipper._rows
    assert rows is not None
    for name, module, offset in clipper._layers:
        if "encoder" in name:
            part = rows[: len(units), offset : offset + module.weight.numel()]
            clipper._sum[offset : offset + module.weight.numel()] += part.double().sum(0)
            part.zero_()
    _accumulate(clipper, units, *given)


@contextmanager
def _not_a_number_made_zero_after_the_noise() -> Iterator[None]:
    def accumulate(clipper: Clipper, units: torch.Tensor) -> None:
        assert clipper._rows is not None
        norms = clipper._rows.norm(dim=1)
        clipper._sum += clipper._rows.T @ (clipper.clip_norm / norms).clamp(max=1)

    def set_gradients(clipper: Clipper, flat: torch.Tensor) -> None:
        _set_gradients(clipper, flat.nan_to_num(0.0))

    with (
        patch.object(Clipper, "accumulate", accumulate),
        patch.object(Clipper, "set_gradients", set_gradients),
    ):
        yield


FAULTS: dict[str, Callable[[], _Planted]] = {
    "no noise": _noise_becomes(lambda noise, *_: torch.zeros_like(noise)),
    "σ halved": _noise_becomes(lambda noise, *_: noise / 2),
    "noise divided by the ranks": _noise_becomes(lambda noise, *_: noise / world()),
    "same noise on two ranks": _same_noise_on_two_ranks,
    "same noise in every layer": _noise_becomes(lambda noise, _, c: _one_layers(noise, c)),
    "noise from a seeded generator": lambda: patch.object(PrivacyPlan, "noise", _from_torch),
    "uniform noise": _noise_becomes(
        lambda noise, stdev, _: (torch.rand(len(noise)) - 0.5) * 12**0.5 * stdev
    ),
    "noise in the model's bf16": _noise_becomes(lambda noise, *_: noise.bfloat16().double()),
    "clip per micro-batch": lambda: patch.object(
        Clipper, "accumulate", _one_clip_for_the_micro_batch
    ),
    "clip per layer": lambda: patch.object(Clipper, "accumulate", _one_clip_for_each_layer),
    "KL term outside the clip": _syntax_term_outside_the_clip,
    "loss averaged over the batch": _loss_averaged_over_the_batch,
    "last micro-batch only": lambda: patch.object(Clipper, "accumulate", _last_micro_batch_only),
    "NaN made zero after the noise": _not_a_number_made_zero_after_the_noise,
    "shuffling instead of Poisson": lambda: patch.object(PrivacyPlan, "sample", _shuffled),
    "Poisson batches capped": lambda: patch.object(PrivacyPlan, "sample", _capped),
    "real batch size in the denominator": _real_batch_in_the_denominator,
    "a record cut into chunks": _records_in_chunks,
    "teacher gradients leaking": _teacher_with_gradients,
    "dropout left on": _dropout_left_on,
    "padded to the longest of the batch": _padded_to_the_longest_of_the_batch,
    "experts serve who comes first": _first_come_first_served,
    "records contrasted with each other": _contrasted_with_the_batch,
    "divergence of the batch's mean": _divergence_of_the_batchs_mean,
    "encoder outside the clip": lambda: patch.object(
        Clipper, "accumulate", _encoder_outside_the_clip
    ),
    "a resumed run forgets steps": _forgotten_steps,
    "δ larger than 1/N": lambda: patch.object(PrivacyPlan, "__post_init__", lambda plan: None),
}
"""Name -> a context manager inside which the engine has that fault."""
