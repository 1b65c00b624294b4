"""Exposure: how far a planted secret stands out among all that could have been planted instead.

Carlini et al. 2019, "The Secret Sharer", section 4. Let R be the space that the secret was drawn
from, ranked by the model's log-perplexity of the canary. Exposure is log2 |R| − log2 rank, in bits.
This is minus log2 of the chance that a random candidate is at least as likely as the secret.
A model that never saw the secret ranks it like any other. Its exposure is then x bits or more with
probability 2^-x, and 1.44 bits on average.

Promises:
- The sampled figure assumes only that candidates are drawn as the secret was. N candidates show at
  most log2(N + 1) bits.
- The interval is Clopper and Pearson's. It ends at log2 |R| where no candidate is likelier.
- Next to it stands the figure extrapolated with a skew-normal distribution fitted to the candidates
  (paper, section 4.3). That figure is a model, not a measurement.

Does not: bound the privacy loss, or ask whether anyone could find the secret in practice.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import beta, kstest, skewnorm

CHANCE = 1 / math.log(2)
"""Expected exposure, in bits, of a secret that the model knows nothing about."""


@dataclass(frozen=True)
class Exposure:
    """One secret's exposure, in bits.

    Attributes:
        rank: among the candidates and the secret, from 1; ties count half.
        sampled: log2(N + 1) − log2 rank.
        low, high: 95 % interval of the exposure over the whole space.
        extrapolated: by the fitted skew-normal, at most log2 |R|; None where candidates do not
            differ.
        fit: p-value of a Kolmogorov–Smirnov test of that fit. Do not trust the extrapolation if
            it is small (below 0.1, say). It is somewhat too large, because the tested data are
            the fitted data.
    """

    rank: float
    sampled: float
    low: float
    high: float
    extrapolated: float | None
    fit: float | None


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a binomial probability."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.isf(tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def exposure(secret: float, candidates: Sequence[float], space_bits: float) -> Exposure:
    """The exposure of a secret.

    Args:
        secret: log-perplexity of the canary: minus the summed log-probability of its tokens.
        candidates: log-perplexities of completions whose secrets were drawn like the canary's
            secret, and independently of it.
        space_bits: log2 |R|.
    """
    others = np.asarray(candidates, dtype=float)
    n = len(others)
    below, ties = int((others < secret).sum()), int((others == secret).sum())
    rank = 1 + below + ties / 2
    # The share of the space at least as likely includes the ties, so they count in full.
    low, high = clopper_pearson(below + ties, n)
    extrapolated, fit = _extrapolate(secret, others, space_bits)
    return Exposure(
        rank=rank,
        sampled=math.log2(n + 1) - math.log2(rank),
        low=min(-math.log2(high), space_bits),
        high=min(-math.log2(low), space_bits) if low else space_bits,
        extrapolated=extrapolated,
        fit=fit,
    )


def _extrapolate(
    secret: float, others: np.ndarray, space_bits: float
) -> tuple[float | None, float | None]:
    centre, spread = float(others.mean()), float(others.std())
    if not spread > 0:
        return None, None
    scaled = (others - centre) / spread  # the fit is more reliable near 0 and 1
    fitted = skewnorm(*skewnorm.fit(scaled))
    share = float(fitted.cdf((secret - centre) / spread))
    bits = -math.log2(share) if share > 0 else space_bits
    return min(bits, space_bits), float(kstest(scaled, fitted.cdf).pvalue)


def summary(found: Iterable[tuple[str, int, Exposure]]) -> dict[str, Any]:
    """(kind, repetitions, exposure) of every canary as JSON.

    Returns:
        {"canaries": [{"kind", "repetitions", …}], "by_repetitions": {"COUNT": {"canaries": N,
        "mean", "least", "most": sampled bits, "extrapolated": mean bits}}}.
    """
    rows: list[dict[str, Any]] = [
        {"kind": kind, "repetitions": count, **_rounded(asdict(one))} for kind, count, one in found
    ]
    by_count: dict[str, Any] = {}
    for count in sorted({row["repetitions"] for row in rows}):
        some = [row for row in rows if row["repetitions"] == count]
        bits = [row["sampled"] for row in some]
        beyond = [row["extrapolated"] for row in some if row["extrapolated"] is not None]
        by_count[str(count)] = {
            "canaries": len(some),
            "mean": round(mean(bits), 3),
            "least": min(bits),
            "most": max(bits),
            "extrapolated": round(mean(beyond), 3) if beyond else None,
        }
    return {"canaries": rows, "by_repetitions": by_count}


def _rounded(facts: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is None else round(value, 3) for name, value in facts.items()}
