"""How much privacy a Poisson-sampled Gaussian mechanism costs, by Google's `dp-accounting`.

Promises:
- Every ε is for one unit added or removed. It comes from the privacy loss distribution (PLD)
  with pessimistic discretisation, so it is an upper bound.
- Rényi DP (RDP) is computed next to it as a check.
- The same inputs give the same figure on every machine, so a recipient can recompute it.
- `group_epsilon` gives the ε of several units that come and go together, also by PLD.
- Some figures are by RDP alone. The best of a random number of trials has no known PLD.
  A very small δ or very many steps also use RDP, see `by_rdp`.
- Any numbers that a `Spent` accepts give a figure within seconds.

Does not: account for anything but the named mechanism. Hyper-parameters chosen by looking at
private results cost more, and so does a run that is missing from the given list.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import dp_accounting
from absl import logging
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy import stats

from privcode.errors import UserError

PLD_INTERVAL = 1e-4
"""Width of the PLD's grid of privacy losses, in nats, where ε is below 1. See `_interval`."""

PLD_DELTA = 1e-10
"""The smallest δ whose ε is quoted by PLD. The library's PLD drops tails of about 1e-15.
At δ = 1e-12 its ε of a Gaussian is 0.3 % below the exact ε. At 1e-10 it is above."""

PLD_STEPS = 1_000_000
"""The most steps whose ε is quoted by PLD. More steps take too long, and rounding adds up."""

LEAST_NOISE = 0.25
"""Smaller noise multipliers give no guarantee: ε is infinite. The noise that a computer draws
ends at 9.3 standard deviations (`noise`). That is too short for them, and their ε exceeds 35."""

MOST_NOISE = 1e4
"""Larger noise multipliers are accounted as this one, which is an upper bound. The library's
PLD of a group searches outputs to within 1e-6, finer than a float64 resolves at that size."""

EPSILON_CEILING = 10_000.0
"""A larger ε by RDP is reported as infinite."""

LEAST_EPSILON = 1e-3
"""The smallest ε to calibrate for: the accountants cannot tell smaller ones from 0."""

MOST_STEPS = 10**9
MOST_TRIALS = 10**6

GROUP_CEILING = 1000.0
"""The largest ε of a group that is computed. Above it, no likelihood ratio means anything."""

_GROUP_CUT = 1e-3  # share of δ, for steps that draw more of a group than is accounted for
_CALIBRATION_STEPS = 10_000  # most steps for which noise is calibrated by PLD: this takes ten PLDs
_GROUP_BINS = 2**17  # for the losses of one step; a coarser grid is still an upper bound


@dataclass(frozen=True)
class Spent:
    """Some number of steps of one mechanism: the unit of composition.

    With `trials`, the steps are those of each trial. The number of trials is Poisson with this
    mean, and the best trial is kept. With no trial, nothing is kept. Source: Papernot & Steinke
    2022, "Hyperparameter tuning with Rényi differential privacy", theorem 6.
    `owner_column` names the owner whose records are protected together. None protects each record.
    An ε for one kind of unit implies none for another: an owner may have any number of records.
    `histogram_noise_multiplier` is the noise of a histogram that was released once, in addition to
    the steps. Every unit takes part in it, so it is one more step with a sampling rate of 1. None
    where there was none. With `trials`, each trial has its own.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    trials: float | None = None
    owner_column: str | None = None
    histogram_noise_multiplier: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no mechanism: a damaged file must not be read as a small cost."""
        sound = (
            0 <= self.sampling_rate <= 1
            and 0 <= self.noise_multiplier < math.inf
            and isinstance(self.steps, int)
            and 0 <= self.steps <= MOST_STEPS
            and (self.trials is None or 0 < self.trials <= MOST_TRIALS)
            and 0 <= (self.histogram_noise_multiplier or 0) < math.inf
        )
        if not sound:
            raise UserError(
                "what was spent: needs a sampling rate from 0 to 1, a noise multiplier of at least "
                f"0, 0 to {MOST_STEPS:,} steps and a mean of at most {MOST_TRIALS:,} trials; "
                "restore the file that states it"
            )

    def facts(self) -> dict[str, Any]:
        """As JSON values; `read_spent` reads them back. A histogram only where there was one."""
        facts = asdict(self)
        if self.histogram_noise_multiplier is None:
            del facts["histogram_noise_multiplier"]
        return facts


@dataclass(frozen=True)
class Cost:
    """What a list of `Spent` costs at one δ. Both figures are in nats, and infinite without noise.

    `epsilon` is by PLD, or also by RDP. See `by_rdp`.
    """

    epsilon: float
    epsilon_rdp: float


