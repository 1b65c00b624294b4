"""The mechanism as `sanitize` carries it out, compared with what is known in another way.

Promises:
- Each function takes steps of training on a tiny random model, looks at what the optimizer gets,
  and returns one line.
- It raises `UserError` where the result is not the plan's.

Does not: touch the global random generator, or anything of a user.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.doctor import expect
from privcode.models import attach_lora
from privcode.privacy import PrivacyPlan, make_plan
from privcode.privacy.ledger import Ledger
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example, collate
from privcode.training.learner import Learner
from privcode.training.loss import per_example_losses
from privcode.training.settings import Sanitize, Syntax

ERRORS = 6.0  # standard errors
_TOLERANCE = 1e-4  # fp32, whatever the device's summation order
_OWNED = [[0], [1, 7], [2], [3], [4], [5, 6]]  # some own two records, apart and next to each other


def tiny(device: str = "cpu", hidden: int = 32, rank: int = 4) -> tuple[Any, list[Example]]:
    """A random model with an adapter that changes its outputs, and eight records for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=hidden,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
        )
        model = attach_lora(LlamaForCausalLM(config), rank, 2 * rank, dropout=0.0)
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zeros at the start, which would hide half of the gradient
                torch.nn.init.normal_(weight, std=0.3)
        examples = [
            Example(
                tuple(torch.randint(1, 64, (length,)).tolist()),
                2,
                tuple(i > 1 and i % 3 == 0 for i in range(length)),
            )
            for length in (5, 9, 4, 12, 7, 7, 3, 10)
        ]
    return model.to(device).train(), examples


def take_steps(
    model: Any,
    examples: Sequence[Example],
    units: Sequence[Sequence[int]],
    plan: PrivacyPlan,
    folder: Path | None = None,
    progress: Callable[[int], object] = lambda steps: None,
) -> list[torch.Tensor]:
    """The flat gradient that the optimizer got in each step of a (resumed) run in `folder`."""
    seen: list[torch.Tensor] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parts = [p.grad for group in optimizer.param_groups for p in group["params"]]
        seen.append(torch.cat([part.flatten() for part in parts]).cpu())

    hook = register_optimizer_step_pre_hook(note)
    syntax = Syntax(lambda_max=2.0)
    settings = Sanitize(learning_rate=5e-6, micro_batch=3, checkpoint_every=2, syntax=syntax)
    with tempfile.TemporaryDirectory() as fresh, torch.random.fork_rng():
        place = folder or Path(fresh)
        ledger = Ledger(place / "ledger.jsonl")
        ledger.begin(plan, "made up")
        try:
            learner = Learner(model, 0, 256)
            checkpoint = place / "checkpoint"
            sanitize(learner, examples, units, plan, settings, ledger, checkpoint, progress)
        finally:
            hook.remove()
    return seen


