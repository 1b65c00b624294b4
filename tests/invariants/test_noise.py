"""The noise that the optimizer sees is the plan's: scale, shape, independence, precision, source.

Nobody is drawn, so that the gradient of every step is noise alone. A layer holds N = 32,768
numbers. Its sample variance has a relative standard error of √(2/N) = 0.0078; six of them, 0.047,
are allowed. Right noise leaves them with probability 2e-9. Noise at 0.95 σ has the relative
variance 0.9025, (0.0975 - 0.047) / (0.9025 · 0.0078) = 7.2 of its own standard errors beyond the
limit, and noise at 1.05 σ 6.5: each is taken for right with probability below 1e-10.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.models import attach_lora
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example
from privcode.training.learner import Learner
from privcode.training.settings import Sanitize

N, ERRORS = 512 * 64, 6.0
SIGMA, CLIP, BATCH = 1.7, 0.4, 2
STDEV = SIGMA * CLIP / BATCH
DTYPES = (torch.float32, torch.bfloat16)
SOURCES = (None, 5)  # cryptographic, reproducible


def adapted(dtype: torch.dtype) -> Any:
    """A model with eight trainable layers of N numbers each."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=512,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    model = LlamaForCausalLM(config).to(dtype)
    return attach_lora(model, r=64, alpha=64, dropout=0.0, targets=["q_proj", "down_proj"])


def plan_for(seed: int | None = None, steps: int = 1) -> PrivacyPlan:
    return make_plan(
        epsilon=None,
        noise_multiplier=SIGMA,
        delta=1e-12,
        units=10**10,  # and one present: nobody is drawn
        batch=BATCH,
        steps=steps,
        clip_norm=CLIP,
        reproducible_seed=seed,
    )


def seen(
    folder: Path, plan: PrivacyPlan, dtype: torch.dtype = torch.float32
) -> list[list[torch.Tensor]]:
    """The gradient of each layer in each step, as the optimizer gets it."""
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.begin(plan, "fingerprint")
    steps: list[list[torch.Tensor]] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        steps.append([p.grad.clone() for g in optimizer.param_groups for p in g["params"]])

    hook = register_optimizer_step_pre_hook(note)
    alone = [Example((1, 2, 3), 1, (False,) * 3)]
    try:
        learner, checkpoint = Learner(adapted(dtype), 0, 256), folder / "checkpoint.pt"
        sanitize(learner, alone, [[0]], plan, Sanitize(), ledger, checkpoint)
    finally:
        hook.remove()
    return steps


def off(noise: torch.Tensor, stdev: float) -> float:
    """How far the variance about 0 is from stdev², in its standard errors if that is right."""
    values = noise.double().flatten()
    return abs(float(values.square().mean()) / stdev**2 - 1) / (2 / len(values)) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", SOURCES, ids=["cryptographic", "reproducible"])
def test_every_layer_gets_noise_at_sigma_and_five_percent_off_would_be_seen(
    tmp_path: Path, seed: int | None, dtype: torch.dtype
) -> None:
    (layers,) = seen(tmp_path, plan_for(seed), dtype)
    assert len(layers) == 8
    for layer in layers:
        assert layer.numel() == N
        assert off(layer, STDEV) < ERRORS
        assert off(layer, 0.95 * STDEV) > ERRORS
        assert off(layer, 1.05 * STDEV) > ERRORS
        # As drawn: wrong noise, not a wrong yardstick.
        assert off(0.95 * layer, STDEV) > ERRORS
        assert off(1.05 * layer, STDEV) > ERRORS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layers_noise_is_normal_by_kolmogorov_and_smirnov(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    (layers,) = seen(tmp_path, plan_for(), dtype)
    for layer in layers:
        ordered = (layer.double().flatten() / STDEV).sort().values
        below = 0.5 * (1 + torch.erf(ordered / 2**0.5))
        shares = torch.arange(1, N + 1, dtype=torch.float64) / N
        assert float((below - shares).abs().max()) * N**0.5 < 3.2  # p = 2 exp(-2 · 3.2²) = 3e-9


@pytest.mark.parametrize("seed", SOURCES, ids=["cryptographic", "reproducible"])
def test_the_noise_of_layers_and_steps_is_uncorrelated(tmp_path: Path, seed: int | None) -> None:
    layers = [layer for step in seen(tmp_path, plan_for(seed, steps=3)) for layer in step]
    drawn = torch.stack([layer.double().flatten() for layer in layers])
    assert len(drawn) == 24
    for values in (drawn, drawn.abs()):
        across = torch.corrcoef(values).fill_diagonal_(0)
        assert float(across.abs().max()) * N**0.5 < ERRORS
    for lag in (1, 2, 512, N // 2):  # within a layer; each lag sums N - lag products
        ahead, behind = drawn[:, lag:] / STDEV, drawn[:, :-lag] / STDEV
        assert float((ahead * behind).sum(1).abs().max()) / (N - lag) ** 0.5 < ERRORS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_keeps_its_precision_whatever_the_models_dtype(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    (layers,) = seen(tmp_path, plan_for(), dtype)
    for layer in layers:
        assert layer.dtype == torch.float32
        rounded = (layer == layer.bfloat16().float()).double().mean()
        assert float(rounded) < 0.01  # by chance one in 2^16


def test_by_default_eight_bytes_a_number_are_taken_from_the_operating_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    real = os.urandom

    def counted(count: int) -> bytes:
        taken.append(count)
        return real(count)

    monkeypatch.setattr(os, "urandom", counted)
    seen(tmp_path / "a", plan_for(steps=2))
    assert sum(taken) == 2 * (8 * 8 * N + 8)  # and eight bytes for the one unit's coin
    taken.clear()
    seen(tmp_path / "b", plan_for(seed=1, steps=2))
    assert taken == []


def test_reproducible_noise_is_a_function_of_the_seed_and_the_step(tmp_path: Path) -> None:
    one, again, other = (
        seen(tmp_path / name, plan_for(seed, steps=2))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for step in range(2):
        for layer in range(8):
            assert torch.equal(one[step][layer], again[step][layer])
            assert not torch.equal(one[step][layer], other[step][layer])
    plan = plan_for(1, steps=2)
    alone = plan.noise(plan.clipper(adapted(torch.float32)), 1, plan.randomness())
    got = torch.cat([layer.flatten() for layer in one[1]])
    torch.testing.assert_close(got, (alone / BATCH).float())
