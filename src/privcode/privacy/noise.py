"""Gaussian noise from bytes.

Promises: independent N(0, stdev²) in double precision by Box and Muller's method from 53-bit
uniforms, rounded to fp32 at the end; as many numbers as asked for, from the stream given.
Does not: defend against attacks on floating-point Gaussians (Mironov 2012) beyond drawing in
double precision; tails end at 8.5 standard deviations.
"""

import math

import torch

from privcode.privacy.randomness import Stream

_CHUNK = 1 << 20


def _uniform(count: int, stream: Stream) -> torch.Tensor:
    """`count` doubles, uniform on (0, 1], 53 bits each."""
    bits = torch.frombuffer(bytearray(stream(8 * count)), dtype=torch.int64)
    return ((bits >> 11) & ((1 << 53) - 1)).double().add_(1).mul_(2.0**-53)


def gaussian(count: int, stdev: float, stream: Stream) -> torch.Tensor:
    """[count] fp32 tensor of independent N(0, stdev²) draws; zeros when `stdev` is 0."""
    noise = torch.zeros(count)
    if stdev == 0:
        return noise
    for start in range(0, count, 2 * _CHUNK):
        part = noise[start : start + 2 * _CHUNK]
        half = (len(part) + 1) // 2
        radius = _uniform(half, stream).log_().mul_(-2).sqrt_().mul_(stdev)
        angle = _uniform(half, stream).mul_(2 * math.pi)
        part.copy_(torch.cat((radius * angle.cos(), radius * angle.sin()))[: len(part)])
    return noise