def unit_words(owner_column: str | None) -> str:
    """The kind of unit in words, after "one" or "each"."""
    return "record" if owner_column is None else f"owner (column {owner_column})"


def with_unit(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a plan, with the kind and the name of the unit in separate fields.

    In old files, "unit" was either "record" or the name of the owner's column. A column that is
    itself called "record" is recognised by `max_records_per_unit` above 1. It is not recognised
    where that number is missing.
    """
    if "owner_column" in facts:
        return dict(facts)
    several = facts.get("max_records_per_unit", 1) > 1
    column = None if facts["unit"] == "record" and not several else facts["unit"]
    unit = "record" if column is None else "owner"
    return {**facts, "unit": unit, "owner_column": column}


def read_spent(facts: Mapping[str, Any]) -> Spent:
    """Undo `Spent.facts`, including old ones written with "unit"."""
    if "owner_column" in facts:
        return Spent(**facts)
    named = with_unit({"unit": "record", **facts})
    del named["unit"]
    return Spent(**named)


def _event(spent: Iterable[Spent]) -> dp_accounting.DpEvent:
    return dp_accounting.ComposedDpEvent([_one_event(s) for s in spent])


def _parts(s: Spent) -> list[Spent]:
    """The steps of one run, and its histogram as the one step of a mechanism that draws all."""
    parts = [Spent(s.sampling_rate, s.noise_multiplier, s.steps, None, s.owner_column)]
    if s.histogram_noise_multiplier is not None:
        parts.append(Spent(1.0, s.histogram_noise_multiplier, 1, None, s.owner_column))
    return [part for part in parts if part.steps]


def _taken(spent: Iterable[Spent]) -> tuple[Spent, ...]:
    """Those that released anything."""
    return tuple(s for s in spent if _parts(s))


def _one_event(s: Spent) -> dp_accounting.DpEvent:
    events = [_steps_event(part) for part in _parts(s)]
    run = events[0] if len(events) == 1 else dp_accounting.ComposedDpEvent(events)
    if s.trials is None:
        return run
    return dp_event.RepeatAndSelectDpEvent(run, mean=s.trials, shape=math.inf)  # Poisson


def _steps_event(s: Spent) -> dp_accounting.DpEvent:
    step = dp_accounting.PoissonSampledDpEvent(
        s.sampling_rate, dp_accounting.GaussianDpEvent(min(s.noise_multiplier, MOST_NOISE))
    )
    return dp_accounting.SelfComposedDpEvent(step, s.steps)


@lru_cache(maxsize=256)  # calibration, `spend` and every group ask for the same again
def _rdp(taken: tuple[Spent, ...], delta: float) -> float:
    # An order that does not converge is left out, which can only raise ε. No warning is needed.
    logging.set_verbosity(logging.ERROR)
    # The library's default orders stop at 512, too few for ε near 0.01.
    orders = [1 + x / 10 for x in range(3, 100)] + [*range(11, 64), *(2**p for p in range(6, 15))]
    return float(RdpAccountant(orders).compose(_event(taken)).get_epsilon(delta))


def _interval(epsilon_rdp: float) -> float:
    """Grid width: fine where ε is small, coarser (relative to ε) where the losses are large.

    It depends on the mechanism alone, through its RDP figure, so it is reproducible.
    """
    return PLD_INTERVAL * max(1.0, 2.0 ** math.ceil(math.log2(max(epsilon_rdp, 1e-9) / 2)))


def _nothing_bounds(taken: Sequence[Spent]) -> bool:
    return (
        any(part.noise_multiplier < LEAST_NOISE for s in taken for part in _parts(s))
        or len({s.owner_column for s in taken}) > 1
    )


def by_rdp(spent: Sequence[Spent], delta: float) -> bool:
    """Whether ε is quoted by RDP: for the best of several trials, and beyond the `PLD_*` limits."""
    tried = any(s.trials is not None for s in spent)
    return tried or delta < PLD_DELTA or sum(s.steps for s in spent) > PLD_STEPS


@lru_cache(maxsize=256)
def spend(spent: tuple[Spent, ...], delta: float) -> Cost:
    """The cost of everything in `spent`, composed, at `delta`.

    Infinite for two kinds of units, for a noise multiplier below `LEAST_NOISE`, and where ε by
    RDP is above `EPSILON_CEILING`.
    """
    taken = _taken(spent)
    if not taken:
        return Cost(0.0, 0.0)
    if _nothing_bounds(taken):
        return Cost(math.inf, math.inf)
    rdp = _rdp(taken, delta)
    if not rdp <= EPSILON_CEILING:
        return Cost(math.inf, math.inf)
    if by_rdp(taken, delta):
        return Cost(rdp, rdp)
    pld = PLDAccountant(value_discretization_interval=_interval(rdp)).compose(_event(taken))
    return Cost(float(pld.get_epsilon(delta)), rdp)


@lru_cache(maxsize=256)
def group_epsilon(spent: tuple[Spent, ...], delta: float, group: int) -> float:
    """ε at `delta` where all records of `group` units are added, or all removed, at once.

    This ε protects a fact that stands in the records of that many units. A step draws each unit of
    the group independently. Its sum moves by at most j clip norms with probability
    Binomial(group, q)(j): a mixture of Gaussians, accounted in both directions.
    With `group` 1, the figure is that of `spend`.
    Source: Ganesh 2024 (arXiv 2401.10294), tight for this mechanism. The general bound, k·ε at a δ
    that grows like e^(k·ε), is far from tight. It is used only where ε is quoted by RDP, and above
    10,000 steps, where the mixture would take too long.
    It does not cover a group in which some units are added and others removed: count both.

    Returns:
        An upper bound, infinite where it is above `GROUP_CEILING`.
    """
    taken = _taken(spent)
    parts = [part for s in taken for part in _parts(s)]
    if not taken:
        return 0.0
    if _nothing_bounds(taken) or any(_beyond_ceiling(part, delta, group) for part in parts):
        return math.inf
    if spend(spent, delta).epsilon == math.inf:
        return math.inf
    if by_rdp(taken, delta) or sum(s.steps for s in taken) > _CALIBRATION_STEPS:
        return _general_group_epsilon(spent, delta, group)
    # No step draws more than `most` of the group, except with probability `cut`. Call P the run
    # with the group and Q the run without it. Call P' the run with the group in which no step
    # draws more, and t = steps·cut. Then P ≤ P' + t and (1 - cut)^steps·P' ≤ P. So what P' and Q
    # satisfy at (ε, δ - t), P and Q satisfy at (ε + t', δ), where t' = -steps·log(1 - cut).
    steps = sum(part.steps for part in parts)
    cut = _GROUP_CUT * delta / steps
    rdp, reach, events = _rdp(taken, delta), 0.0, []
    for s in parts:
        noise = min(s.noise_multiplier, MOST_NOISE)
        most = int(stats.binom.isf(cut, group, s.sampling_rate))
        weights = stats.binom.pmf(range(most + 1), group, s.sampling_rate)
        step = (
            dp_event.MixtureOfGaussiansDpEvent(noise, range(most + 1), weights / weights.sum())
            if s.sampling_rate < 1  # otherwise nothing is mixed, and the library finds no tail
            else dp_accounting.GaussianDpEvent(noise / group)
        )
        events.append(dp_accounting.SelfComposedDpEvent(step, s.steps))
        moved = most / noise
        reach = max(reach, moved * (moved / 2 + 10))  # the loss ten deviations out
    coarsest = 2.0 ** math.ceil(math.log2(max(reach, 1e-9) / _GROUP_BINS))
    # Four times coarser than for one unit: costs 0.05 % of ε and takes a third of the time.
    interval = max(4 * _interval(min(group * rdp, GROUP_CEILING)), coarsest)
    pld = PLDAccountant(value_discretization_interval=interval)
    epsilon = pld.compose(dp_accounting.ComposedDpEvent(events)).get_epsilon(delta - steps * cut)
    epsilon -= steps * math.log1p(-cut)
    return float(epsilon) if epsilon <= GROUP_CEILING else math.inf


def _general_group_epsilon(spent: tuple[Spent, ...], delta: float, group: int) -> float:
    """k·ε₁, where ε₁ is the ε of one unit at δ₁, with δ₁·(e^(kε₁) - 1)/(e^ε₁ - 1) = `delta`."""
    one = max(spend(spent, delta).epsilon, 1e-9)
    while one < 700 and group * one <= GROUP_CEILING:
        shrunk = math.log(delta) + math.log(math.expm1(one)) - group * one  # at most log δ₁
        if shrunk < -700:  # a float64 cannot hold it
            break
        needed = spend(spent, math.exp(shrunk)).epsilon
        if needed <= one:
            return group * one
        one = needed * (1 + 1e-6)
    return math.inf


def _beyond_ceiling(spent: Spent, delta: float, group: int) -> bool:
    """Whether a simple attack already shows a larger ε: add up the steps, compare to a threshold.

    The threshold is one deviation below the mean of the sum. With the group present, the sum
    exceeds it with probability at least 1/2 (Cantelli). Without the group, it does so with the
    probability of a Gaussian tail.
    """
    q, noise = spent.sampling_rate, spent.noise_multiplier
    mean = spent.steps * group * q
    deviation = math.sqrt(spent.steps * (noise**2 + group * q * (1 - q)))
    tail = stats.norm.logsf((mean - deviation) / (noise * math.sqrt(spent.steps)))
    return delta < 0.5 and math.log(0.5 - delta) - float(tail) > GROUP_CEILING


@lru_cache(maxsize=64)
def calibrate_noise_multiplier(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    trials: float | None = None,
    histogram_noise_multiplier: float | None = None,
) -> float:
    """The smallest noise multiplier whose ε, as `spend` quotes it, is at most `epsilon`.

    Accurate to 0.1 % in ε. With `trials`, for a δ below `PLD_DELTA`, and above 10,000 steps, it is
    the smallest whose ε by RDP is at most `epsilon`, to 0.1 % in the noise multiplier. An infinite
    ε gives 0.
    Source: false position on log ε against log σ, which is nearly a straight line. The search
    starts from the RDP answer, which costs milliseconds where PLD costs seconds.
    `histogram_noise_multiplier` is that of the histogram that the target has to cover, too.

    Raises:
        UserError: no noise multiplier below 10,000 reaches the target, by RDP too if there is a
            histogram; or the target is below `LEAST_EPSILON` or above `EPSILON_CEILING`.
    """
    if epsilon == math.inf:
        return 0.0
    if not LEAST_EPSILON <= epsilon <= EPSILON_CEILING:
        raise UserError(
            f"privacy.epsilon: must be from {LEAST_EPSILON:g} to {EPSILON_CEILING:,.0f}, or .inf "
            "for no privacy"
        )
    spent = Spent(
        sampling_rate, 0.0, steps, trials, histogram_noise_multiplier=histogram_noise_multiplier
    )
    if trials is not None or delta < PLD_DELTA or steps > _CALIBRATION_STEPS:
        return _rdp_noise_multiplier(epsilon, delta, spent, to=1.001)

    def reached(noise_multiplier: float) -> float:
        return spend((replace(spent, noise_multiplier=noise_multiplier),), delta).epsilon

    def over(noise_multiplier: float) -> float:
        # An ε of 0 (the loss is below the grid) has no logarithm; any tiny number serves.
        return math.log(max(reached(noise_multiplier), 1e-9) / epsilon)

    high = _rdp_noise_multiplier(epsilon, delta, spent)
    if high == LEAST_NOISE:
        return high
    low = high / 1.1
    at = {s: over(s) for s in (low, high)}
    while at[high] > 0:
        high *= 1.1
        at[high] = over(high)
    for wider in (1.2, 1.2, *[1.5] * 50):  # RDP is far off where the sampling rate is tiny
        if at[low] > 0:
            break
        high, low = low, low / wider
        at[low] = over(low)
    aim = math.log(1 - 2e-4)
    while at[high] < math.log(1 - 1e-3) and high / low > 1 + 1e-4:
        share = (at[low] - aim) / (at[low] - at[high]) if at[low] < math.inf else 0.5
        middle = low * (high / low) ** min(max(share, 0.02), 0.98)
        at[middle] = over(middle)
        low, high = (low, middle) if at[middle] <= 0 else (middle, high)
    return high


def _rdp_noise_multiplier(epsilon: float, delta: float, spent: Spent, to: float = 1.01) -> float:
    """A noise multiplier of the steps of `spent` whose ε by RDP is at most `epsilon`.

    To within a factor `to`.
    """

    def enough(noise_multiplier: float) -> bool:
        return _rdp((replace(spent, noise_multiplier=noise_multiplier),), delta) <= epsilon

    low = high = LEAST_NOISE
    while not enough(high):
        low, high = high, high * 2
        if high > 10_000:
            remedy = "raise epsilon, or lower steps or batch"
            if spent.histogram_noise_multiplier is not None:
                remedy = f"raise prompts.histogram.noise_multiplier, {remedy}"
            raise UserError(
                "privacy.epsilon: no noise multiplier below 10,000 reaches it at this sampling "
                f"rate and number of steps; {remedy}"
            )
    while high / low > to:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
