"""A lower bound on ε from one run: canaries put in by fair coins, and guesses of the coins.

Promises:
- Each bound is above the true ε with probability at most 5 %, whatever the scores are. Bad scores
  only make it weaker. Two conditions: every coin was fair and drawn apart from the mechanism, and
  the numbers of guesses were fixed before anything was seen.
- A bound above the claimed ε is therefore evidence of a fault.
- `epsilon` holds for any mechanism (Steinke, Nasr & Jagielski 2023, theorem 5.2).
- `epsilon_same_shape` assumes that the mechanism is the plan's, except for its noise (Mahloujifar,
  Melis & Chaudhuri 2024, arXiv 2410.22235, algorithm "rh with cap").

Does not: prove privacy. A bound near 0 says that this attack saw nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from scipy.stats import binom

from privcode.privacy.plan import PrivacyPlan
from privcode.training.gradient_canaries import log_likelihood_ratio

CONFIDENCE = 0.95
"""Of all bounds of one kind in one audit together."""

_SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
_NOISE_STEP = 1.02
_NOISES = (-70, 105)  # exponents of the step: a quarter of the plan's noise to eight times it
_EPSILONS = np.concatenate((np.linspace(0, 2, 200, endpoint=False), np.linspace(2, 16, 281)))


@dataclass(frozen=True)
class Bound:
    """What one audit found.

    Attributes:
        canaries: how many coins were thrown.
        guesses: numbers of guesses, fixed beforehand; the first is expected to serve best.
        right: for each of them, how many were right.
        epsilon: lower bound on ε at the plan's δ for any mechanism.
        epsilon_same_shape: lower bound on ε if only the noise can differ from the plan; None
            where the plan has no noise.
    """

    canaries: int
    guesses: tuple[int, ...]
    right: tuple[int, ...]
    epsilon: float
    epsilon_same_shape: float | None


def lower_bound(
    scores: np.ndarray, included: np.ndarray, plan: PrivacyPlan, guesses: Sequence[int]
) -> Bound:
    """The bounds that some scores give.

    Args:
        scores: [canaries], higher where the canary is thought to have been in.
        included: [canaries] bool, the coins.
        plan: says the δ, and the shape of the mechanism.
        guesses: numbers of guesses, fixed before the scores were seen, the best first.
    """
    right = [count_right(scores, included, n) for n in guesses]
    return bound_of(len(scores), guesses, right, plan)


def bound_of(
    canaries: int, guesses: Sequence[int], right: Sequence[int], plan: PrivacyPlan
) -> Bound:
    """The bounds that follow from the counts alone: the best over all numbers of guesses.

    The first number of guesses gets seven tenths of the significance, the others share the rest.
    """
    found = []
    for place, (n, v) in enumerate(zip(guesses, right, strict=True)):
        share = 1.0 if len(guesses) == 1 else 0.3 / (len(guesses) - 1) if place else 0.7
        found.append((n, v, share * (1 - CONFIDENCE)))
    return Bound(
        canaries,
        tuple(guesses),
        tuple(right),
        max(epsilon_bound(canaries, n, v, plan.delta, level) for n, v, level in found),
        max(same_shape_bound(canaries, n, v, plan, level) for n, v, level in found)
        if plan.noise_multiplier
        else None,
    )


def count_right(scores: np.ndarray, included: np.ndarray, guesses: int) -> int:
    """How many of `guesses` guesses are right: the scores furthest from the median, by their side.

    The median, not 0: in a faulty engine, all likelihoods under the plan are off together.
    """
    away = scores - np.median(scores)
    chosen = np.argsort(-np.abs(away), kind="stable")[:guesses]
    return int(((away > 0) == included)[chosen].sum())


def epsilon_bound(
    canaries: int, guesses: int, right: int, delta: float, significance: float
) -> float:
    """The least ε at which an (ε, δ)-DP mechanism makes this many right guesses likely enough."""

    def rejected(epsilon: float) -> bool:
        rate = 1 / (1 + math.exp(-epsilon))
        tail = binom.sf(right - 1, guesses, rate)
        fewer = np.arange(1, right + 1)
        gains = (binom.sf(right - fewer - 1, guesses, rate) - tail) / fewer
        return bool(tail + 2 * canaries * delta * np.max(gains, initial=0.0) <= significance)

    if not rejected(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while rejected(high):
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def same_shape_bound(
    canaries: int, guesses: int, right: int, plan: PrivacyPlan, significance: float
) -> float:
    """ε of the least noise under which this many right guesses would be too unlikely.

    The noise is searched on a grid of 2 % around the plan's noise. The result is 0 where even
    eight times the plan's noise allows the guesses.
    """

    def curve(exponent: int) -> "_Curve":
        noise = plan.noise_multiplier * _NOISE_STEP**exponent
        return _curve(plan.sampling_rate, noise, plan.steps, plan.delta)

    def rejected(exponent: int) -> bool:
        return _too_unlikely(curve(exponent), canaries, guesses, right, significance)

    low, high = _NOISES
    if not rejected(high):
        return 0.0
    if rejected(low):
        return curve(low).epsilon
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return curve(high).epsilon


@dataclass(frozen=True, eq=False)
class _Curve:
    """A trade-off curve as lines. Take an event with probability r where a unit is in. It has at
    least max(slopes · r + offsets) where the unit is not in, and the other way round.
    """

    slopes: np.ndarray
    offsets: np.ndarray
    epsilon: float

    def least(self, probability: float) -> float:
        return float((self.slopes * probability + self.offsets).max())


@lru_cache(maxsize=256)
def _curve(sampling_rate: float, noise: float, steps: int, delta: float) -> _Curve:
    """Of Poisson-sampled Gaussian steps, add or remove one unit, from the PLD, pessimistic.

    Each line is (ε, δ(ε))-DP for one ε. Leaving out some ε makes the curve weaker, never wrong.
    """
    pld = privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        sampling_prob=sampling_rate,
        # The grid need be no finer than the losses of one step are large.
        value_discretization_interval=1e-3 * max(1.0, noise**-2),
    ).self_compose(steps)
    deltas = pld.get_delta_for_epsilon(_EPSILONS)
    grow = np.exp(_EPSILONS)
    return _Curve(
        np.concatenate((1 / grow, grow)),
        np.concatenate((-deltas / grow, 1 - deltas - grow)),
        float(pld.get_epsilon_for_delta(delta)),
    )


def _too_unlikely(
    curve: _Curve, canaries: int, guesses: int, right: int, significance: float
) -> bool:
    """Whether `right` or more right guesses have a probability below `significance`.

    Assume that they had more. Then fewer right guesses would also have more, each with more mass
    than the one before. Per canary, `correct` and `wrong` are the mass of right and wrong guesses
    at `count` right guesses or more. If this takes more mass than all guesses have, `right` is
    too unlikely.
    """
    correct = significance * right / canaries
    wrong = significance * (guesses - right) / canaries
    for count in range(right - 1, -1, -1):
        more = max(wrong, curve.least(correct))
        correct += count / (guesses - count) * (more - wrong)
        wrong = more
        if correct + wrong > guesses / canaries:
            return True
    return False


def simulate(
    plan: PrivacyPlan, canaries: int, rng: np.random.Generator, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and coins of an audit of the plan with `noise` as its noise, without a model."""
    included = rng.random(canaries) < 0.5
    scores = np.zeros(canaries)
    for _ in range(plan.steps):
        drawn = included & (rng.random(canaries) < plan.sampling_rate)
        seen = drawn + noise * rng.standard_normal(canaries)
        scores += log_likelihood_ratio(seen, plan.sampling_rate, plan.noise_multiplier)
    return scores, included


@lru_cache(maxsize=64)
def choose_guesses(plan: PrivacyPlan, canaries: int) -> tuple[int, ...]:
    """Numbers of guesses for gradient canaries, from the public plan alone, by simulation.

    First the number with the best bound under the plan. Then the numbers that are best under half
    its noise and under none, so that a fault shows in full.
    """
    numbers = sorted({math.ceil(share * canaries) for share in _SHARES})
    chosen = []
    for part in (1.0, 0.5, 0.0):
        rng = np.random.default_rng(0)
        audits = [simulate(plan, canaries, rng, part * plan.noise_multiplier) for _ in range(20)]
        right = [np.mean([count_right(*audit, n) for audit in audits]) for n in numbers]
        bounds = [
            epsilon_bound(canaries, n, int(v), plan.delta, 1 - CONFIDENCE)
            for n, v in zip(numbers, right, strict=True)
        ]
        chosen.append(numbers[int(np.argmax(bounds))])
    return tuple(dict.fromkeys(chosen))
