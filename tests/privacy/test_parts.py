"""Parts of a unit that are clipped apart: each has its share, and together they keep the norm."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from privcode.privacy.clipping import Clipper

CLIP = 0.7


def recorded(gradients: torch.Tensor, numbers: list[int], parts: int, given: Any = None) -> Any:
    """The sum of these per-record gradients [records, 6], with the parts' numbers."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    clipper = Clipper(model, CLIP)
    clipper.divide(parts)
    with clipper.recording(len(gradients)):
        x = torch.eye(3).expand(len(gradients), 3, 3).clone().requires_grad_()
        # Position k sees the k-th unit vector: its gradient is column k of the weight's.
        (model(x) * gradients.view(-1, 2, 3).transpose(1, 2)).sum().backward()
    clipper.accumulate(torch.tensor(numbers), given)
    return clipper.take_sum()


def drawn(seed: int, records: int = 4, size: float = 5.0) -> torch.Tensor:
    return torch.randn(records, 6, generator=torch.Generator().manual_seed(seed)) * size


def scaled(vector: torch.Tensor, most: float) -> torch.Tensor:
    return vector * min(1.0, most / float(vector.norm()))


def test_each_part_of_a_unit_is_scaled_to_its_share_and_then_their_sum() -> None:
    for seed in range(20):
        rows = drawn(seed)  # one unit with two records, of two parts each
        found = recorded(rows, [0, 1, 0, 1], 2)
        parts = ((rows[0] + rows[2]).double(), (rows[1] + rows[3]).double())
        expected = sum(scaled(part, CLIP / math.sqrt(2)) for part in parts)
        assert torch.allclose(found, scaled(expected, CLIP), rtol=1e-4, atol=1e-6)


def test_units_are_told_apart_by_their_numbers() -> None:
    rows = drawn(5)
    both = recorded(rows, [6, 7, 2, 3], 2)
    alone = recorded(rows[:2], [0, 1], 2) + recorded(rows[2:], [0, 1], 2)
    assert torch.equal(both, alone)


def test_parts_at_right_angles_keep_all_of_their_share() -> None:
    rows = torch.zeros(2, 6)
    rows[0, 0], rows[1, 4] = 1e3, 7.0
    found = recorded(rows, [0, 1], 2)
    share = CLIP / math.sqrt(2)
    assert [float(found[0]), float(found[4])] == pytest.approx([share, share], rel=1e-4)


def test_a_small_part_stays_as_it_is_beside_a_large_one() -> None:
    rows = drawn(2, 2)
    rows[1] *= 1e-3 / rows[1].norm()
    found = recorded(rows, [0, 1], 2)
    large = scaled(rows[0].double(), CLIP / math.sqrt(2))
    assert torch.allclose(found - large, rows[1].double(), atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_unit_with_a_part_that_is_not_finite_contributes_exactly_nothing(bad: float) -> None:
    rows = drawn(6)
    rows[1, 2] = bad
    assert torch.equal(recorded(rows, [0, 1, 2, 3], 2), recorded(rows[2:], [0, 1], 2))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_all_parts_together_have_at_most_the_clip_norm(parts: int) -> None:
    for seed in range(200):
        rows = drawn(seed, parts, 10.0 ** (seed % 7 - 3))
        rows[1:] = rows[:1] * (1 + 1e-7 * seed)  # in one direction: the most that there can be
        moved = float(recorded(rows, list(range(parts)), parts).norm())
        assert moved <= CLIP
    assert moved > CLIP * (1 - 1e-4)


def test_what_is_given_is_clipped_whole() -> None:
    given = drawn(3, 1)
    found = recorded(drawn(4, 1), [0], 2, given.clone())
    assert float(found.norm()) == pytest.approx(CLIP, rel=1e-4)
