"""Where random bits come from.

Promises:
- By default, every bit is from the operating system's cryptographic generator.
- With a seed, a stream is a function of (seed, purpose, step) alone. A step that is taken again
  after a crash is then the same step.
- Streams for different purposes or steps never overlap.

Does not: make a seeded run safe to publish. Whoever knows the seed can subtract the noise.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Stream = Callable[[int], bytes]
"""Call with a number of bytes, get that many fresh random bytes."""


@dataclass(frozen=True)
class Randomness:
    """The source of all bits of one run."""

    seed: int | None = None

    def stream(self, purpose: str, step: int) -> Stream:
        """The bytes for one purpose ("sampling", "noise") in one step."""
        if self.seed is None:
            return os.urandom
        name = f"privcode/{self.seed}/{purpose}/{step}".encode()
        key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
        return np.random.Generator(np.random.Philox(key=key)).bytes
