"""Stage 1, privacy-sanitizing: DP-SGD LoRA on the junior (paper, section on stage 1).

Promises: everything computed from private records reaches the adapter only through the clipped,
noised sum made by the plan; every step is in the ledger before it is taken; a run killed
anywhere goes on from its last checkpoint, and never takes more noised steps than the plan
pays for. With seeded randomness the result is bit for bit that of an uninterrupted run; with
cryptographic randomness, steps whose result a crash lost stay spent and are not taken again.
The model trains without dropout, whatever its configuration says.
Over several processes (torchrun) each step is one step of the same mechanism: drawn once, noised
once, summed over the ranks; the first rank alone keeps the ledger and the checkpoint.
Does not: print or return anything computed from the records except the adapter; the training
curve is handed back for `private/` alone.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from privcode.audit.gradient_canaries import GradientCanaries
from privcode.errors import UserError
from privcode.files import write_with
from privcode.privacy.clipping import Clipper
from privcode.privacy.distributed import from_first, rank, start, sum_, world
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan
from privcode.records import Record, Unit
from privcode.syntax.loss import (
    Example,
    Head,
    collate,
    per_example_losses,
    split_head,
    syntax_weight,
)
from privcode.syntax.spans import completion_spans, token_mask


@dataclass(frozen=True)
class Settings:
    """What sanitize needs beside the plan: nothing here bears on the guarantee."""

    learning_rate: float = 5e-6
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 5
    weight_decay: float = 0.05
    micro_batch: int = 8
    checkpoint_every: int = 10
    syntax: Literal["decay", "constant", "off"] = "decay"
    lambda_max: float = 1000.0
    lambda_min: float = 0.1
    lambda_decay: float = 0.01


def encode(
    record: Record, prompt: str, tokenizer: Any, max_tokens: int, syntax: bool = True
) -> tuple[Example, bool]:
    """One record as one example, and whether it had to be truncated to `max_tokens`.

    Args:
        record: the record; its completion is the target, followed by the end token.
        prompt: the record's prompt, rendered by the run's template.
        tokenizer: a fast tokenizer (character offsets are needed).
        max_tokens: the context; the end of a longer record is cut off.
        syntax: False leaves out the search for structure.
    """
    # Not verbose: of a record too long for the model, the tokenizer would print the length.
    context = tokenizer(prompt, verbose=False)["input_ids"]
    target = tokenizer(
        record.completion, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    spans = completion_spans(record.completion, record.language) if syntax else []
    structure = token_mask([(a, b) for a, b in target["offset_mapping"]], spans)
    ids = [*context, *target["input_ids"], tokenizer.eos_token_id]
    marks = [*[False] * len(context), *structure, False]
    cut = len(ids) > max_tokens
    return Example(tuple(ids[:max_tokens]), len(context), tuple(marks[:max_tokens])), cut


def by_unit(records: Sequence[Record]) -> list[list[int]]:
    """Indices of each unit's records, units in order of first appearance."""
    units: dict[Unit, list[int]] = {}
    for index, record in enumerate(records):
        units.setdefault(record.unit, []).append(index)
    return list(units.values())


def micro_batches(
    units: Sequence[Sequence[int]], sizes: Sequence[int], most: int, rank: int = 0, world: int = 1
) -> Iterator[list[int]]:
    """Groups of unit numbers, whole units, about `most` records each, of like length.

    Of `world` ranks, each gets every `world`-th unit by length: equal shares, no unit twice.
    """
    order = sorted(range(len(units)), key=lambda u: max(sizes[i] for i in units[u]))[rank::world]
    group: list[int] = []
    filled = 0
    for unit in order:
        if group and filled + len(units[unit]) > most:
            yield group
            group, filled = [], 0
        group.append(unit)
        filled += len(units[unit])
    if group:
        yield group


def _rate(step: int, steps: int, settings: Settings) -> float:
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps)) if settings.schedule == "cosine" else 1.0
    return settings.learning_rate * warm * cosine


def _insist_on_the_same(*values: object) -> None:
    """Refuse to start where a unit has another number on another rank: it could be drawn twice."""
    if world() == 1:
        return
    digest = hashlib.sha256(repr(values).encode()).hexdigest()
    same = torch.tensor(int(digest == from_first(lambda: digest)))
    if int(sum_(same)) < world():
        raise UserError(
            "the ranks do not hold the same data and settings; "
            "give every machine the same files and the same versions of privcode"
        )


def _without_dropout(model: Any) -> None:
    """Every dropout off, and gradient checkpointing, which layers do only in training mode, not.

    A mask is drawn for a whole batch: one unit more gives all others another mask, and so moves
    the sum by several clip norms.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True  # its own flag, not its parts'


def _try_out(model: Any, head: Head | None, clipper: Clipper) -> None:
    """Refuse a model that cannot be clipped per record; made-up tokens, nothing is spent."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    structure = tuple(i % 2 == 0 for i in range(8))

    def losses(other: int) -> torch.Tensor:
        torch.manual_seed(other)  # a model that still drops out at random shows it
        rows = torch.arange(8) + torch.tensor([[1], [11 + 17 * other]])
        examples = [Example(tuple((row % vocabulary).tolist()), 2, structure) for row in rows]
        return per_example_losses(model, collate(examples, 0, clipper.device), 1.0, head)

    with torch.random.fork_rng():
        clipper.try_out(losses)


