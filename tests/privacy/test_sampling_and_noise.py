"""Sampling is Poisson at the plan's rate; noise is Gaussian at the plan's scale."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from privcode.privacy import make_plan
from privcode.privacy.noise import gaussian
from privcode.privacy.randomness import Randomness
from privcode.privacy.sampling import poisson_sample

SECRET, SEEDED = Randomness(), Randomness(7)


@pytest.mark.parametrize("source", [SECRET, SEEDED])
def test_batch_sizes_are_binomial_in_mean_and_variance(source: Randomness) -> None:
    units, rate, steps = 2_000, 0.05, 400
    sizes = np.array(
        [len(poisson_sample(units, rate, source.stream("sampling", t))) for t in range(steps)]
    )
    mean, variance = units * rate, units * rate * (1 - rate)
    assert abs(sizes.mean() - mean) < 5 * math.sqrt(variance / steps)
    assert abs(sizes.var() / variance - 1) < 5 * math.sqrt(2 / steps)


def test_every_unit_is_drawn_at_the_rate_and_independently_of_its_neighbour() -> None:
    steps, rate = 4_000, 0.3
    drawn = np.zeros((steps, 20), dtype=bool)
    for t in range(steps):
        drawn[t, poisson_sample(20, rate, SEEDED.stream("sampling", t))] = True
    bound = 5 * math.sqrt(rate * (1 - rate) / steps)
    assert np.all(abs(drawn.mean(0) - rate) < bound)
    together = (drawn[:, 0] & drawn[:, 1]).mean()
    assert abs(together - rate**2) < bound


@pytest.mark.parametrize("present", [10, 2_000, 20_000])
def test_the_rate_comes_from_the_declared_size_and_not_from_the_units_there_are(
    present: int,
) -> None:
    plan = make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-6, units=10_000, batch=1_000, steps=1
    )
    assert plan.sampling_rate == 0.1
    randomness = Randomness(7)
    steps = 200_000 // present
    drawn = sum(len(plan.sample(present, step, randomness)) for step in range(steps))
    spread = (200_000 * 0.1 * 0.9) ** 0.5
    assert abs(drawn - 20_000) < 5 * spread


@pytest.mark.parametrize("seed", [None, 7])
def test_the_plan_draws_each_unit_whoever_else_and_whenever_it_was_drawn(seed: int | None) -> None:
    units, rate, steps = 200, 0.1, 3_000
    plan = make_plan(
        epsilon=None,
        noise_multiplier=1.0,
        delta=1e-3,
        units=units,
        batch=int(rate * units),
        steps=steps,
        reproducible_seed=seed,
    )
    randomness = plan.randomness()
    drawn = np.zeros((steps, units))
    for t in range(steps):
        drawn[t, plan.sample(units, t, randomness)] = 1
    # Binomial sizes: their variance, and the share far above the mean, where a cap would cut.
    sizes, mean, variance = drawn.sum(1), units * rate, units * rate * (1 - rate)
    assert abs(sizes.mean() - mean) < 6 * math.sqrt(variance / steps)
    assert abs(sizes.var() / variance - 1) < 6 * math.sqrt(2 / steps)
    above = 1 - binom.cdf(1.25 * mean, units, rate)
    assert abs((sizes > 1.25 * mean).mean() - above) < 6 * math.sqrt(above / steps)
    # Drawn in this step and in the next: rate² of the pairs, not none as in one shuffled epoch.
    again = (drawn[1:] * drawn[:-1]).mean()
    assert abs(again - rate**2) < 6 * rate / math.sqrt(drawn[1:].size)


@pytest.mark.parametrize(("rate", "size"), [(0.0, 0), (1.0, 50)])
def test_rates_zero_and_one_give_nobody_and_everybody(rate: float, size: int) -> None:
    assert len(poisson_sample(50, rate, SECRET.stream("sampling", 0))) == size


def deviation(noise: torch.Tensor, stdev: float) -> float:
    """How far the sample variance is from stdev², in standard errors."""
    return abs(float(noise.double().var()) / stdev**2 - 1) / math.sqrt(2 / len(noise))


@pytest.mark.parametrize("source", [SECRET, SEEDED])
def test_noise_has_the_scale_asked_for_and_a_scale_five_percent_off_is_seen(
    source: Randomness,
) -> None:
    noise = gaussian(200_000, 3.0, source.stream("noise", 0))
    assert deviation(noise, 3.0) < 5
    assert deviation(noise, 3.0 * 0.95) > 5
    assert deviation(noise, 3.0 * 1.05) > 5


def test_noise_is_normal_by_kolmogorov_and_smirnov() -> None:
    noise = gaussian(100_001, 1.0, SEEDED.stream("noise", 1)).double().sort().values
    below = 0.5 * (1 + torch.erf(noise / math.sqrt(2)))
    steps = torch.arange(1, len(noise) + 1, dtype=torch.float64) / len(noise)
    assert float((below - steps).abs().max()) < 1.95 / math.sqrt(len(noise))  # p = 0.001


def test_the_two_halves_of_a_draw_are_uncorrelated() -> None:
    first, second = gaussian(200_000, 1.0, SEEDED.stream("noise", 2)).double().chunk(2)
    for a, b in ((first, second), (first**2, second**2), (first.abs(), second)):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / math.sqrt(len(first))


def test_a_seeded_stream_repeats_and_differs_by_step_purpose_and_seed() -> None:
    def draw(seed: int, purpose: str, step: int) -> bytes:
        return Randomness(seed).stream(purpose, step)(16)

    assert draw(1, "noise", 0) == draw(1, "noise", 0)
    others = [draw(1, "noise", 1), draw(1, "sampling", 0), draw(2, "noise", 0)]
    assert len({draw(1, "noise", 0), *others}) == 4


def test_an_unseeded_stream_never_repeats() -> None:
    assert SECRET.stream("noise", 0)(16) != SECRET.stream("noise", 0)(16)


def test_no_noise_is_exactly_zero() -> None:
    assert not gaussian(1000, 0.0, SECRET.stream("noise", 0)).any()


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("units", [0, 1, 999, 1000, 1001, 4321])
def test_units_are_drawn_as_if_all_draws_were_in_memory_at_once(
    units: int, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.frombuffer(SEEDED.stream("sampling", 3)(8 * units), dtype=np.uint64)
    expected = [i for i, draw in enumerate(draws.tolist()) if rate == 1 or draw < rate * 2**64]
    assert poisson_sample(units, rate, SEEDED.stream("sampling", 3)).tolist() == expected
    monkeypatch.setattr("privcode.privacy.sampling._TOGETHER", 1000)
    assert poisson_sample(units, rate, SEEDED.stream("sampling", 3)).tolist() == expected
