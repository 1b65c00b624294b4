"""Poisson sampling of units.

Promises:
- Each unit takes part in a step independently, with the same probability.
- The batch is whatever is drawn, empty or large. It is never padded, truncated or reshuffled: that
  is what the accountant assumes. (Capping a batch of 128 at 160 moved ε from 4.0 to 10.4.)
"""

import numpy as np

from privcode.privacy.randomness import Stream


def poisson_sample(units: int, rate: float, stream: Stream) -> np.ndarray:
    """Indices, ascending, of the units drawn from range(units), each with probability `rate`.

    The comparison is on 64-bit integers, so the probability is exact to 2^-64.
    """
    draws = np.frombuffer(stream(8 * units), dtype=np.uint64)
    if rate >= 1:
        return np.arange(units)
    return np.flatnonzero(draws < np.uint64(int(rate * 2**64)))
