"""One unit moves the histogram by at most 1, its noise is what is charged, and costs add up."""

import math
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from privcode.errors import UserError
from privcode.privacy import PrivacyPlan, Spent, make_plan, spend
from privcode.privacy.accounting import group_epsilon, read_spent
from privcode.privacy.histogram import GRID, apportioned, clipped, counted, noised, on_grid
from privcode.privacy.noise import gaussian
from privcode.privacy.randomness import Randomness

BINS = 7
RECORDS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, BINS - 1)), max_size=60)
MANY = st.lists(st.integers(0, BINS - 1), min_size=1, max_size=2000)


def sums(records: list[tuple[int, int]]) -> np.ndarray:
    units, bins = np.array(records, np.int64).reshape(-1, 2).T
    return counted(bins.astype(np.int16), units, BINS)


@settings(max_examples=200, deadline=None)
@given(RECORDS, MANY, st.randoms(use_true_random=False))
def test_a_unit_with_any_number_of_records_moves_the_sums_by_its_own_vector_of_norm_at_most_one(
    others: list[tuple[int, int]], own: list[int], random: object
) -> None:
    together = [*others, *((99, one) for one in own)]
    random.shuffle(together)  # type: ignore[attr-defined]
    moved = [int(step) for step in sums(together) - sums(others)]
    assert sum(step * step for step in moved) <= 2**64  # exact: the norm is at most 1
    counts = np.bincount(own, minlength=BINS)
    expected = counts / np.linalg.norm(counts)
    assert np.allclose(np.array(moved) * GRID, expected, atol=2 * GRID)  # and all of it is used


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=2000))
def test_no_counts_are_so_large_that_rounding_exceeds_the_norm(counts: list[int]) -> None:
    assert sum(step * step for step in clipped(counts)) <= 2**64
    assert clipped([counts[0]]) == [2**32]


def test_records_of_one_unit_each_are_counted_and_no_record_gives_nothing() -> None:
    assert (sums([(0, 3), (1, 3), (2, 6)]) * GRID).tolist() == [0, 0, 0, 2, 0, 0, 1]
    assert sums([]).tolist() == [0] * BINS
    assert sums([(0, 1), (0, 2)])[1] == math.isqrt(2**63)


def plan(histogram: float | None = 2.0, seed: int | None = None, **more: object) -> PrivacyPlan:
    facts: dict[str, object] = {
        "epsilon": None,
        "noise_multiplier": 3.0,
        "delta": 1e-5,
        "units": 1000,
        "batch": 1000,
        "steps": 20,
    }
    facts |= {"histogram_noise_multiplier": histogram, "reproducible_seed": seed} | more
    return make_plan(**facts)  # type: ignore[arg-type]


def gaussian_epsilon(noise: float, delta: float) -> float:
    """Of one Gaussian with this noise multiplier. Source: Balle & Wang 2018, theorem 8."""

    def over(epsilon: float) -> float:
        a, b = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
        return float(stats.norm.cdf(a) - math.exp(epsilon) * stats.norm.cdf(b) - delta)

    return float(optimize.brentq(over, 0, 100))


@pytest.mark.parametrize(("steps", "noise", "histogram"), [(20, 3.0, 2.0), (1, 1.0, 1.0)])
def test_full_batch_steps_and_histogram_cost_what_one_gaussian_does(
    steps: int, noise: float, histogram: float
) -> None:
    """Independent Gaussians that all see the unit are one Gaussian: 1/σ² adds up."""
    together = plan(histogram, steps=steps, noise_multiplier=noise)
    exact = gaussian_epsilon((steps / noise**2 + 1 / histogram**2) ** -0.5, 1e-5)
    cost = together.cost()
    assert exact <= cost.epsilon <= 1.001 * exact
    assert cost.epsilon_rdp > exact
    without = plan(None, steps=steps, noise_multiplier=noise)
    assert cost.epsilon > without.cost().epsilon * 1.05


@pytest.mark.parametrize("histogram", [1.5, 10.0])
def test_sampled_steps_and_histogram_cost_what_the_library_says_of_both_events(
    histogram: float,
) -> None:
    step = dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(1.1))
    event = dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(step, 60), dp_accounting.GaussianDpEvent(histogram)]
    )
    expected = PLDAccountant(value_discretization_interval=1e-4).compose(event).get_epsilon(1e-5)
    got = spend((Spent(0.02, 1.1, 60, histogram_noise_multiplier=histogram),), 1e-5).epsilon
    assert got == pytest.approx(expected, rel=1e-3)
    apart = (Spent(0.02, 1.1, 60), Spent(1.0, histogram, 1))
    assert got == pytest.approx(spend(apart, 1e-5).epsilon, rel=1e-9)


