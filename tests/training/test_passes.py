"""How processes share the pairs of a step."""

import pytest

from privcode.training.passes import Passes


def steps(
    pairs: int, batch: int, micro: int, world: int, epoch: int = 0
) -> list[list[list[list[int]]]]:
    """Of every step, of every process, its passes."""
    found = []
    for rank in range(world):
        passes = Passes(pairs, batch, micro, 5, rank, world)
        passes.set_epoch(epoch)
        own = list(passes)
        assert len(own) == len(passes)
        found.append([own[i : i + passes.in_a_step] for i in range(0, len(own), passes.in_a_step)])
    return [list(step) for step in zip(*found, strict=True)]


@pytest.mark.parametrize("world", [2, 3, 4, 7])
@pytest.mark.parametrize(
    ("pairs", "batch", "micro"), [(24, 8, 2), (23, 7, 3), (9, 8, 3), (1, 4, 4)]
)
def test_a_step_takes_the_pairs_of_one_process_however_many_share_it(
    pairs: int, batch: int, micro: int, world: int
) -> None:
    one, several = steps(pairs, batch, micro, 1), steps(pairs, batch, micro, world)
    for alone, shared in zip(one, several, strict=True):
        taken = [pair for process in shared for one_pass in process for pair in one_pass]
        whole = [pair for one_pass in alone[0] for pair in one_pass]
        assert sorted(pair for pair in taken if pair != pairs) == sorted(whole)
        assert len({len(process) for process in shared}) == 1  # passes
        assert taken.count(pairs) < world
        assert max(len(one_pass) for process in shared for one_pass in process) <= micro


def test_one_process_takes_no_blank_and_every_pair_once_an_epoch() -> None:
    epochs = [
        [pair for (process,) in steps(23, 7, 2, 1, epoch) for one in process for pair in one]
        for epoch in (0, 1)
    ]
    assert [sorted(order) for order in epochs] == [list(range(23))] * 2
    assert epochs[0] != epochs[1]
