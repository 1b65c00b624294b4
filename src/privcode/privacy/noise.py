"""Gaussian noise from bytes.

Promises:
- Independent N(0, stdev²) draws in double precision, by Box and Muller's method from 63-bit
  uniforms.
- As many numbers as asked for, from the given stream, eight bytes each. `randomness` makes the
  stream, by default from the operating system's cryptographic generator.

Does not: defend against attacks on floating-point Gaussians (Mironov 2012) beyond drawing in
double precision. Tails end at 9.3 standard deviations: docs/explanation/the-guarantee.md says
what that costs.
"""

import math

import torch

from privcode.privacy.randomness import Stream

_CHUNK = 1 << 18
"""Pairs at a time: the work stays in the processor's cache, and still divides over its cores."""


def _uniform(count: int, stream: Stream) -> torch.Tensor:
    """`count` doubles, uniform on (0, 1]: 63 bits each, rounded to the 53 that a double holds.

    The ten extra bits matter near 0, which becomes the tail of the radius below.
    """
    bits = torch.frombuffer(bytearray(stream(8 * count)), dtype=torch.int64)
    return bits.bitwise_and_((1 << 63) - 1).double().add_(1).mul_(2.0**-63)


def gaussian(count: int, stdev: float, stream: Stream) -> torch.Tensor:
    """[count] float64 tensor of independent N(0, stdev²) draws, zeros when `stdev` is 0."""
    noise = torch.zeros(count, dtype=torch.float64)
    if stdev == 0:
        return noise
    for start in range(0, count, 2 * _CHUNK):
        part = noise[start : start + 2 * _CHUNK]
        half = (len(part) + 1) // 2
        radius = _uniform(half, stream).log_().mul_(-2).sqrt_().mul_(stdev)
        angle = _uniform(half, stream).mul_(2 * math.pi)
        part[:half] = radius * angle.cos()
        part[half:] = radius.mul_(angle.sin_())[: len(part) - half]
    return noise