def clipping(device: str) -> str:
    """Compare a step without noise, PrivSA term included, with one record at a time."""
    model, examples = tiny(device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = []
    for owned in _OWNED:
        total = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64)
        for index in owned:
            loss = per_example_losses(model, collate([examples[index]], 0, device), 2.0).sum()
            parts = torch.autograd.grad(loss, weights)
            total += torch.cat([part.flatten() for part in parts]).double().cpu()
        gradients.append(total)
    norms = [float(gradient.norm()) for gradient in gradients]
    clip = sorted(norms)[len(norms) // 2]  # some units are scaled down, some are not
    plan = make_plan(
        epsilon=None,
        noise_multiplier=0.0,
        delta=1e-3,
        units=8,  # eight are expected, six are present: the divisor is eight
        batch=8,
        steps=1,
        clip_norm=clip,
        owner_column="owner",
        max_records_per_unit=2,
    )
    scaled = [g * min(1.0, clip / norm) for g, norm in zip(gradients, norms, strict=True)]
    expected = torch.stack(scaled).sum(0) / 8
    (got,) = take_steps(model, examples, _OWNED, plan)
    error = float((got.double() - expected).norm() / expected.norm())
    said = f"each record by itself gives the same update (relative error {error:.1e})"
    expect(
        error < _TOLERANCE,
        f"the update is not that of records clipped one by one (relative error {error:.1e}); "
        "do not train here",
    )
    return said


def syntax_term() -> str:
    """Compare the gradient of the PrivSA term with that of a teacher computed here."""
    model, examples = tiny()
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]).double()

    example = examples[3]
    ids, batch = torch.tensor([example.ids]), collate([example], 0)
    got = gradient(per_example_losses(model, batch, 1.0).sum())
    got -= gradient(per_example_losses(model, batch, 0.0).sum())
    halves = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    kept = [half.detach().clone() for half in halves]
    with torch.no_grad():  # with half of it 0, the adapter is off, without using the loss's own way
        for half in halves:
            half.zero_()
        teacher = model(input_ids=ids).logits[0].log_softmax(-1)
        for half, before in zip(halves, kept, strict=True):
            half.copy_(before)
    student = model(input_ids=ids).logits[0].log_softmax(-1)
    at = [place - 1 for place, structural in enumerate(example.structure) if structural]
    expected = gradient((teacher[at].exp() * (teacher[at] - student[at])).sum(-1).mean())
    error = float((got - expected).norm() / expected.norm())
    expect(
        error < 1e-3,
        f"its gradient is not that of the untuned model as teacher (relative error {error:.1e}); "
        "the syntax would not be held",
    )
    return f"pulls towards the untuned model at the code's structure (relative error {error:.1e})"


def noise() -> str:
    """Two steps in which nobody is drawn: four moments, at a scale unlike σ and the clip norm."""
    plan = make_plan(
        epsilon=None,
        noise_multiplier=1.5,
        delta=1e-12,
        units=10**10,
        batch=2,
        steps=2,
        clip_norm=0.4,
    )
    model, examples = tiny(hidden=256, rank=64)  # enough numbers to see 5 % of the scale
    drawn, again = take_steps(model, examples[:1], [[0]], plan)
    values = drawn.double() / (1.5 * 0.4 / 2)
    expect(not torch.equal(drawn, again), "the same noise came twice; do not train here")
    # Of a standard normal, by power: the moment and its variance.
    known = {1: (0.0, 1.0), 2: (1.0, 2.0), 3: (0.0, 15.0), 4: (3.0, 96.0)}
    far = {
        power: float((values**power).mean() - moment) / (variance / len(values)) ** 0.5
        for power, (moment, variance) in known.items()
    }
    scale = float(values.std())
    wrong = [
        f"moment {power} is {z:+.1f} standard errors off"
        for power, z in far.items()
        if not abs(z) < ERRORS
    ]
    said = f"{len(values):,} numbers of a step have {scale:.4f} of the planned deviation"
    expect(not wrong, f"{said}; {', '.join(wrong)}; do not train here")
    return f"{said} and the shape of a normal; the next step draws others"


def sampling() -> str:
    """Mean and variance of batches so small that a bound on their size would show."""
    units, batch, steps = 400, 20, 5000
    plan = make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-4, units=units, batch=batch, steps=steps
    )
    randomness = plan.randomness()
    sizes = np.array([len(plan.sample(units, step, randomness)) for step in range(steps)])
    spread = batch * (1 - batch / units)
    said = (
        f"{steps:,} batches: mean {sizes.mean():.2f}, variance {sizes.var():.2f}, "
        f"asked for {batch} and {spread:g}"
    )
    sound = (
        abs(sizes.mean() - batch) < ERRORS * (spread / steps) ** 0.5
        and abs(sizes.var() / spread - 1) < ERRORS * (2 / steps) ** 0.5
    )
    expect(sound, f"{said}; do not train here")
    return f"units take part by independent coins ({said})"
