"""A histogram of what units are about, released once with Gaussian noise, and what is made of it.

Promises:
- `counted` gives every unit one vector, made of that unit's bins alone, of L2 norm at most 1. One
  unit more or less moves the sum by its own vector, so by at most `SENSITIVITY`.
- Sums are whole multiples of `GRID` in integer arithmetic. No rounding moves them, and their order
  makes no difference.
- `noised` is all that is released. Sum and noise lie on one grid, so the sum of both is the sum
  plus the unrounded noise, rounded (docs/explanation/the-guarantee.md).
- `apportioned` reads noised counts alone.

Does not: know what a bin means. Bins are numbered in public, before the data are seen.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

import numpy as np
import torch

from privcode.errors import UserError

GRID = 2.0**-32
SENSITIVITY = 1.0
"""How far adding or removing one unit can move the sums of `counted`, in L2."""

_ONE = 2**32  # of the grid's steps
_MOST_UNITS = 2**30  # whose sums, with the noise, fit into 63 bits


def counted(bins: np.ndarray, units: np.ndarray, size: int) -> np.ndarray:
    """[size] int64: how many units each bin has, in steps of the grid.

    A unit whose records fall into several bins is divided over them, so that its vector has an L2
    norm of at most 1: a unit with many records counts as one.

    Args:
        bins: [records] the bin of each record, from 0 to `size` - 1.
        units: [records] int64, equal where two records belong to one unit.
        size: number of bins.

    Raises:
        UserError: there are more than 2^30 units.
    """
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=-1))  # numbers of units are not negative
    ends = np.append(starts[1:], len(order))
    if len(starts) > _MOST_UNITS:
        raise UserError("prompts.histogram: more than 2^30 units cannot be counted; leave it out")
    alone = ends - starts == 1
    total = np.bincount(bins[order[starts[alone]]], minlength=size).astype(np.int64) * _ONE
    for start, end in zip(starts[~alone].tolist(), ends[~alone].tolist(), strict=True):
        where, counts = np.unique(bins[order[start:end]], return_counts=True)
        total[where] += clipped(counts.tolist())
    return total


def clipped(counts: Sequence[int]) -> list[int]:
    """One unit's counts, not all 0, over their L2 norm, rounded down, in steps of the grid.

    The squares of the results add up to at most 2^64: the norm is at most 1, without rounding.
    """
    square = sum(count * count for count in counts)
    return [isqrt((count * count << 64) // square) for count in counts]


def on_grid(noise: torch.Tensor) -> np.ndarray:
    """[bins] int64: noise, rounded to steps of the grid."""
    found: np.ndarray = (noise / GRID).round_().to(torch.int64).numpy()
    return found


def noised(counts: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """[bins] int64: counts and noise, both in steps of the grid: all that is released."""
    found: np.ndarray = counts + noise
    return found


def apportioned(weights: Sequence[float], seats: int) -> list[int]:
    """`seats` divided in proportion to `weights`, which are not negative and not all 0.

    Each gets its share rounded down, and the largest remainders get one more, the first of equals
    (Hamilton's method). In exact arithmetic.
    """
    whole = [Fraction(weight) for weight in weights]
    quotas = [weight * seats / sum(whole) for weight in whole]
    given = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: given[i] - quotas[i])
    for i in by_remainder[: seats - sum(given)]:
        given[i] += 1
    return given
