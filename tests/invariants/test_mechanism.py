"""A whole step is the mechanism that the accountant assumes (promises 3, 4 and 6).

What is compared is the gradient that the optimizer saw, read from the checkpoint of a run of
one step.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example, collate
from privcode.training.learner import Learner
from privcode.training.loss import per_example_losses
from privcode.training.settings import Sanitize, Syntax

POISON = 63  # a token whose embedding is not a number
CLIP = 0.08  # near the median of the norms: some units are clipped


def example(index: int, *extra: int) -> Example:
    length = 6 + index * 5 % 11
    ids = torch.randint(1, POISON, (length,), generator=torch.Generator().manual_seed(index))
    whole = (*ids.tolist(), *extra)
    return Example(whole, 2, tuple(i % 3 == 0 for i in range(len(whole))))


EXAMPLES = [example(i) for i in range(16)]


def tiny(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        attention_dropout=dropout,
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], lora_dropout=dropout)
    model = get_peft_model(LlamaForCausalLM(config), lora)
    model.get_input_embeddings().weight.data[POISON] = math.nan
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def plan_for(**change: Any) -> PrivacyPlan:
    """Everybody takes part, without noise, unless told otherwise."""
    settings: dict[str, Any] = {
        "epsilon": None,
        "noise_multiplier": 0.0,
        "delta": 1e-3,
        "units": 16,
        "batch": 16,
        "steps": 1,
        "clip_norm": CLIP,
        "reproducible_seed": 1,
    }
    return make_plan(**(settings | change))


def step(
    folder: Path,
    plan: PrivacyPlan,
    examples: Sequence[Example] = EXAMPLES,
    units: Sequence[Sequence[int]] | None = None,
    micro_batch: int = 4,
    syntax: float = 2.0,
    model: Any = None,
) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """The gradient of one step, and the training curve."""
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.begin(plan, "fingerprint")
    settings = Sanitize(
        learning_rate=1e-2, micro_batch=micro_batch, syntax=Syntax(lambda_max=syntax)
    )
    alone = [[i] for i in range(len(examples))]
    checkpoint = folder / "checkpoint.pt"
    model = tiny() if model is None else model
    curve = sanitize(
        Learner(model, 0, 256), examples, units or alone, plan, settings, ledger, checkpoint
    )
    state = torch.load(checkpoint, weights_only=True)["optimizer"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]) / 0.1, curve


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())


def test_the_step_is_the_clipped_sum_of_plain_autograd_over_the_expected_batch(
    tmp_path: Path,
) -> None:
    model, units = tiny(), [[0, 1, 2], [3, 4], *([i] for i in range(5, 16))]
    weights = [p for p in model.parameters() if p.requires_grad]
    total, clipped = torch.zeros(sum(p.numel() for p in weights)), 0
    for unit in units:
        own = torch.zeros_like(total)
        for i in unit:
            loss = per_example_losses(model, collate([EXAMPLES[i]], 0), 2.0).sum()
            own += torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
        norm = float(own.double().norm())
        clipped += norm > CLIP
        total += own * min(1.0, CLIP / norm)
    assert 0 < clipped < len(units)
    plan = plan_for(owner_column="owner", max_records_per_unit=3)
    assert distance(step(tmp_path, plan, units=units)[0], total / 16) < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("syntax", [0.0, 1000.0])
def test_one_unit_less_moves_the_step_by_at_most_the_clip_norm_over_the_expected_batch(
    tmp_path: Path, syntax: float, dropout: float
) -> None:
    # Micro-batches are made of what is there: 5, 5, 5 and 1 units with everybody, 5, 5 and 5
    # without one of them, and in other company.
    def taken(name: str, units: list[list[int]]) -> torch.Tensor:
        model = tiny(dropout)
        return step(
            tmp_path / name, plan_for(), units=units, syntax=syntax, micro_batch=5, model=model
        )[0]

    everybody = taken("all", [[i] for i in range(16)])
    for gone in (0, 5, 10, 15):
        without = taken(str(gone), [[i] for i in range(16) if i != gone])
        moved = float((everybody - without).double().norm())
        assert 0 < moved < CLIP / 16 * (1 + 1e-4)


def test_the_divisor_is_the_expected_batch_whoever_took_part(tmp_path: Path) -> None:
    # Sixteen units are present and drawn in both runs; the second one expects 32.
    as_many, _ = step(tmp_path / "a", plan_for())
    more, curve = step(tmp_path / "b", plan_for(units=32, batch=32))
    assert curve[0]["records"] == 16
    assert distance(more * 2, as_many) < 1e-6


def test_an_empty_batchs_update_is_the_plans_noise_over_the_expected_batch(tmp_path: Path) -> None:
    plan = plan_for(noise_multiplier=1.5, units=10**6, batch=2, delta=1e-7)
    got, curve = step(tmp_path, plan)
    assert curve == [{"step": 0, "records": 0, "loss": 0.0}]
    noise = plan.noise(plan.clipper(tiny()), 0, plan.randomness())
    assert float(noise.std()) == pytest.approx(1.5 * CLIP, rel=0.1)
    assert distance(got, noise / 2) < 1e-6


def test_the_noise_of_a_full_batch_is_added_once_after_the_clip(tmp_path: Path) -> None:
    plan = plan_for(noise_multiplier=1.5)
    noised, _ = step(tmp_path / "a", plan)
    plain, _ = step(tmp_path / "b", plan_for())
    noise = plan.noise(plan.clipper(tiny()), 0, plan.randomness())
    assert distance(noised - plain, noise / 16) < 1e-5


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_an_example_that_is_not_finite_contributes_exactly_nothing(
    tmp_path: Path, micro_batch: int
) -> None:
    poisoned = [*EXAMPLES[:15], example(15, POISON)]
    with_it, curve = step(tmp_path / "a", plan_for(), poisoned, micro_batch=micro_batch)
    without, _ = step(tmp_path / "b", plan_for(), EXAMPLES[:15], micro_batch=micro_batch)
    assert bool(with_it.isfinite().all())
    assert math.isfinite(curve[0]["loss"])
    if micro_batch == 1:  # the groups of the others are the same
        assert torch.equal(with_it, without)
    assert distance(with_it, without) < 1e-6


def test_one_example_that_is_not_finite_takes_its_whole_unit_out(tmp_path: Path) -> None:
    poisoned = [*EXAMPLES[:15], example(15, POISON)]
    units = [[i] for i in range(14)]
    plan = plan_for(owner_column="owner", max_records_per_unit=2)
    with_it, _ = step(tmp_path / "a", plan, poisoned, [*units, [14, 15]], micro_batch=1)
    without, _ = step(tmp_path / "b", plan, EXAMPLES[:14], units, micro_batch=1)
    assert torch.equal(with_it, without)


def test_a_step_that_fails_half_way_is_in_the_ledger_already(tmp_path: Path) -> None:
    outside = [*EXAMPLES[:15], example(15, 64)]  # the vocabulary ends at 63
    with pytest.raises(IndexError):
        step(tmp_path, plan_for(), outside)
    assert Ledger(tmp_path / "ledger.jsonl").steps == 1
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_recording_that_failed_leaves_nothing_to_add() -> None:
    model = tiny()
    clipper = plan_for().clipper(model)
    with clipper.recording(4):
        per_example_losses(model, collate(EXAMPLES[:4], 0), 0.0).sum().backward()
    with pytest.raises(ZeroDivisionError), clipper.recording(4):
        raise ZeroDivisionError
    with pytest.raises(AssertionError):
        clipper.accumulate(torch.arange(4))
