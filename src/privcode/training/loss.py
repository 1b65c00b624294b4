"""The loss of one example: cross-entropy on its code plus the syntax-aware term (PrivSA).

Promises:
- Each example's loss depends on that example and the model alone. There is no batch statistic and
  no shared normaliser.
- There is no attention mask, because whether one is made would depend on the neighbours. Under a
  causal model no target sees the padding.
- No product of logits spans two examples, because its rounding would depend on where they are cut.
- The syntax term has gradients. Its teacher is the same model with the adapter switched off,
  without gradients.
- A token is scored at the position whose logits predict it.
- The logits of a large vocabulary are never held whole.

Does not:
- Switch dropout off, clip, or add noise: `training/dp_sgd.py` does. Dropout masks are drawn for a
  batch, which would make the examples depend on each other.
- Read text: `training/examples.py` does.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear, log_softmax

from privcode.data.settings import Latent as Latents
from privcode.models.latent import Latent
from privcode.models.sharding import is_sharded
from privcode.training.examples import Batch
from privcode.training.latent import Draws, prefixes_and_penalties

CHUNK = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Number of logits (fp32) held at a time, by kind of device. What fits a processor's cache leaves a
GPU idle."""


def syntax_weight(
    step: int,
    schedule: Literal["decay", "constant", "off"],
    largest: float,
    smallest: float,
    decay: float,
) -> float:
    """λ(t) = λ_min + (λ_max - λ_min)·exp(-α·t), t rounded down to a multiple of 20 (paper)."""
    if schedule == "off":
        return 0.0
    if schedule == "constant":
        return largest
    return smallest + (largest - smallest) * math.exp(-decay * (step // 20 * 20))


@dataclass(frozen=True)
class Head:
    """A model in two parts: the trunk gives the last hidden states, a frozen matrix the logits.

    The logits of a large vocabulary are the largest tensor of a training step. Apart from the
    trunk, they can be made, used and dropped in chunks.
    """

    trunk: Any
    weight: torch.Tensor
    bias: torch.Tensor | None


def split_head(model: Any) -> Head | None:
    """`model` (with or without an adapter) in two parts. None if its logits need more than these.

    The parts are tried on a few tokens. Together they must give the same bits as the whole model.
    Models that cap or scale their logits do not.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head, trunk = base.get_output_embeddings(), base.base_model
    if trunk is base or type(head) is not nn.Linear or head.weight.requires_grad:
        return None
    ids = torch.arange(8, device=head.weight.device)[None] % head.weight.shape[0]
    training = model.training
    model.eval()
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        same = torch.equal(head(trunk(input_ids=ids, use_cache=False)[0]), whole)
    model.train(training)
    return Head(trunk, head.weight, head.bias) if same else None


class _TokenLosses(torch.autograd.Function):
    """Per-token losses from hidden states, one chunk of one example's logits at a time.

    `counts` has the number of tokens of each example. A token's loss depends on its own row alone,
    so its gradient is known together with the loss. The gradient is kept in place of the logits,
    and the backward pass only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: Head | None,
        targets: torch.Tensor,
        share: torch.Tensor,
        taught: torch.Tensor,
        teacher: torch.Tensor,
        syntax_share: torch.Tensor,
        counts: Sequence[int],
    ) -> torch.Tensor:
        def logits(rows: torch.Tensor) -> torch.Tensor:
            return (rows if head is None else linear(rows, head.weight, head.bias)).float()

        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        width = hidden.shape[1] if head is None else len(head.weight)
        size = max(1, CHUNK["cpu" if hidden.device.type == "cpu" else "cuda"] // width)
        ends = list(accumulate(counts))
        pieces = [
            (at, min(at + size, end))
            for end, count in zip(ends, counts, strict=True)
            for at in range(end - count, end, size)
        ]
        edges = [[0, 0]] * len(pieces)
        if len(taught):
            edges = torch.searchsorted(taught, torch.tensor(pieces).to(taught)).tolist()
        for (start, stop), (first, last) in zip(pieces, edges, strict=True):
            rows = slice(start, stop)
            log_p = log_softmax(logits(hidden[rows]), dim=-1)
            target, weight = targets[rows, None], share[rows, None]
            losses[rows] = -(log_p.gather(1, target) * weight)[:, 0]
            if first == last:
                slope = log_p.exp_().mul_(weight).scatter_add_(1, target, -weight)
            else:
                at = slice(first, last)  # the structural tokens of these rows
                within, teach = taught[at] - start, syntax_share[at, None]
                log_q = log_softmax(logits(teacher[at]), dim=-1)
                q = log_q.exp()
                losses[taught[at]] += (q * (log_q - log_p[within])).sum(-1) * teach[:, 0]
                slope = log_p.exp_()
                towards = (slope[within] - q) * teach
                slope.mul_(weight).scatter_add_(1, target, -weight).index_add_(0, within, towards)
            gradient[rows] = slope if head is None else slope.to(head.weight.dtype) @ head.weight
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[:, None].to(gradient.dtype), *[None] * 7)


def token_losses(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    """[tokens] fp32: the cross-entropy of each of `targets`, from [tokens, width] hidden states."""
    none = hidden[:0].detach()
    ones, nowhere = torch.ones_like(targets, dtype=torch.float32), targets[:0]
    losses: torch.Tensor = _TokenLosses.apply(  # type: ignore[no-untyped-call]
        hidden, head, targets, ones, nowhere, none, ones[:0], [len(targets)]
    )
    return losses


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """The model without its adapter, while open.

    peft's own context manager does the same, but first reads the state of every module. This costs
    6 ms a pass with four layers.
    """
    model.base_model.disable_adapter_layers()
    try:
        yield
    finally:
        model.base_model.enable_adapter_layers()


@dataclass(frozen=True)
class Conditioning:
    """Latent conditioning in a pass: its parts, its draws and the weights of its terms."""

    latent: Latent
    drawn: Draws
    settings: Latents


def per_example_losses(
    model: Any,
    batch: Batch,
    weight: float,
    head: Head | None = None,
    conditioning: Conditioning | None = None,
) -> torch.Tensor:
    """[examples] fp32: mean cross-entropy per completion token + `weight` × mean KL.

    KL(teacher ‖ student) is over the whole vocabulary. Its mean is over the example's structural
    tokens (paper, PrivSA). An example without scored or structural tokens gets 0 for that term.

    Args:
        model: a causal language model under an adapter.
        batch: the examples.
        weight: λ of the syntax term. With 0 the teacher's pass is skipped.
        head: the result of `split_head` for `model`. Without it the logits are held whole.
        conditioning: puts prefixes before the examples that read a record, and adds its terms to
            their losses. It needs a head.
    """
    scored = batch.scored[:, 1:]
    example = scored.nonzero()[:, 0]
    structural = batch.structure[:, 1:][scored].nonzero()[:, 0]

    def states(**read: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor
        if head is None:
            out = model(**read, use_cache=False).logits
        else:
            out = head.trunk(**read, use_cache=False)[0]
        return out

    def share(of: torch.Tensor) -> torch.Tensor:
        """For each token, 1 over the number of tokens in its example."""
        return 1.0 / torch.bincount(of, minlength=len(batch.ids))[of]

    if weight == 0:
        structural = structural[:0]
    teacher, penalty = None, torch.zeros(())
    text = {"input_ids": batch.ids}
    # Where ranks share a model, all take the same passes, whatever their batches hold.
    if len(structural) or conditioning or (weight and is_sharded(model)):
        with torch.no_grad(), without_adapter(model):
            frozen = states(input_ids=batch.seen)
        teacher = frozen[:, :-1][scored][structural]
    if conditioning:
        prefixed, penalty = conditioned(model, batch, frozen, conditioning)
        text = {"inputs_embeds": prefixed}
    hidden = states(**text)[:, :-1][scored]
    losses = _TokenLosses.apply(  # type: ignore[no-untyped-call]
        hidden,
        head,
        batch.ids[:, 1:][scored],
        share(example),
        structural,
        hidden[:0].detach() if teacher is None else teacher,
        weight * share(example[structural]),
        scored.sum(1).tolist(),
    )
    summed: torch.Tensor = losses.new_zeros(len(batch.ids)).index_add(0, example, losses)
    return summed if conditioning is None else summed + penalty


def conditioned(
    model: Any, batch: Batch, frozen: torch.Tensor, conditioning: Conditioning
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the batch with the prefixes in their places, and the added losses.

    `frozen` is what the model without its adapter makes of `batch.seen`: the last hidden states.
    An example that reads no record gets neither. What it passes through the encoder and the
    decoder has a gradient of 0.
    """
    pooled = torch.bmm(batch.parts, frozen.float())
    prefixes, penalty = prefixes_and_penalties(
        conditioning.latent, pooled, conditioning.drawn, conditioning.settings
    )
    reads = batch.parts.any(dim=2).any(dim=1)
    embedded = model.get_input_embeddings()(batch.ids)
    places = min(prefixes.shape[1], embedded.shape[1])
    first = embedded[:, :places]
    first = torch.where(reads[:, None, None], prefixes[:, :places].to(first.dtype), first)
    return torch.cat([first, embedded[:, places:]], 1), torch.where(reads, penalty, 0.0)
