"""Stage 1, privacy-sanitizing: DP-SGD LoRA on the junior (paper, section on stage 1).

Promises:
- What is computed from private records reaches the adapter only through the clipped, noised sum.
  The plan makes this sum.
- Every step is in the ledger before it is taken.
- A run killed anywhere goes on from its last checkpoint. It never takes more noised steps than the
  plan pays for.
- With seeded randomness, a resumed run gives bit for bit the result of an uninterrupted run.
- With cryptographic randomness, a step whose result a crash lost stays spent. It is not taken
  again.
- The model trains without dropout, whatever its configuration says.
- Over several processes (torchrun), each step is one step of the same mechanism: drawn once, noised
  once, and summed over the ranks. The first rank alone keeps the ledger and the checkpoint.
- The same holds where the ranks share one model (`models.sharding`). A rank with fewer
  micro-batches then takes further passes over made-up tokens. Their gradients are dropped.

Does not:
- Print or return anything computed from the records except the adapter. The training curve is
  returned for `private/` alone.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privcode.data.units import Units
from privcode.distributed import alike, from_first, rank, start, sum_, world
from privcode.errors import UserError
from privcode.files import write_with
from privcode.models.sharding import is_sharded
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan
from privcode.training.examples import Example, Examples, ahead, lengths, padded
from privcode.training.gradient_canaries import GradientCanaries
from privcode.training.independence import made_up
from privcode.training.learner import (
    Learner,
    head_of,
    recorded,
    same_bits_each_time,
    try_out,
    vocabulary_of,
    without_dropout,
)
from privcode.training.loss import syntax_weight
from privcode.training.settings import Sanitize


def micro_batches(
    units: Sequence[Sequence[int]],
    sizes: Mapping[int, int] | Sequence[int],
    most: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[list[int]]:
    """Groups of unit numbers: whole units, at most `most` records a group, padded to one length.

    `sizes` gives the length in tokens of each of their records.

    A unit with more than `most` records is a group by itself. Each of `world` ranks gets every
    `world`-th unit in order of length. The shares are equal and no unit comes twice.
    """
    widths = [padded(max(sizes[i] for i in unit)) for unit in units]
    order = sorted(range(len(units)), key=lambda u: widths[u])[rank::world]
    group: list[int] = []
    filled = 0
    for unit in order:
        full = filled + len(units[unit]) > most
        if group and (full or widths[unit] != widths[group[0]]):
            yield group
            group, filled = [], 0
        group.append(unit)
        filled += len(units[unit])
    if group:
        yield group


def _rate(step: int, steps: int, settings: Sanitize) -> float:
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps)) if settings.schedule == "cosine" else 1.0
    return settings.learning_rate * warm * cosine


def _insist_on_the_same(*values: object) -> None:
    """Refuse to start if the ranks number their units differently: a unit could be drawn twice."""
    if not alike(hashlib.sha256(repr(values).encode()).hexdigest()):
        raise UserError(
            "the ranks do not hold the same data and settings; "
            "give every machine the same files and the same versions of privcode"
        )


def noised_sum(clipped: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """[parameters] float64: one step's clipped and noised sum over all ranks: all it releases.

    Args:
        clipped: this rank's clipped sum.
        noise: the step's noise. Only the first rank has it, so all ranks share one draw.
    """
    if noise is not None:
        clipped = clipped + noise.to(clipped.device)
    return sum_(clipped)


@same_bits_each_time()
def sanitize(
    learner: Learner,
    examples: Sequence[Example],
    units: Sequence[Sequence[int]],
    plan: PrivacyPlan,
    settings: Sanitize,
    ledger: Ledger,
    checkpoint: Path,
    progress: Callable[[int], object] = lambda steps: None,
    canaries: GradientCanaries | None = None,
) -> list[dict[str, float]]:
    """Train the adapter of the learner's model in place. Returns the (private) training curve.

    Args:
        learner: the model.
        examples: of all records. Of `Examples`, only those that a step draws are made.
        units: for each unit present, the indices of its (bounded) examples.
        plan: decides sampling, clipping, noise and divisor.
        settings: optimisation.
        ledger: begun with this plan. Only the first rank's ledger is read and written.
        checkpoint: file in `private/` to go on from and to write. Only the first rank uses it.
        progress: called with the number of steps done.
        canaries: the units of an audit, in addition to the private ones. They are scored step by
            step, in place.

    Raises:
        UserError: the model cannot be clipped per record; the ranks hold different data or
            settings; an example is longer than the learner's `max_tokens`; the ledger cannot
            be written, or is older than the checkpoint; or all steps are spent and the checkpoint
            is gone.
    """
    start()
    model, syntax = learner.model, settings.syntax
    public = () if canaries is None else canaries.coordinates.tolist()
    examples = examples if isinstance(examples, Examples) else Examples(examples)
    if world() > 1:
        whose = units.facts if isinstance(units, Units) else units
        _insist_on_the_same(whose, examples.facts, plan, settings, public)
    if examples.longest > learner.max_tokens:
        raise UserError(
            "sanitize: an example is longer than max_tokens, up to which the model was tried out"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    clipper, head = plan.clipper(model), head_of(learner)
    clipper.divide(learner.lessons)
    device = clipper.device
    without_dropout(model)
    most = settings.micro_batch
    assert most != "auto", "the stage has put a number in its place"
    grouping = learner.grouping or try_out(learner, clipper, most)
    together = 1 if grouping == "alone" else most
    # Padded like any record. Without a scored token it costs no logits.
    filler = made_up(1, vocabulary_of(model), 0)
    filling = [filler] * together if grouping == "always as many" else []
    divided, ranks = is_sharded(model), world()
    if canaries is not None:
        clipper.reserve(canaries.coordinates)
    optimizer = torch.optim.AdamW(
        trained,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        foreach=device.type != "cpu",
    )
    randomness = plan.randomness()
    beside = ThreadPoolExecutor(1)  # draws noise on the processor while an accelerator works
    encoder = ThreadPoolExecutor(1)  # makes the next micro-batches' examples meanwhile
    curve: list[dict[str, float]] = []

    def state(step: int) -> dict[str, Any]:
        adapter = [p.detach().cpu() for p in trained]
        kept = {"step": step, "adapter": adapter, "optimizer": optimizer.state_dict()}
        kept |= {"curve": curve, "scores": None if canaries is None else canaries.scores}
        return kept | {"ledger": ledger.entries[-1]["hash"], "spent": ledger.steps}

    def opening() -> tuple[dict[str, Any], int]:
        at = state(0)
        if checkpoint.exists():
            at = torch.load(checkpoint, weights_only=True, map_location="cpu")
            if at.get("ledger") not in (None, *(entry["hash"] for entry in ledger.entries)):
                raise UserError(
                    f"{ledger.path}: holds {ledger.steps} steps, but {checkpoint} was made after "
                    f"{at['spent']} steps of another ledger; restore the newer file from a "
                    "backup, or start a run with another --out, which is charged again"
                )
        elif plan.reproducible_seed is None and ledger.steps == plan.steps:
            raise UserError(
                f"{checkpoint}: is missing, and all steps are spent, so nothing is left to train; "
                "restore it, or start a run with another --out, which is charged again"
            )
        if plan.reproducible_seed is not None:
            return at, at["step"]
        # Steps that a crash lost were paid for. Taking them with fresh randomness would cost again.
        return at, max(at["step"], ledger.steps)

    def save(step: int) -> None:
        buffer = io.BytesIO()
        torch.save(state(step), buffer)
        write_with(checkpoint, lambda file: file.write(buffer.getvalue()), mode=0o600)

    def spend(step: int) -> np.ndarray:
        ledger.step(step)  # on disk before any rank learns which units the step draws
        present = len(units) + (0 if canaries is None else canaries.present)
        return plan.sample(present, step, randomness)

    before, first = from_first(opening)
    with torch.no_grad():
        for parameter, saved in zip(trained, before["adapter"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(before["optimizer"])
    curve.extend(before["curve"])
    if canaries is not None:
        canaries.scores = before["scores"]
    progress(first)
    for step in range(first, plan.steps):
        chosen = from_first(partial(spend, step))
        drawn = [units[u] for u in chosen if u < len(units)]
        noise = beside.submit(plan.noise, clipper, step, randomness) if rank() == 0 else None
        weight = syntax_weight(
            step, syntax.schedule, syntax.lambda_max, syntax.lambda_min, syntax.decay
        )
        total = torch.zeros((), dtype=torch.float64, device=device)
        # Of one rank: two that disagreed on a length would take a unit twice, or not at all.
        sizes = from_first(partial(lengths, examples, drawn))
        shares = [
            [
                [(unit, index) for unit in group for index in drawn[unit]]
                for group in micro_batches(drawn, sizes, together, r, ranks)
            ]
            for r in range(ranks)
        ]
        groups = shares[rank()]
        indices = [[index for _, index in rows] for rows in groups]
        for rows, records in zip(groups, ahead(examples, indices, encoder), strict=True):
            fill = filling[len(rows) :]
            losses = recorded(learner, head, clipper, records, weight, fill, step)
            parts = [unit * learner.lessons + index % learner.lessons for unit, index in rows]
            clipper.accumulate(torch.tensor(parts))
            total += losses.nan_to_num(0.0, 0.0, 0.0).sum()  # the curve is JSON
        # Every pass over a model that is divided over the ranks needs all of them. What an idle
        # rank computes is 0, because no token is scored. It is dropped all the same.
        idle = max(map(len, shares)) - len(groups) if divided else 0
        for _ in range(idle):
            recorded(learner, head, clipper, filling or [filler], weight)
            clipper.forget()
        if canaries is not None:
            mine = (chosen[chosen >= len(units)] - len(units))[rank() :: world()]
            for rows_given in canaries.gradients(mine, most, device):
                clipper.accumulate(torch.arange(len(rows_given)), rows_given)
        noised = noised_sum(clipper.take_sum(), noise.result() if noise else None)
        if canaries is not None:
            canaries.observe(noised)
        clipper.set_gradients(noised / plan.expected_batch)
        for group_settings in optimizer.param_groups:
            group_settings["lr"] = _rate(step, plan.steps, settings)
        optimizer.step()
        taken = sum(map(len, drawn))
        curve.append({"step": step, "records": taken, "loss": float(sum_(total)) / max(1, taken)})
        due = (step + 1) % settings.checkpoint_every == 0 or step + 1 == plan.steps
        if due and rank() == 0:
            save(step + 1)
        progress(1)
    model.eval()
    return curve