def test_the_target_covers_steps_and_histogram_and_the_steps_get_the_noise_for_it() -> None:
    settings = {"epsilon": 2.0, "noise_multiplier": None, "batch": 20, "steps": 40}
    plain, steered = plan(None, **settings), plan(3.0, **settings)
    for one in (plain, steered):
        assert 1.99 <= one.cost().epsilon <= 2.0
    assert steered.noise_multiplier > plain.noise_multiplier * 1.05
    assert steered.charge().spent == (steered.spent(),)
    with pytest.raises(UserError, match=r"raise prompts\.histogram\.noise_multiplier"):
        plan(0.5, **settings)


def test_a_group_of_units_moves_the_histogram_as_many_times() -> None:
    only = (Spent(0.1, 1.0, 0, histogram_noise_multiplier=8.0),)
    assert group_epsilon(only, 1e-5, 4) == pytest.approx(gaussian_epsilon(2.0, 1e-5), rel=0.01)
    both = plan(8.0)
    assert both.group_epsilon(3) > plan(None).group_epsilon(3)
    one = both.cost().epsilon
    assert both.group_epsilon(1) == pytest.approx(one, rel=0.01)


def test_the_best_of_several_trials_pays_for_a_histogram_in_each() -> None:
    tried = [Spent(0.01, 1.0, 50, 3.0, None, noise) for noise in (None, 4.0, 2.0)]
    costs = [spend((one,), 1e-5).epsilon for one in tried]
    assert costs == sorted(costs)
    assert costs[2] > costs[0] + spend((Spent(1.0, 2.0, 1),), 1e-5).epsilon / 2


def test_a_histogram_with_too_little_noise_or_none_gives_no_guarantee() -> None:
    for noise in (0.0, 0.2):
        assert math.isinf(spend((Spent(0.01, 1.0, 5, None, None, noise),), 1e-5).epsilon)
        with pytest.raises(UserError, match=r"prompts\.histogram\.noise_multiplier: is 0"):
            plan(noise)
    with pytest.raises(UserError, match=r"prompts\.histogram\.noise_multiplier: is 20000"):
        plan(2e4)
    with pytest.raises(UserError, match="what was spent"):
        Spent(0.01, 1.0, 5, None, None, -1.0)


def test_what_is_written_says_nothing_of_a_histogram_where_there_is_none() -> None:
    for histogram in (None, 4.0):
        spent = plan(histogram).spent()
        assert read_spent(spent.facts()) == spent
        for facts in (spent.facts(), plan(histogram).describe()):
            assert facts.get("histogram_noise_multiplier") == histogram
            assert ("histogram_noise_multiplier" in facts) == (histogram is not None)


def test_noise_is_on_the_grid_seeded_or_fresh_and_no_steps_noise() -> None:
    seeded = plan(2.0, seed=5)
    one, two = (seeded.histogram_noise(50, seeded.randomness()) for _ in range(2))
    assert (one == two).all()
    assert one.dtype == np.int64
    fresh = [plan(2.0).histogram_noise(50, Randomness(None)) for _ in range(2)]
    assert (fresh[0] != fresh[1]).all()
    for purpose in ("noise", "sampling"):  # of the first step
        other = gaussian(50, 2.0, Randomness(5).stream(purpose, 0))
        assert not set(one.tolist()) & set(on_grid(other).tolist())
    assert noised(np.array([3 << 32]), np.array([-1])).tolist() == [(3 << 32) - 1]


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.25, 10.0, 1e4])
def test_the_noise_drawn_is_gaussian_with_the_deviation_that_is_charged(noise: float) -> None:
    many = plan(noise)
    drawn = np.concatenate(
        [many.histogram_noise(1312, many.randomness()) * GRID / noise for _ in range(300)]
    )
    # Wrong by 5 % would be seen 50 times over: the deviation of this estimate is 0.1 %.
    assert drawn.std() == pytest.approx(1, abs=0.006)
    assert abs(drawn.mean()) < 0.01
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    halves = drawn.reshape(300, 1312)
    assert abs(np.corrcoef(halves[:150].ravel(), halves[150:].ravel())[0, 1]) < 0.02


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(any),
    st.integers(0, 10_000),
)
def test_shares_are_exact_to_less_than_one_and_add_up(weights: list[float], seats: int) -> None:
    given_ = apportioned(weights, seats)
    assert sum(given_) == seats
    whole = sum(map(Fraction, weights))
    for weight, got in zip(weights, given_, strict=True):
        assert abs(got - Fraction(weight) * seats / whole) < 1
        assert got == 0 or weight > 0


def test_the_first_of_equals_gets_the_seat_that_is_left() -> None:
    assert apportioned([1.0, 1.0, 1.0], 7) == [3, 2, 2]
    assert apportioned([0.1, 0.2, 0.7], 10) == [1, 2, 7]
