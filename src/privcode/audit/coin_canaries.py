"""Coin canaries: made-up records for the black-box one-run audit. Fair coins plant half of them.

Promises:
- Prompts are unique.
- Completions are random characters that nobody could guess and that tokenizers split into rare
  tokens.
- The same seed gives the same canaries and coins.
- Each planted canary is a unit of its own, next to the real ones.

Does not: put canaries anywhere but among the records. Canaries left out are only scored.
"""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from privcode.data.records import Record, Unit

_SIGNS = string.ascii_letters + string.digits
_LENGTH = 32


@dataclass(frozen=True)
class CoinCanary:
    """A record, and whether it is among the private ones."""

    record: Record
    included: bool


def throw(count: int, seed: int) -> list[CoinCanary]:
    """`count` canaries, each included by its own fair coin."""
    rng = random.Random(f"privcode coin canaries {seed}")
    made = []
    for number in range(1, count + 1):
        name, text = ("".join(rng.choices(_SIGNS, k=k)) for k in (8, _LENGTH))
        record = Record(
            f"Write a function that returns the key of project {name}.",
            f'def key():\n    return "{text}"\n',
            "python",
            Unit("coin canary", str(number)),
            0,
        )
        made.append(CoinCanary(record, rng.random() < 0.5))
    return made


def records(canaries: Sequence[CoinCanary]) -> list[Record]:
    """The records that the coins planted."""
    return [canary.record for canary in canaries if canary.included]
