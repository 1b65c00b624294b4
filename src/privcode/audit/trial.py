"""A whole white-box audit by itself: train under a plan with gradient canaries, bound its ε.

Promises:
- Training goes through `sanitize`, as in a run.
- The bound is that of the claimed plan, whatever plan the engine is given.

Does not: write anything that stays, or spend a budget. Its records are made up.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privcode.audit.one_run import Bound, choose_guesses, lower_bound
from privcode.data.records import Record, Unit
from privcode.exercises.corpus import private_records
from privcode.models import attach_lora, load_model, load_tokenizer, render
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example, encode
from privcode.training.gradient_canaries import GradientCanaries
from privcode.training.learner import Learner
from privcode.training.settings import Sanitize, Syntax


@dataclass(frozen=True)
class Trial:
    """The ε that a plan claims, and the bound that was found."""

    claimed: float
    bound: Bound

    @property
    def found(self) -> float:
        """The stronger of the two bounds."""
        return max(self.bound.epsilon, self.bound.epsilon_same_shape or 0.0)


def trial(
    model: Any,
    examples: Sequence[Example],
    claim: PrivacyPlan,
    canaries: int,
    seed: int,
    engine: PrivacyPlan | None = None,
) -> Trial:
    """Train the adapter of `model` on the examples, each a unit, and bound ε from canaries.

    Args:
        model: a peft model whose only trainable part is the adapter; changed.
        examples: made-up records.
        claim: the plan whose ε is claimed.
        canaries: how many; half of them take part.
        seed: of the coins.
        engine: the plan that is really carried out, to demonstrate a fault.
    """

    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    planted = GradientCanaries(claim, parameters, canaries, seed)
    done = engine or claim
    settings = Sanitize(
        learning_rate=1e-2,
        micro_batch=16,
        checkpoint_every=done.steps,
        syntax=Syntax(schedule="off"),
    )
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        ledger.begin(done, "made up")
        sanitize(
            Learner(model, 0, 256),
            examples,
            [[i] for i in range(len(examples))],
            done,
            settings,
            ledger,
            Path(folder) / "checkpoint.pt",
            canaries=planted,
        )
    scores = planted.scores.numpy()
    guesses = choose_guesses(claim, canaries)
    return Trial(claim.cost().epsilon, lower_bound(scores, planted.included, claim, guesses))


def short_audit() -> Trial:
    """A small white-box audit of this installation, on the bundled junior at ε 4: some seconds.

    Noise and coins are fresh. `found` above `claimed` is a fault of the engine. (A sound engine
    looks so with probability below 10 %, in practice far below.) A `found` near 0 is also a fault:
    the same audit of a sound engine finds about half the claim.
    """

    tokenizer = load_tokenizer("bundled:junior")
    template = "Question: {prompt}\n\nAnswer:\n"
    examples = []
    for number, row in enumerate(private_records(20, seed=0), start=1):
        record = Record(row["prompt"], row["code"], "python", Unit("row", f"row-{number}"), number)
        prompt = render(template, prompt=record.prompt)
        examples.append(encode(record, prompt, tokenizer, 64, syntax=False)[0])
    plan = make_plan(
        epsilon=None, noise_multiplier=2.65, delta=1e-5, units=2000, batch=1000, steps=20
    )
    model = attach_lora(load_model("bundled:junior"), 2, 4, 0.0)
    return trial(model, examples, plan, 1500, int.from_bytes(os.urandom(4)))
