"""A model that DP-SGD tunes: how one micro-batch of it is computed, and tried out beforehand.

Promises:
- The trials take made-up tokens, and spend nothing. They leave the model as it was.
- All ranks take the same passes of a trial, and come to the same answer.
- Ranks that give a record unlike bits are refused. Which rank takes a unit depends on the other
  units, so one unit more would give the others the gradients of another rank.

Does not: draw, clip, add noise or take a step. `training/dp_sgd.py` does.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from privcode.data.settings import Latent as Latents
from privcode.distributed import alike, everywhere, world
from privcode.errors import UserError
from privcode.privacy.clipping import Clipper
from privcode.privacy.plan import PrivacyPlan
from privcode.training.examples import Example, collate, padded
from privcode.training.fitting import fitting
from privcode.training.independence import (
    WAYS,
    Grouping,
    grouping_of,
    has_experts,
    made_up,
    refuse_by_name,
)
from privcode.training.latent import draws
from privcode.training.loss import Conditioning, Head, per_example_losses, split_head

_SHORT = 256
"""Tokens up to which the attention's weights fit: 1 GB for 30 layers, 9 heads and 8 records."""


@dataclass(frozen=True)
class Learner:
    """A model that DP-SGD tunes, and how records are given to it.

    Attributes:
        model: a peft model in which only the adapter is trainable. It is tuned in place.
        pad: the padding token.
        max_tokens: the most tokens that an example may have.
        grouping: the result of `try_out` for the model. If None, `try_out` runs before training.
        latents: weights of the losses of latent conditioning, if the model has these parts.
        lessons: examples of each record, which follow each other. Each kind of lesson is clipped by
            itself first, or else one that is hard to predict would crowd out the others.
    """

    model: Any
    pad: int
    max_tokens: int
    grouping: Grouping | None = None
    latents: Latents | None = None
    lessons: int = 1


def without_dropout(model: Any) -> None:
    """Switch off every dropout, and keep gradient checkpointing on.

    A dropout mask is drawn for a whole batch. So one more unit gives all others another mask, which
    moves the sum by several clip norms. Layers checkpoint only in training mode, so that mode stays
    on for the layers with gradient checkpointing.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True  # the flag of this module, not of its children


def attend_plainly(learner: Learner) -> None:
    """Short texts on a processor: take the attention that is written out, in place of the fused.

    It goes back faster there, and a step of a real model takes a fifth less time
    (docs/evidence/engine.md). It holds tokens² numbers a head, so long texts keep the fused one.
    """
    base = learner.model.get_base_model()
    fused = getattr(base.config, "_attn_implementation", None) == "sdpa"
    if fused and base.device.type == "cpu" and learner.max_tokens <= _SHORT:
        base.set_attn_implementation("eager")


def vocabulary_of(model: Any) -> torch.Tensor:
    """The tokens for which the model has a (finite) embedding."""
    known: torch.Tensor = model.get_input_embeddings().weight.detach().isfinite().all(1)
    return known.nonzero()[:, 0].cpu()


def recorded(
    learner: Learner,
    head: Head | None,
    clipper: Clipper,
    examples: Sequence[Example],
    weight: float,
    more: Sequence[Example] = (),
    step: int = 0,
) -> torch.Tensor:
    """[examples] losses of a micro-batch at a step. The clipper has recorded their gradients.

    The rows of `more` are added at the end.
    """
    width = padded(max(e.size for e in examples), learner.max_tokens)
    rows = [*examples, *more]
    batch = collate(rows, learner.pad, clipper.device, width)
    conditioning = None
    if learner.latents:
        latent, contrasted = learner.model.latent, learner.latents.contrasted
        drawn = draws([row.read for row in rows], step, latent.size, contrasted)
        conditioning = Conditioning(latent, drawn, learner.latents)
    with clipper.recording(len(batch.ids)):
        losses = per_example_losses(learner.model, batch, weight, head, conditioning)
        losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()[: len(examples)]


def head_of(learner: Learner) -> Head | None:
    """See `split_head`.

    Raises:
        UserError: latent conditioning needs a head, and there is none.
    """
    head = split_head(learner.model)
    if learner.latents and head is None:
        raise UserError(
            "prompts.source: latent reads hidden states, and this model's logits are more than a "
            "product of these; choose another model, or source: synthesised"
        )
    return head


def _with_record(example: Example) -> Example:
    """A made-up example as one that reads a record: its own tokens in reverse."""
    return replace(example, read=example.ids[::-1], read_start=example.start)


@contextmanager
def _made_up_where_zero(model: Any) -> Iterator[None]:
    """While open, trained weights that are all 0 hold small made-up numbers.

    Half of an adapter begins at 0. Until it is trained, the other half has no gradient, and the
    syntax term has none. So a trial would see neither.
    """
    empty = [p for p in model.parameters() if p.requires_grad and not p.any()]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in empty:
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight in empty:
                weight.zero_()


@contextmanager
def same_bits_each_time() -> Iterator[None]:
    """On GPUs, use kernels that sum in a fixed order, where such kernels exist."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = False  # it would write all twice
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        deterministic.fill_uninitialized_memory = filled


