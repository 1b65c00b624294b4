"""The loss of one example: cross-entropy on its code plus the syntax-aware term (PrivSA).

Promises: each example's loss depends on that example and the model alone (no batch statistic,
no shared normaliser); the syntax term has gradients; its teacher is the same model with the
adapter switched off, in evaluation mode and without gradients; a token is scored at the
position whose logits predict it.
Does not: clip, add noise, or read text; `encode` in `stages/sanitize.py` makes the examples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax


@dataclass(frozen=True, slots=True)
class Example:
    """One record as tokens.

    Attributes:
        ids: prompt and completion tokens.
        start: index of the completion's first token.
        structure: for each token, whether it belongs to the structure of the code.
    """

    ids: tuple[int, ...]
    start: int
    structure: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples: all [examples, length]."""

    ids: torch.Tensor
    attention: torch.Tensor
    scored: torch.Tensor
    structure: torch.Tensor


def collate(examples: Sequence[Example], pad: int, device: torch.device | str = "cpu") -> Batch:
    """Pad examples to the longest."""
    length = max(len(e.ids) for e in examples)

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        full = [row + [fill] * (length - len(row)) for row in rows]
        return torch.tensor(full, device=device)

    return Batch(
        ids=padded([list(e.ids) for e in examples], pad),
        attention=padded([[1] * len(e.ids) for e in examples], 0),
        scored=padded([[int(i >= e.start) for i in range(len(e.ids))] for e in examples], 0).bool(),
        structure=padded([[int(s) for s in e.structure] for e in examples], 0).bool(),
    )


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


def per_example_losses(model: Any, batch: Batch, weight: float) -> torch.Tensor:
    """[examples] fp32: mean cross-entropy per completion token + `weight` × mean KL.

    KL(teacher ‖ student) is over the whole vocabulary, mean over the example's structural
    tokens (paper, PrivSA). An example without scored or structural tokens gets 0 for that term.
    """
    scored = batch.scored[:, 1:]
    row = scored.nonzero()[:, 0]

    def logits() -> torch.Tensor:
        out = model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).logits
        picked: torch.Tensor = out[:, :-1][scored]
        return picked.float()

    def mean_by_example(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        zeros = values.new_zeros(len(batch.ids))
        counts = zeros.index_add(0, rows, torch.ones_like(values))
        return zeros.index_add(0, rows, values) / counts.clamp(min=1)

    student = logits()
    token_loss = cross_entropy(student, batch.ids[:, 1:][scored], reduction="none")
    loss = mean_by_example(token_loss, row)
    if weight == 0:
        return loss
    structure = batch.structure[:, 1:][scored]
    training = model.training
    model.eval()
    with torch.no_grad(), model.disable_adapter():
        teacher = log_softmax(logits()[structure], dim=-1)
    model.train(training)
    divergence = kl_div(
        log_softmax(student[structure], dim=-1), teacher, reduction="none", log_target=True
    ).sum(-1)
    return loss + weight * mean_by_example(divergence, row[structure])
