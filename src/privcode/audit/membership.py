"""Membership inference: can a unit that was trained on be told from one that was not?

Promises: statistics of two lists of scores (higher: likelier a member), intervals included.
The scores:
- The loss (Yeom et al. 2018).
- The least likely tokens (min-k %, Shi et al. 2024).
- The loss against the same model untuned (reference-calibrated: Carlini et al. 2021, Watson et al.
  2022).

Does not: read data or write anything. Scores of private records, and whatever is computed from
them, did not pass the mechanism. They belong in `private/` and nowhere else.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom, norm, rankdata

from privcode.audit.exposure import clopper_pearson

SCORES = ("loss", "min-20%", "reference")
FPR = 0.01

Curve = tuple[np.ndarray, np.ndarray]
"""False and true positive rates."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def scores(tokens: np.ndarray, untuned: np.ndarray, k: float = 0.2) -> tuple[float, float, float]:
    """`SCORES` of one record.

    Args:
        tokens: log-probability of each token of its code, at least one, by the tuned model.
        untuned: the same before tuning.
        k: the share of tokens, the least likely ones, that min-k uses; at least one token.
    """
    least = np.sort(tokens)[: max(1, round(k * len(tokens)))]
    loss = float(tokens.mean())
    return loss, float(least.mean()), loss - float(untuned.mean())


def roc(members: Sequence[float], others: Sequence[float]) -> Curve:
    """False and true positive rates at every threshold ("a member if the score is at least it").

    Both start at 0 and end at 1. Equal scores are one step.
    """
    values = np.concatenate([np.asarray(members, float), np.asarray(others, float)])
    thresholds = np.unique(values)[::-1]
    true, false = (
        np.searchsorted(np.sort(np.negative(scores)), -thresholds, side="right") / len(scores)
        for scores in (members, others)
    )
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def auc(members: Sequence[float], others: Sequence[float]) -> Estimate:
    """Area under the ROC curve: the chance that a member scores above a non-member, ties half.

    The interval is DeLong's (1988), on the logit scale. Where the two lists do not overlap, its
    variance is 0. The interval is then Clopper and Pearson's, for the number of independent pairs.
    """
    m, n = len(members), len(others)
    ranks = rankdata([*members, *others])
    # Placements: the share of the other list that each score is above.
    above = (ranks[:m] - rankdata(members)) / n
    below = 1 - (ranks[m:] - rankdata(others)) / m
    area = float(above.mean())
    variance = float(above.var(ddof=1) / m + below.var(ddof=1) / n) if min(m, n) > 1 else 0.0
    if variance == 0 or not 0 < area < 1:
        pairs = min(m, n)
        return Estimate(area, *clopper_pearson(round(area * pairs), pairs))
    logit = math.log(area / (1 - area))
    half = float(norm.ppf(0.975)) * math.sqrt(variance) / (area * (1 - area))
    return Estimate(area, _expit(logit - half), _expit(logit + half))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def tpr_at(members: Sequence[float], others: Sequence[float], fpr: float = FPR) -> Estimate:
    """The share of members found while at most `fpr` of the non-members are taken for members.

    The value uses the lowest threshold that the non-members at hand allow. That threshold is
    itself an estimate of the `fpr` quantile, so the interval is for the true quantile. With 97.5 %
    confidence, the true quantile lies between two of the non-members' scores (order statistics,
    exact). At these two scores, the share of members has Clopper and Pearson's bounds, at 1.25 %
    each. Few non-members show nothing (`low` is 0): an `fpr` of 1 % needs about 440.
    """
    found, scores = np.asarray(members, float), np.sort(np.asarray(others, float))[::-1]
    m, n = len(found), len(scores)

    def found_at(false: int) -> int:
        """Members above the score that has `false` non-members above it."""
        return m if false >= n else int((found > scores[false]).sum())

    # Of n non-members, Binomial(n, fpr) lie above the true quantile.
    few, many = int(binom.ppf(0.0125, n, fpr)), int(binom.isf(0.0125, n, fpr))
    strict = found_at(few - 1) if few > 0 else 0
    return Estimate(
        found_at(int(fpr * n)) / m,
        clopper_pearson(strict, m, 0.975)[0],
        clopper_pearson(found_at(many), m, 0.975)[1],
    )


def inference(members: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Both figures of one score as JSON: {"auc", "tpr_at_1%_fpr": {"value", "low", "high"}}."""
    found = {"auc": auc(members, others), "tpr_at_1%_fpr": tpr_at(members, others)}
    return {
        name: {part: round(value, 4) for part, value in asdict(estimate).items()}
        for name, estimate in found.items()
    }


def picture(curves: Mapping[str, Curve]) -> bytes:
    """ROC curves by name, both axes logarithmic, as PNG: for `private/` alone."""
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, (false, true) in curves.items():
        axes.step(false, true, where="post", linewidth=1.2, label=name)
    axes.plot([1e-4, 1], [1e-4, 1], color="grey", linewidth=0.8, linestyle="--", label="guessing")
    axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.1))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.set_title("private: made from real records, without the mechanism", fontsize=8)
    axes.legend(frameon=False, fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
