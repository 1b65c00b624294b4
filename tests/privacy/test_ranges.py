"""Every figure that a person may type gives an answer or one line, soon; an answer is a bound."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from privcode.errors import UserError
from privcode.privacy import Spent, make_plan, spend
from privcode.privacy.accounting import LEAST_NOISE, MOST_NOISE, PLD_DELTA, group_epsilon

SECONDS = 30  # of processor time; about 10 where nothing else runs
GOOD: dict[str, Any] = {
    "epsilon": None,
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "units": 1000,
    "batch": 10,
    "steps": 30,
}
HUGE = 10**400
FLOATS = [0.0, -0.0, 5e-324, 1e-300, 1e-12, 1e-9, 1e9, 1e300, math.inf, -math.inf, math.nan, -1.0]
INTEGERS = [-1, 0, 1, 2**31, 10**9, 10**15, 10**18, HUGE, -HUGE]


@contextmanager
def limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer after {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def answered(ask: Callable[[], float]) -> float | None:
    """The figure, or None where one line says what to do instead."""
    with limit():
        try:
            found = ask()
        except UserError as error:
            line = str(error)
        else:
            line = ""
    if line:
        assert "\n" not in line
        assert len(line) < 300
        return None
    assert found >= 0  # not NaN either
    return found


def of_plan(**change: Any) -> Callable[[], float]:
    return lambda: make_plan(**(GOOD | change)).cost().epsilon


CASES: list[tuple[str, Any]] = [
    *(("noise_multiplier", value) for value in [*FLOATS, 1e-3, 2e-3, 0.02, 0.1, 1e6, HUGE]),
    *(("delta", value) for value in [*FLOATS, 1e-100, 1e-99, 1e-15, 0.9999, 1.0]),
    *(("clip_norm", value) for value in [*FLOATS, HUGE]),
    *(("trials", value) for value in [*FLOATS, 1e5, HUGE]),
    *((name, n) for name in ("units", "batch", "steps") for n in [*INTEGERS, 2.5, True]),
    *(("max_records_per_unit", value) for value in INTEGERS),
    *(("reproducible_seed", value) for value in INTEGERS),
]


@pytest.mark.parametrize(("field", "value"), CASES, ids=lambda v: f"{v}"[:12])
def test_a_plan_with_one_number_at_the_end_of_its_range_is_answered(field: str, value: Any) -> None:
    change = {field: value} | ({"selection": "trials"} if field == "trials" else {})
    answered(of_plan(**change))


@pytest.mark.parametrize("epsilon", [*FLOATS, 1e-3, 1e4, 1e6, HUGE], ids=lambda v: f"{v}"[:12])
@pytest.mark.parametrize("steps", [30, 10**9])
def test_a_target_at_the_end_of_its_range_is_met_or_refused(epsilon: Any, steps: int) -> None:
    reached = answered(of_plan(epsilon=epsilon, noise_multiplier=None, steps=steps))
    assert reached is None or reached <= epsilon


def test_noise_that_is_as_good_as_none_gives_no_guarantee() -> None:
    for noise in (0.0, -0.0, 5e-324, 1e-300, 1e-9, math.nextafter(LEAST_NOISE, 0)):
        assert spend((Spent(0.01, noise, 5),), 1e-5).epsilon == math.inf
        assert group_epsilon((Spent(0.01, noise, 5),), 1e-5, 2) == math.inf


def test_noise_above_the_largest_is_charged_as_the_largest() -> None:
    assert spend((Spent(0.5, 1e300, 99),), 1e-5) == spend((Spent(0.5, MOST_NOISE, 99),), 1e-5)


@pytest.mark.parametrize("delta", [1e-6, PLD_DELTA, 1e-11, 1e-13, 1e-14, 1e-20, 1e-100])
@pytest.mark.parametrize("rate", [1.0, 1 - 1e-9])
def test_epsilon_is_not_below_the_exact_one_at_a_tiny_delta(delta: float, rate: float) -> None:
    found = spend((Spent(rate, 60.0, 10_000),), delta).epsilon
    moved = math.sqrt(10_000) / 60

    def excess(epsilon: float) -> float:  # the exact δ of a Gaussian (Balle & Wang 2018)
        far = epsilon / moved
        second = math.exp(epsilon + stats.norm.logcdf(-moved / 2 - far))
        return float(stats.norm.sf(far - moved / 2) - second - max(delta, 1e-20))

    exact = optimize.brentq(excess, 0, 100, xtol=1e-9)
    assert exact * (1 - 1e-6) <= found < math.inf


@pytest.mark.parametrize(
    "change",
    [{"sampling_rate": 2.0}, {"sampling_rate": math.nan}, {"steps": -3}, {"steps": 2.5}]
    + [{"noise_multiplier": value} for value in (-1.0, math.nan, math.inf)]
    + [{"trials": value} for value in (0.0, math.nan, math.inf)],
    ids=str,
)
def test_a_damaged_statement_of_what_was_spent_is_no_small_cost(change: dict[str, Any]) -> None:
    facts = {"sampling_rate": 0.1, "noise_multiplier": 1.0, "steps": 5}
    with pytest.raises(UserError, match="what was spent"):
        Spent(**(facts | change))


def logarithmic(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(math.log10(least), math.log10(most)).map(lambda x: 10.0**x)


SPENT = st.builds(
    Spent,
    sampling_rate=logarithmic(1e-15, 1),
    noise_multiplier=logarithmic(1e-6, 1e9),
    steps=logarithmic(1, 1e9).map(int),
)
CHECKS = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # to explain a failure slows everything down
)


def check_any_spending(spent: Spent, delta: float, group: int) -> None:
    cost = answered(lambda: spend((spent,), delta).epsilon)
    both = answered(lambda: spend((spent, Spent(0.01, 1.0, 50)), delta).epsilon)
    several = answered(lambda: group_epsilon((spent,), delta, group))
    assert cost is not None
    assert both is not None
    assert several is not None
    assert both >= 0.999 * cost - 1e-3
    # Two units at least cost what one does, but for the coarser grid.
    assert several >= 0.99 * cost - 1e-3


def check_any_target(epsilon: float, delta: float, rate: float, steps: int) -> None:
    def reached() -> float:
        units = 10**9
        return (
            make_plan(
                epsilon=epsilon,
                delta=min(delta, 1 / units),
                units=units,
                batch=max(1, int(rate * units)),
                steps=steps,
            )
            .cost()
            .epsilon
        )

    found = answered(reached)
    assert found is None or found <= epsilon * (1 + 1e-9)


some_spendings = given(SPENT, logarithmic(1e-100, 0.5), st.integers(2, 50))
some_targets = given(
    logarithmic(1e-13, 1e7),
    logarithmic(1e-100, 0.5),
    logarithmic(1e-9, 1),
    logarithmic(1, 1e9).map(int),
)


@settings(CHECKS, max_examples=4)
@some_spendings
@example(Spent(1e-9, 0.1, 10**9), 1e-5, 2)
@example(Spent(0.01, 1e4, 10**9), 1e-5, 2)
@example(Spent(0.01, 0.02, 10**6), 1e-5, 2)
@example(Spent(1e-7, 4e6, 1), 5.5e-6, 20)
def test_any_spending_is_answered(spent: Spent, delta: float, group: int) -> None:
    check_any_spending(spent, delta, group)


@settings(CHECKS, max_examples=4)
@some_targets
@example(1e-12, 1e-5, 0.01, 100)
@example(0.01, 1e-5, 1e-9, 10)
def test_any_target_is_met_or_refused(
    epsilon: float, delta: float, rate: float, steps: int
) -> None:
    check_any_target(epsilon, delta, rate, steps)


@pytest.mark.slow
@settings(CHECKS, max_examples=100)
@some_spendings
def test_very_many_spendings_are_answered(spent: Spent, delta: float, group: int) -> None:
    check_any_spending(spent, delta, group)


@pytest.mark.slow
@settings(CHECKS, max_examples=80)
@some_targets
def test_very_many_targets_are_met_or_refused(
    epsilon: float, delta: float, rate: float, steps: int
) -> None:
    check_any_target(epsilon, delta, rate, steps)


@pytest.mark.parametrize(
    "arguments", [("--noise", "1e-300"), ("--epsilon", "1e-12"), ("--epsilon", "1e6")]
)
def test_the_accountant_on_the_command_line_has_an_answer_or_one_line(
    arguments: tuple[str, str],
) -> None:
    mechanism = ("--records", "1000", "--batch", "10", "--steps", "100", "--delta", "1e-5")
    done = subprocess.run(
        [sys.executable, "-m", "privcode", "account", *mechanism, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (1 if done.returncode else 0)
