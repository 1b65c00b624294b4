"""Which pairs each process takes in each pass of plain tuning.

Promises:
- A step takes the same pairs, however many processes and passes share it. The last step of an epoch
  takes the pairs that are left.
- Every process makes the same number of passes in a step. Where its pairs do not suffice, it takes
  a blank: a row in which no token is learned.
- The order follows from the seed and the epoch alone.

Does not: read a pair.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class Passes(Sampler[list[int]]):
    """The passes of one process over an epoch: lists of at most `micro_batch` numbers of pairs.

    Attributes:
        blank: the number of the blank, which is that after the last pair.
        in_a_step: passes of each process in a step, but for the last step of an epoch.
    """

    def __init__(
        self, pairs: int, batch_size: int, micro_batch: int, seed: int, rank: int, world: int
    ) -> None:
        self.pairs, self.batch_size, self.micro_batch, self.seed = (
            pairs,
            batch_size,
            micro_batch,
            seed,
        )
        self.rank, self.world = rank, world
        self.epoch = 0
        self.blank = pairs
        self.in_a_step = self._passes(batch_size)

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.pairs, self.batch_size)
        return whole * self.in_a_step + self._passes(rest)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.pairs, generator=generator).tolist()
        for at in range(0, self.pairs, self.batch_size):
            own = self._share(order[at : at + self.batch_size])
            for begin in range(0, len(own), self.micro_batch):
                yield own[begin : begin + self.micro_batch]

    def _share(self, step: Sequence[int]) -> list[int]:
        own = list(step[self.rank :: self.world])
        return own + [self.blank] * (-(-len(step) // self.world) - len(own))

    def _passes(self, pairs: int) -> int:
        """Of a step of so many pairs."""
        share = -(-pairs // self.world)
        return -(-share // self.micro_batch)