@same_bits_each_time()
def try_out(
    learner: Learner,
    clipper: Clipper,
    micro_batch: int,
    progress: Callable[[int], object] = lambda passes: None,
) -> Grouping:
    """How records of this model may share a micro-batch. Uses made-up tokens and spends nothing.

    All ranks take the same passes, and come to the same answer.

    Args:
        learner: the model.
        clipper: the clipper of this model.
        micro_batch: the most records in one micro-batch of the training.
        progress: called with 1 after each pass; see `independence.passes`.

    Raises:
        UserError: the model cannot be clipped per record; see `independence`. Or the ranks give a
            record unlike bits.
    """
    model = learner.model
    without_dropout(model)
    refuse_by_name(model, learner.max_tokens)
    head, vocabulary = head_of(learner), vocabulary_of(model)
    filler = made_up(1, vocabulary, 0)
    calls, seen = 0, hashlib.sha256()

    def gradients(examples: Sequence[Example], fill: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        torch.manual_seed(calls)  # reveals a model that still drops out at random
        recorded(learner, head, clipper, examples, 1.0, [filler] * fill)
        progress(1)
        rows = clipper.take_rows()[: len(examples)]
        if world() > 1:
            seen.update(rows[0].cpu().numpy().tobytes())
        return rows

    def example(length: int, seed: int) -> Example:
        made = made_up(length, vocabulary, seed)
        # Neighbours differ: every other one reads a record, and the first of each set does.
        return _with_record(made) if learner.latents and seed % 2 == 0 else made

    weights = model.get_input_embeddings().weight
    with torch.random.fork_rng(), _made_up_where_zero(model):
        way = grouping_of(
            gradients,
            clipper.layer_of,
            example,
            micro_batch,
            learner.max_tokens,
            torch.finfo(weights.dtype).eps,
            _ways(model, clipper.device),
            lambda one, other: everywhere(torch.equal(one, other)),
        )
    if not alike(seen.hexdigest()):
        raise UserError(
            "the ranks give a record unlike gradients, and which rank takes a record depends on "
            "the others; give every machine the same model files and versions, the same kind of "
            "processor or GPU, and as many threads"
        )
    return way


@same_bits_each_time()
def fitting_micro_batch(learner: Learner, plan: PrivacyPlan) -> int:
    """As many records as fit in one pass. Uses made-up tokens and spends nothing; see `fitting`.

    No more than a process's share of the expected batch.

    Raises:
        UserError: the model cannot be clipped per record, or its passes do not fit in memory.
    """
    model = learner.model
    without_dropout(model)
    clipper, head, vocabulary = plan.clipper(model), head_of(learner), vocabulary_of(model)

    def passed(rows: int) -> None:
        examples = [made_up(learner.max_tokens, vocabulary, row) for row in range(rows)]
        examples = list(map(_with_record, examples)) if learner.latents else examples
        recorded(learner, head, clipper, examples, 1.0)
        clipper.accumulate(torch.arange(rows))
        clipper.take_sum()

    share = -(-plan.expected_batch // world())
    return fitting(passed, clipper.device, clipper.parameters, share)


def _ways(model: Any, device: torch.device) -> Sequence[Grouping]:
    """The ways to group records that are worth a trial.

    A GPU's libraries choose a kernel by the shape of a product. So on a GPU all products of a
    length must have one shape, whatever a trial of a few shapes says. So must those of weights
    narrower than fp32: two kernels differ in the last bits of a sum, and rounding to 16 bits hides
    this from a trial in nearly every number, but not in all of them.
    """
    if has_experts(model):
        return WAYS[2:]
    exact = all(p.element_size() >= 4 for p in model.parameters() if p.is_floating_point())
    return WAYS if device.type == "cpu" and exact else WAYS[1:]
