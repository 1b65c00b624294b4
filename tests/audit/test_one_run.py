"""The one-run bound is exceeded by the truth as often as it says, and sees half the noise."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from privcode.audit import one_run
from privcode.audit.one_run import (
    bound_of,
    choose_guesses,
    count_right,
    epsilon_bound,
    same_shape_bound,
    simulate,
)
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.gradient_canaries import log_likelihood_ratio

CANARIES = 1000
PLANS = {  # by their ε, about
    epsilon: make_plan(
        epsilon=None, noise_multiplier=noise, delta=1e-4, units=1000, batch=batch, steps=steps
    )
    for epsilon, noise, batch, steps in ((1.0, 3.37, 300, 10), (4.0, 1.6, 500, 8))
}


def first_above(plan: PrivacyPlan, guesses: tuple[int, ...], place: int) -> int:
    """The fewest right guesses of the `place`-th number whose bound is above the plan's ε."""
    claimed = plan.cost().epsilon

    def above(right: int) -> bool:
        none = [0] * len(guesses)
        none[place] = right
        bound = bound_of(CANARIES, guesses, none, plan)
        assert bound.epsilon_same_shape is not None
        return max(bound.epsilon, bound.epsilon_same_shape) > claimed

    low, high = 0, guesses[place] + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return high


def above_the_claim(plan: PrivacyPlan, noise: float, audits: int, seed: int) -> int:
    """How many of some simulated audits, with `noise` times the plan's, put ε above the claim."""
    guesses = choose_guesses(plan, CANARIES)
    fewest = [first_above(plan, guesses, place) for place in range(len(guesses))]
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(audits):
        audit = simulate(plan, CANARIES, rng, noise * plan.noise_multiplier)
        right = [count_right(*audit, n) for n in guesses]
        found += any(v >= least for v, least in zip(right, fewest, strict=True))
    return found


@pytest.mark.parametrize("epsilon", PLANS)
def test_at_most_one_bound_in_twenty_is_above_the_true_epsilon(epsilon: float) -> None:
    above = above_the_claim(PLANS[epsilon], 1.0, 1000, seed=1)
    # 95 % of one-sided intervals hold the true rate: it is below one in twenty.
    assert beta.ppf(0.95, above + 1, 1000 - above) < 0.05


@pytest.mark.parametrize(
    ("epsilon", "noise", "often"), [(4.0, 0.5, 50), (4.0, 0.33, 95), (1.0, 0.33, 95)]
)
def test_a_mechanism_with_too_little_noise_is_found_out(
    epsilon: float, noise: float, often: int
) -> None:
    # The bound's own slack is about half the noise; less than half is seen every time.
    assert above_the_claim(PLANS[epsilon], noise, 100, seed=2) >= often
    assert above_the_claim(PLANS[epsilon], 0.0, 20, seed=3) == 20


def test_the_bound_for_any_mechanism_is_tight_for_randomised_response() -> None:
    # Each guess is right with probability e^ε / (1 + e^ε): the theorem's own worst case. The
    # bound exceeds ε in nearly 5 % of audits; 20,000 make the rate certain to 0.6 % (4 sigma).
    truth, guesses = 2.0, 500
    rng = np.random.default_rng(0)
    rights = rng.binomial(guesses, 1 / (1 + math.exp(-truth)), 20_000)
    values, counts = np.unique(rights, return_counts=True)
    bounds = [epsilon_bound(guesses, guesses, int(v), 0.0, 0.05) for v in values]
    rate = sum(n for b, n in zip(bounds, counts, strict=True) if b > truth) / 20_000
    assert 0.02 < rate < 0.056


def test_all_guesses_right_give_what_can_be_written_down() -> None:
    # P[all right] = rate^n <= 5 % as long as ε is below the logit of 0.05^(1/n).
    rate = 0.05 ** (1 / 200)
    assert epsilon_bound(200, 200, 200, 0.0, 0.05) == pytest.approx(
        math.log(rate / (1 - rate)), abs=1e-3
    )


