"""Poisson sampling of units.

Promises:
- Each unit takes part in a step independently, with the same probability.
- The batch is whatever is drawn, empty or large. It is never padded, truncated or reshuffled: that
  is what the accountant assumes. (Capping a batch of 128 at 160 moved ε from 4.0 to 10.4.)
"""

import numpy as np

from privcode.privacy.randomness import Stream

_TOGETHER = 2**20
"""Units whose draws are in memory together. It changes no draw: streams go on where they were."""


def poisson_sample(units: int, rate: float, stream: Stream) -> np.ndarray:
    """Indices, ascending, of the units drawn from range(units), each with probability `rate`.

    The comparison is on 64-bit integers, so the probability is exact to 2^-64.
    """
    drawn = [np.empty(0, np.int64)]
    for first in range(0, units, _TOGETHER):
        draws = np.frombuffer(stream(8 * min(_TOGETHER, units - first)), dtype=np.uint64)
        if rate >= 1:
            drawn.append(first + np.arange(len(draws)))
        else:
            drawn.append(first + np.flatnonzero(draws < np.uint64(int(rate * 2**64))))
    return np.concatenate(drawn)