def noised_sum(clipped: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """[parameters] fp32: one step's clipped sum over all ranks, noised; all that the step releases.

    Args:
        clipped: this rank's clipped sum.
        noise: the step's noise, on the first rank alone: one draw for all ranks.
    """
    if noise is not None:
        clipped = clipped + noise.to(clipped.device)
    return sum_(clipped)


def sanitize(
    model: Any,
    pad: int,
    examples: Sequence[Example],
    units: Sequence[Sequence[int]],
    plan: PrivacyPlan,
    settings: Settings,
    ledger: Ledger,
    checkpoint: Path,
    progress: Callable[[int], object] = lambda steps: None,
    canaries: GradientCanaries | None = None,
) -> list[dict[str, float]]:
    """Train the adapter of `model` in place; returns the (private) training curve.

    Args:
        model: a peft model whose adapter alone is trainable.
        pad: padding token.
        examples: all records, encoded.
        units: for each unit present, the indices of its (bounded) examples.
        plan: decides sampling, clipping, noise and divisor.
        settings: optimisation.
        ledger: begun with this plan; only the first rank's is read and written.
        checkpoint: file (in `private/`) to go on from and to write, by the first rank.
        progress: called with the number of steps done.
        canaries: units of an audit beside the private ones; scored step by step, in place.

    Raises:
        UserError: the model cannot be clipped per record; the ranks hold different data or
            settings; the ledger cannot be written, or is older than the checkpoint; all is spent
            and the checkpoint is gone.
    """
    start()
    public = () if canaries is None else canaries.coordinates.tolist()
    _insist_on_the_same(units, examples, plan, settings, public)
    trained = [p for p in model.parameters() if p.requires_grad]
    clipper, head = plan.clipper(model), split_head(model)
    device = clipper.device
    _without_dropout(model)
    _try_out(model, head, clipper)
    if canaries is not None:
        clipper.reserve(canaries.coordinates)
    optimizer = torch.optim.AdamW(
        trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
    )
    randomness = plan.randomness()
    beside = ThreadPoolExecutor(1)  # noise takes processor time while an accelerator works
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
                    f"{ledger.path}: holds {ledger.steps} steps and not those that {checkpoint} "
                    f"was made after, {at['spent']}; restore the newer file from a backup, or "
                    "start a run with another --out, which is charged anew"
                )
        elif plan.reproducible_seed is None and ledger.steps == plan.steps:
            raise UserError(
                f"{checkpoint}: is gone, and all steps are spent, so nothing is left to train; "
                "restore it, or start a run with another --out, which is charged anew"
            )
        if plan.reproducible_seed is not None:
            return at, at["step"]
        # Steps that a crash lost were paid for: fresh randomness would be a second payment.
        return at, max(at["step"], ledger.steps)

    def save(step: int) -> None:
        buffer = io.BytesIO()
        torch.save(state(step), buffer)
        write_with(checkpoint, lambda file: file.write(buffer.getvalue()), mode=0o600)

    def spend(step: int) -> np.ndarray:
        ledger.step(step)  # on disk before any rank learns whom the step draws
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
    lengths = [len(e.ids) for e in examples]
    for step in range(first, plan.steps):
        chosen = from_first(partial(spend, step))
        drawn = [units[u] for u in chosen if u < len(units)]
        noise = beside.submit(plan.noise, clipper, step, randomness) if rank() == 0 else None
        weight = syntax_weight(
            step, settings.syntax, settings.lambda_max, settings.lambda_min, settings.lambda_decay
        )
        total = 0.0
        for group in micro_batches(drawn, lengths, settings.micro_batch, rank(), world()):
            rows = [(unit, index) for unit in group for index in drawn[unit]]
            batch = collate([examples[index] for _, index in rows], pad, device)
            with clipper.recording(len(rows)):
                losses = per_example_losses(model, batch, weight, head)
                losses.sum().backward()  # type: ignore[no-untyped-call]
            clipper.accumulate(torch.tensor([unit for unit, _ in rows]))
            total += float(losses.detach().nan_to_num(0.0, 0.0, 0.0).sum())  # the curve is JSON
        if canaries is not None:
            mine = (chosen[chosen >= len(units)] - len(units))[rank() :: world()]
            for rows_given in canaries.gradients(mine, settings.micro_batch, device):
                clipper.accumulate(torch.arange(len(rows_given)), rows_given)
        noised = noised_sum(clipper.take_sum(), noise.result() if noise else None)
        if canaries is not None:
            canaries.observe(noised)
        clipper.set_gradients(noised / plan.expected_batch)
        for group_settings in optimizer.param_groups:
            group_settings["lr"] = _rate(step, plan.steps, settings)
        optimizer.step()
        total = float(sum_(torch.tensor(total, dtype=torch.float64, device=device)))
        records = sum(map(len, drawn))
        curve.append({"step": step, "records": records, "loss": total / max(1, records)})
        due = (step + 1) % settings.checkpoint_every == 0 or step + 1 == plan.steps
        if due and rank() == 0:
            save(step + 1)
        progress(1)
    model.eval()
    return curve