def test_the_theorems_delta_only_lowers_the_bound() -> None:
    bounds = [epsilon_bound(1000, 200, 180, delta, 0.05) for delta in (0.0, 1e-6, 1e-4, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[2] + 0.02
    assert bounds[3] == 0.0  # 2 · canaries · δ is 20 times everything


def test_the_trade_off_curve_is_that_of_a_gaussian_where_everybody_takes_part() -> None:
    # One step at rate 1 and noise 1: least(r) is at or below the known curve, and close to it.
    curve = one_run._curve(1.0, 1.0, 1, 1e-5)
    for r in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99):
        exact = norm.cdf(norm.ppf(r) - 1)
        assert 0.98 * exact - 1e-6 < curve.least(r) <= exact + 1e-9


@pytest.mark.parametrize("guesses", [50, 200, 500])
def test_the_shape_bound_is_nearly_exact_for_randomised_response(guesses: int) -> None:
    # Of ε-DP's own trade-off curve the worst case is known: a binomial. What is called too
    # unlikely at 5 % has a probability below that, and not much below.
    grow = math.exp(2.0)
    curve = one_run._Curve(np.array([1 / grow, grow]), np.array([0.0, 1 - grow]), 2.0)
    found = [one_run._too_unlikely(curve, guesses, guesses, v, 0.05) for v in range(guesses + 1)]
    assert found == sorted(found)
    tail = binom.sf(found.index(True) - 1, guesses, grow / (1 + grow))
    assert 0.01 < tail <= 0.05


@pytest.mark.parametrize("right", [0, 50, 100])
def test_guessing_like_a_coin_bounds_nothing(right: int) -> None:
    assert epsilon_bound(1000, 200, right, 1e-5, 0.05) == 0.0
    assert same_shape_bound(1000, 200, right, PLANS[4.0], 0.05) == 0.0


def test_more_right_guesses_never_lower_a_bound() -> None:
    rights = range(100, 201, 10)
    for found in (
        [epsilon_bound(1000, 200, v, 1e-5, 0.05) for v in rights],
        [same_shape_bound(1000, 200, v, PLANS[4.0], 0.05) for v in rights],
    ):
        assert found == sorted(found)
        assert found[-1] > found[0]


def test_guesses_go_by_the_distance_from_the_median() -> None:
    included = np.array([True, True, False, False, True, False])
    scores = np.array([9.0, 0.4, -0.5, -9.0, -0.1, 0.2])  # median 0.05
    assert count_right(scores, included, 2) == 2
    assert count_right(scores, included, 4) == 4
    assert count_right(scores, included, 6) == 4
    assert count_right(scores - 100, included, 4) == 4  # a fault that moves all scores


def test_the_score_is_the_log_of_the_ratio_of_the_densities() -> None:
    x, q, noise = np.linspace(-3, 4, 9), 0.1, 0.7
    inside = q * norm.pdf(x, 1, noise) + (1 - q) * norm.pdf(x, 0, noise)
    expected = np.log(inside / norm.pdf(x, 0, noise))
    assert log_likelihood_ratio(x, q, noise) == pytest.approx(expected)
    assert log_likelihood_ratio(x, 1.0, noise) == pytest.approx((2 * x - 1) / (2 * noise**2))
    assert np.isfinite(log_likelihood_ratio(x, q, 0.0)).all()


def test_the_numbers_of_guesses_follow_from_the_plan_alone() -> None:
    chosen = choose_guesses(PLANS[4.0], CANARIES)
    choose_guesses.cache_clear()
    assert choose_guesses(PLANS[4.0], CANARIES) == chosen
    assert all(1 <= n <= CANARIES for n in chosen)


def test_a_plan_without_noise_has_no_shape_to_compare_with() -> None:
    plan = make_plan(epsilon=math.inf, delta=1e-4, units=1000, batch=500, steps=8)
    bound = bound_of(CANARIES, (500,), (500,), plan)
    assert bound.epsilon_same_shape is None
    assert bound.epsilon > 1
