"""What several units that come and go together have: against formulas, integrals and sampling."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from privcode.privacy import Spent, make_plan, spend
from privcode.privacy.accounting import GROUP_CEILING, group_epsilon

SLOW_STEPS = [(0.02, 0.8, 2), (0.3, 4.0, 12), (0.001, 0.5, 100)]


def gaussian_epsilon(sensitivity: float, delta: float) -> float:
    """The exact ε of a Gaussian mechanism (Balle & Wang 2018), by its sensitivity over noise."""
    half = sensitivity / 2

    def excess(epsilon: float) -> float:
        far = epsilon / sensitivity
        second = math.exp(epsilon + stats.norm.logcdf(-half - far))
        return float(stats.norm.cdf(half - far) - second - delta)

    return float(optimize.brentq(excess, 0, 1e5))


def log_densities(x: np.ndarray, rate: float, noise: float, group: int) -> tuple[np.ndarray, ...]:
    """Log densities of one step's sum with the group, and without it."""
    moved = x[:, None] - np.arange(group + 1)
    weights = stats.binom.logpmf(np.arange(group + 1), group, rate)
    mixture = special.logsumexp(weights + stats.norm.logpdf(moved, scale=noise), axis=1)
    return mixture, stats.norm.logpdf(x, scale=noise)


def one_step_delta(epsilon: float, rate: float, noise: float, group: int) -> float:
    """δ at ε of one step, the larger of both directions, by integration over a fine grid."""
    x = np.linspace(-12 * noise, group + 12 * noise, 100_001)
    p, q = log_densities(x, rate, noise, group)

    def divergence(p: np.ndarray, q: np.ndarray) -> float:
        above = p > epsilon + q
        return float(np.sum(np.exp(p[above]) - np.exp(epsilon + q[above])) * (x[1] - x[0]))

    return max(divergence(p, q), divergence(q, p))


@pytest.mark.parametrize(
    "spent",
    [Spent(0.016, 0.6, 80), pytest.param(Spent(0.1, 3.0, 50), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_group_of_one_has_the_ordinary_figure(spent: Spent) -> None:
    ordinary = spend((spent,), 1e-5).epsilon
    assert group_epsilon((spent,), 1e-5, 1) == pytest.approx(ordinary, rel=2e-3)


@pytest.mark.parametrize(
    ("group", "steps", "noise"),
    [(3, 1, 5.0), (7, 4, 20.0), (200, 9, 400.0), (40, 1, 1.0)],
)
@pytest.mark.parametrize(
    "rate",
    [1.0, pytest.param(1 - 1e-12, marks=pytest.mark.slow)],  # a mixture, its rest below any δ
)
def test_where_all_take_part_a_group_is_a_gaussian_of_its_size(
    rate: float, group: int, steps: int, noise: float
) -> None:
    exact = gaussian_epsilon(group * math.sqrt(steps) / noise, 1e-5)
    got = group_epsilon((Spent(rate, noise, steps),), 1e-5, group)
    assert 0.9999 * exact <= got <= 1.003 * exact


@pytest.mark.parametrize(
    ("rate", "noise", "group"),
    [
        (0.2, 0.8, 3),
        (0.02, 0.5, 40),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_STEPS),
    ],
)
def test_one_step_is_neither_above_nor_far_below_what_integration_gives(
    rate: float, noise: float, group: int
) -> None:
    delta = 1e-5
    epsilon = group_epsilon((Spent(rate, noise, 1),), delta, group)
    assert one_step_delta(epsilon, rate, noise, group) <= delta
    assert one_step_delta(0.995 * epsilon, rate, noise, group) > delta


@pytest.mark.parametrize("present", [True, False])
def test_several_steps_hold_the_delta_that_sampling_shows(present: bool) -> None:
    """4 standard errors, seed fixed: a right figure fails with probability 3e-5 per direction."""
    rate, noise, group, steps, delta, draws = 0.1, 1.0, 4, 3, 1e-3, 100_000
    epsilon = group_epsilon((Spent(rate, noise, steps),), delta, group)
    generator = np.random.default_rng(0)
    loss = np.zeros(draws)
    for _ in range(steps):
        x = generator.normal(0, noise, draws)
        if present:
            x += generator.binomial(group, rate, draws)
        p, q = log_densities(x, rate, noise, group)
        loss += p - q if present else q - p

    def estimate(epsilon: float) -> tuple[float, float]:
        parts = -np.expm1(np.minimum(epsilon - loss, 0))
        return float(parts.mean()), float(parts.std() / math.sqrt(draws))

    seen, error = estimate(epsilon)
    assert seen - 4 * error <= delta
    if present:  # the direction that decides
        seen, error = estimate(0.9 * epsilon)
        assert seen - 4 * error > delta


@pytest.mark.slow
def test_a_group_never_has_more_than_the_general_bound_for_groups() -> None:
    spent, group, delta = Spent(0.01, 1.2, 100), 3, 1e-7
    one = spend((spent,), delta).epsilon
    inflated = group * math.exp(group * one) * delta  # Vadhan 2017, lemma 2.2
    assert inflated < 1e-4
    assert group_epsilon((spent,), inflated, group) < group * one


def test_larger_groups_and_more_runs_have_more() -> None:
    one, other = Spent(0.016, 0.5, 40), Spent(0.016, 0.5, 10)
    two, more = (group_epsilon((one,), 1e-6, group) for group in (2, 37))
    alone = group_epsilon((other,), 1e-6, 2)
    assert two < more
    assert max(two, alone) < group_epsilon((one, other), 1e-6, 2) < two + alone


def test_what_is_above_the_ceiling_is_infinite_and_what_is_below_is_computed() -> None:
    assert GROUP_CEILING == 1000
    for size, finite in [(40, True), (41, False)]:
        exact = gaussian_epsilon(size, 1e-5)
        assert (exact < GROUP_CEILING) is finite
        got = group_epsilon((Spent(1.0, 1.0, 1),), 1e-5, size)
        assert got == (pytest.approx(exact, rel=3e-3) if finite else math.inf)
    assert group_epsilon((Spent(0.01, 1.0, 100),), 1e-6, 10**9) == math.inf


def test_no_noise_protects_no_group_and_no_step_costs_none_anything() -> None:
    assert group_epsilon((Spent(0.01, 0.0, 1),), 1e-6, 2) == math.inf
    assert group_epsilon((Spent(0.01, 1.0, 0),), 1e-6, 2) == 0


def test_the_plan_says_what_a_group_has_with_other_runs_too() -> None:
    plan = make_plan(epsilon=None, noise_multiplier=0.4, delta=1e-6, units=1000, batch=10, steps=20)
    other = Spent(0.01, 0.5, 20)
    assert plan.group_epsilon(3) == group_epsilon((plan.spent(),), 1e-6, 3)
    assert plan.group_epsilon(3, [other]) == group_epsilon((plan.spent(), other), 1e-6, 3)


def test_a_group_in_the_best_of_several_trials_has_the_general_bound() -> None:
    one = (Spent(0.016, 0.9, 80, trials=5.0),)
    epsilon, delta = group_epsilon(one, 1e-5, 3) / 3, 1e-5
    shrunk = delta * math.expm1(epsilon) / math.expm1(3 * epsilon)
    assert spend(one, shrunk).epsilon <= epsilon
    assert 3 * spend(one, delta).epsilon < 3 * epsilon
    assert math.isinf(group_epsilon(one, 1e-5, 400))
