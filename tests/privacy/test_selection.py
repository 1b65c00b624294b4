"""Choosing the best of a random number of trials costs no more than is charged for it."""

import math
import random

import numpy as np
import pytest

from privcode.errors import UserError
from privcode.pipeline.trials import poisson
from privcode.privacy import PrivacyPlan, Spent, calibrate_noise_multiplier, make_plan, spend

DELTA = 1e-5
TINY = Spent(256 / 19_500, 0.7, 100)


def outcomes(spent: Spent) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of one run's output, put into bins, without and with one unit more.

    One sampled step, or any number of steps that every unit takes part in (whose sum is one
    Gaussian): the cases whose distribution can be written down.
    """
    assert spent.steps == 1 or spent.sampling_rate == 1
    sigma = spent.noise_multiplier / math.sqrt(spent.steps)
    edges = np.linspace(-12 * sigma, 1 + 12 * sigma, 4001)

    def below(mean: float) -> np.ndarray:
        inner = [0.5 * math.erfc((mean - edge) / (sigma * math.sqrt(2))) for edge in edges]
        return np.array([0.0, *inner, 1.0])

    without, q = np.diff(below(0)), spent.sampling_rate
    return without, (1 - q) * without + q * np.diff(below(1))


def best_of(run: np.ndarray, mean: float) -> np.ndarray:
    """Exact probabilities of the best of Poisson-many runs, later outputs better; first: of none.

    P[best ≤ y] = Σ_K P[K] P[run ≤ y]^K = exp(mean · (P[run ≤ y] - 1)).
    """
    up_to = np.exp(-mean * np.append(np.cumsum(run[::-1])[::-1], 0.0))
    return np.append(up_to[0], np.diff(up_to))


def delta(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    """The exact δ at ε between two distributions, the worse direction."""
    factor = math.exp(epsilon)
    return max(float(np.maximum(a - factor * b, 0).sum()) for a, b in ((p, q), (q, p)))


RUNS = [Spent(1.0, 2.0, 1), Spent(1.0, 8.0, 20), Spent(0.1, 0.6, 1), Spent(0.5, 1.0, 1)]


@pytest.mark.parametrize("mean", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("run", RUNS)
def test_the_exact_cost_of_the_best_trial_is_below_what_is_charged(run: Spent, mean: float) -> None:
    charged = spend((Spent(run.sampling_rate, run.noise_multiplier, run.steps, mean),), DELTA)
    without, with_one = outcomes(run)
    worst = 0.0
    for order in (slice(None), slice(None, None, -1)):  # high or low outputs are better
        pair = [best_of(p[order], mean) for p in (without, with_one)]
        assert all(math.isclose(p.sum(), 1, abs_tol=1e-9) for p in pair)
        worst = max(worst, delta(*pair, charged.epsilon))
    assert worst <= DELTA


@pytest.mark.parametrize("run", RUNS)
def test_charging_one_run_only_would_be_too_little(run: Spent) -> None:
    alone = spend((run,), DELTA)
    without, with_one = outcomes(run)
    assert delta(without, with_one, alone.epsilon) <= DELTA
    many = max(
        delta(best_of(without[order], 20), best_of(with_one[order], 20), alone.epsilon)
        for order in (slice(None), slice(None, None, -1))
    )
    assert many > 2 * DELTA


def test_more_trials_cost_more_and_compose_with_other_runs() -> None:
    costs = [spend((Spent(0.01, 0.7, 100, mean),), DELTA).epsilon for mean in (1, 3, 10, 30)]
    assert costs == sorted(costs)
    assert costs[0] > spend((Spent(0.01, 0.7, 100),), DELTA).epsilon
    both = spend((Spent(0.01, 0.7, 100, 3), Spent(0.01, 0.7, 100)), DELTA)
    assert both.epsilon == both.epsilon_rdp > 1.05 * costs[1]


def test_calibration_pays_for_the_choice() -> None:
    noise = calibrate_noise_multiplier(4, DELTA, TINY.sampling_rate, TINY.steps, 10)
    plan = make_plan(
        epsilon=4, delta=DELTA, units=19_500, batch=256, steps=100, selection="trials", trials=10
    )
    assert plan.noise_multiplier == noise
    assert noise > 1.2 * calibrate_noise_multiplier(4, DELTA, TINY.sampling_rate, TINY.steps)
    assert 0.99 * 4 <= plan.cost().epsilon <= 4
    assert plan.describe()["trials"] == 10


def planned(**changes: object) -> PrivacyPlan:
    values: dict[str, object] = {"noise_multiplier": 1.0, "delta": DELTA, "units": 1000}
    return make_plan(epsilon=None, batch=10, steps=5, **(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"selection": "trials", "trials": 0.5}, "at least 1"),
        ({"selection": "trials", "trials": math.nan}, "at least 1"),
        ({"selection": "trials", "trials": math.inf}, "at least 1"),
        ({"selection": "trials"}, "give both"),
        ({"trials": 2.0}, "give both"),
        ({"selection": "none"}, "selection"),
        ({"selection": "trials", "trials": 2.0, "reproducible_seed": 1}, "every trial the same"),
    ],
)
def test_a_selection_that_the_theorem_does_not_cover_is_refused(
    changes: dict[str, object], word: str
) -> None:
    with pytest.raises(UserError, match=word):
        planned(**changes)


def test_other_runs_are_composed_or_left_out_and_said_so() -> None:
    others = (Spent(0.01, 1.0, 5), Spent(0.02, 1.5, 7))
    composed, left_out = (
        planned(selection=selection).charge(others) for selection in ("composition", "not-charged")
    )
    assert composed.cost == composed.of_all == left_out.of_all
    assert composed.words is None
    assert left_out.cost == planned().cost()
    assert left_out.not_charged == others
    assert left_out.words is not None
    assert left_out.words.startswith("NOT CHARGED: 2 other runs over the same data were made;")
    assert f"ε = {composed.cost.epsilon:.4g}" in left_out.words


@pytest.mark.parametrize("mean", [1.0, 4.0, 900.0])
def test_the_number_of_trials_is_poisson(mean: float) -> None:
    # A fixed seed, so this passes or fails for good; six standard errors.
    draws = 3000
    seeded = random.Random(5)
    found = np.array([poisson(mean, seeded) for _ in range(draws)])  # type: ignore[arg-type]
    assert abs(found.mean() - mean) < 6 * math.sqrt(mean / draws)
    spread = math.sqrt((2 * mean**2 + mean) / draws)  # of a Poisson's variance
    assert abs(found.var() - mean) < 6 * spread
    none = math.exp(-mean)
    assert abs((found == 0).mean() - none) <= 6 * math.sqrt(none * (1 - none) / draws)
