"""Gradient canaries go through the engine as any unit, and show what it does wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.audit.trial import Trial, short_audit, trial
from privcode.errors import UserError
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example
from privcode.training.gradient_canaries import GradientCanaries
from privcode.training.learner import Learner
from privcode.training.settings import Sanitize, Syntax

CLIP = 0.5
PARAMETERS = 2048
CANARIES = 1000
NOISES = (4.2, 1.45)
"""Under `plan_for`, ε is about 1 and about 4."""


def plan_for(**change: Any) -> PrivacyPlan:
    settings: dict[str, Any] = {
        "epsilon": None,
        "noise_multiplier": 1.0,
        "delta": 1e-4,
        "units": 1000,
    }
    settings |= {"batch": 500, "steps": 6, "clip_norm": CLIP, "reproducible_seed": 1}
    return make_plan(**(settings | change))


def tiny() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj", "o_proj"])
    )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == PARAMETERS
    return model


def examples(count: int = 12) -> list[Example]:
    rng = torch.Generator().manual_seed(2)
    rows = [torch.randint(1, 64, (10,), generator=rng).tolist() for _ in range(count)]
    return [Example(tuple(ids), 2, (False,) * 10) for ids in rows]


class Watched(GradientCanaries):
    """Keeps what is seen in each step, in clip norms."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[np.ndarray] = []

    def observe(self, noised: torch.Tensor) -> None:
        self.seen.append((noised[self.coordinates] * self.signs / CLIP).double().numpy())
        super().observe(noised)


def train(
    folder: Path, plan: PrivacyPlan, claim: PrivacyPlan | None = None, stop: int | None = None
) -> tuple[Watched, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.begin(plan, "made up")
    canaries = Watched(claim or plan, PARAMETERS, CANARIES, 3)
    model, data, done = tiny(), examples(), 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        if stop is not None and done >= stop:
            raise KeyboardInterrupt

    settings = Sanitize(learning_rate=1e-2, checkpoint_every=2, syntax=Syntax(schedule="off"))
    checkpoint, units = folder / "checkpoint.pt", [[i] for i in range(len(data))]
    sanitize(
        Learner(model, 0, 256),
        data,
        units,
        plan,
        settings,
        ledger,
        checkpoint,
        progress,
        canaries=canaries,
    )
    return canaries, torch.cat(
        [p.detach().flatten() for p in model.parameters() if p.requires_grad]
    )


def test_without_noise_a_canary_shows_one_clip_norm_when_drawn_and_nothing_else(
    tmp_path: Path,
) -> None:
    plan = plan_for(noise_multiplier=0.0)
    canaries, _ = train(tmp_path, plan)
    numbers = np.flatnonzero(canaries.included)
    for step, seen in enumerate(canaries.seen):
        drawn = plan.sample(12 + canaries.present, step, plan.randomness())
        expected = np.zeros(CANARIES)
        # The clipper keeps 2^-17 of the clip norm for rounding.
        expected[numbers[drawn[drawn >= 12] - 12]] = 1 - 2.0**-17
        # And exactly nothing where none was drawn, whatever records there are.
        assert seen == pytest.approx(expected, abs=1e-6)
        assert not seen[expected == 0].any()


def test_the_noise_on_a_canary_is_the_plans(tmp_path: Path) -> None:
    canaries, _ = train(tmp_path, plan_for(noise_multiplier=0.7, steps=12))
    out = np.concatenate([seen[~canaries.included] for seen in canaries.seen])
    error = 0.7 / (2 * len(out)) ** 0.5  # of the standard deviation
    assert abs(out.std() - 0.7) < 4 * error < 0.05 * 0.7  # 5 % off would fail
    assert abs(out.mean()) < 4 * 0.7 / len(out) ** 0.5
    inside = np.concatenate([seen[canaries.included] for seen in canaries.seen])
    assert abs(inside.mean() - 0.5) < 4 * (0.7**2 + 0.25) ** 0.5 / len(inside) ** 0.5


def test_coins_are_fair_and_coordinates_different_and_both_follow_from_the_seed() -> None:
    made = [GradientCanaries(plan_for(), PARAMETERS, CANARIES, seed) for seed in range(20)]
    again = GradientCanaries(plan_for(), PARAMETERS, CANARIES, 7)
    assert torch.equal(made[7].coordinates, again.coordinates)
    assert (made[7].included == again.included).all()
    assert not torch.equal(made[6].coordinates, again.coordinates)
    share = sum(canaries.present for canaries in made) / (20 * CANARIES)
    assert abs(share - 0.5) < 4 * 0.5 / (20 * CANARIES) ** 0.5
    for canaries in made:
        assert len(set(canaries.coordinates.tolist())) == CANARIES


def test_more_canaries_than_coordinates_are_refused() -> None:
    with pytest.raises(UserError, match=r"gradient_canaries.*2048"):
        GradientCanaries(plan_for(), PARAMETERS, PARAMETERS + 1, 0)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_seeded_audit_ends_with_the_same_scores(tmp_path: Path, stop: int) -> None:
    whole, adapter = train(tmp_path / "whole", plan_for())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", plan_for(), stop=stop)
    again, resumed = train(tmp_path / "cut", plan_for())
    assert torch.equal(adapter, resumed)
    assert torch.equal(whole.scores, again.scores)


def audited(noise: float, **fault: float) -> Trial:
    claim = plan_for(noise_multiplier=noise, reproducible_seed=5)
    engine = replace(claim, **{name: times * getattr(claim, name) for name, times in fault.items()})
    return trial(tiny(), examples(), claim, CANARIES, 3, engine)


@pytest.mark.parametrize(("noise", "share"), [(NOISES[0], 0.05), (NOISES[1], 0.3)])
def test_a_sound_engine_stays_below_its_claim_and_its_audit_above_nothing(
    noise: float, share: float
) -> None:
    done = audited(noise)
    assert share * done.claimed < done.found < done.claimed


@pytest.mark.parametrize(
    ("noise", "fault"),
    [
        (NOISES[0], {"noise_multiplier": 0.0}),
        (NOISES[0], {"noise_multiplier": 0.25}),
        (NOISES[0], {"clip_norm": 1e3, "noise_multiplier": 1e-3}),  # the same noise, and no clip
        (NOISES[1], {"noise_multiplier": 0.0}),
        (NOISES[1], {"noise_multiplier": 0.5}),
        (NOISES[1], {"clip_norm": 1e3, "noise_multiplier": 1e-3}),
    ],
)
def test_an_engine_with_a_fault_is_above_its_claim(noise: float, fault: dict[str, float]) -> None:
    done = audited(noise, **fault)
    assert done.found > done.claimed


@pytest.mark.slow
def test_the_short_audit_finds_a_good_part_of_the_claim_and_no_more() -> None:
    done = short_audit()
    assert 1.0 < done.found < done.claimed
