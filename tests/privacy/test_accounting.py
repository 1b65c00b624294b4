"""The figures quoted are the published ones, and calibration never exceeds its target."""

import math

import pytest

from privcode.errors import UserError
from privcode.privacy import PrivacyPlan, Spent, calibrate_noise_multiplier, make_plan, spend
from privcode.privacy.accounting import LEAST_NOISE

# units, batch, steps -> noise multiplier by PLD for ε 0.2, 1, 4, 10 at δ = 1e-5.
PUBLISHED = {
    (19_500, 256, 100): (2.406, 0.980, 0.623, 0.452),
    (19_500, 128, 100): (1.430, 0.813, 0.549, 0.400),
    (55_500, 256, 100): (1.178, 0.754, 0.520, 0.378),
    (55_500, 128, 200): (0.981, 0.684, 0.489, 0.359),
}
CASES = [
    (*shape, epsilon, want)
    for shape, row in PUBLISHED.items()
    for epsilon, want in zip((0.2, 1, 4, 10), row, strict=True)
]


def check(units: int, batch: int, steps: int, epsilon: float, want: float) -> None:
    rate = batch / units
    got = calibrate_noise_multiplier(epsilon, 1e-5, rate, steps)
    assert got == pytest.approx(want, rel=0.01)
    cost = spend((Spent(rate, got, steps),), 1e-5)
    assert 0.998 * epsilon <= cost.epsilon <= epsilon
    assert cost.epsilon_rdp > cost.epsilon


def test_the_paper_setting_gives_the_published_noise_multiplier() -> None:
    check(19_500, 256, 100, 4, 0.623)


@pytest.mark.slow
@pytest.mark.parametrize(("units", "batch", "steps", "epsilon", "want"), CASES)
def test_noise_multipliers_are_the_published_ones_within_one_percent(
    units: int, batch: int, steps: int, epsilon: float, want: float
) -> None:
    check(units, batch, steps, epsilon, want)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.01, 0.05, 40])
def test_extreme_targets_are_met_from_below(epsilon: float) -> None:
    noise = calibrate_noise_multiplier(epsilon, 1e-5, 256 / 16_000, 80)
    reached = spend((Spent(256 / 16_000, noise, 80),), 1e-5).epsilon
    assert 0.998 * epsilon <= reached <= epsilon


def test_no_target_is_so_large_that_less_than_the_least_noise_would_do() -> None:
    assert calibrate_noise_multiplier(1000, 1e-5, 256 / 16_000, 80) == LEAST_NOISE


def test_infinite_epsilon_means_no_noise_and_no_guarantee() -> None:
    plan = make_plan(epsilon=math.inf, delta=1e-5, units=1000, batch=10, steps=3)
    assert plan.noise_multiplier == 0
    assert plan.cost().epsilon == math.inf


def test_two_runs_compose_to_more_than_either_and_less_than_their_sum() -> None:
    one = Spent(0.01, 1.0, 50)
    single, both = spend((one,), 1e-5).epsilon, spend((one, one), 1e-5).epsilon
    assert single < both < 2 * single


def test_nothing_done_costs_nothing() -> None:
    assert spend((Spent(0.01, 1.0, 0),), 1e-5).epsilon == 0


def good(**change: object) -> PrivacyPlan:
    settings: dict[str, object] = {
        "epsilon": None,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
        "units": 1000,
        "batch": 10,
        "steps": 3,
    }
    return make_plan(**(settings | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("delta", 0.0),
        ("delta", 1.5),
        ("delta", 0.002),
        ("units", 0),
        ("batch", 0),
        ("batch", 1001),
        ("steps", 0),
        ("clip_norm", 0.0),
        ("clip_norm", math.nan),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("max_records_per_unit", 0),
    ],
)
def test_nonsense_is_refused_by_field(field: str, value: float) -> None:
    good()
    with pytest.raises(UserError, match="privacy"):
        good(**{field: value})


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_a_target_that_is_not_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(UserError, match=r"privacy\.epsilon"):
        good(epsilon=epsilon, noise_multiplier=None)


def test_a_target_and_a_noise_multiplier_together_are_refused() -> None:
    with pytest.raises(UserError, match="exactly one"):
        good(epsilon=4.0)
