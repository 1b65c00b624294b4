"""Membership statistics have known answers, and their intervals hold what they promise."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from privcode.audit.membership import auc, picture, roc, scores, tpr_at

REPEATS = 600
MISSED = 4 * math.sqrt(0.95 * 0.05 / REPEATS)  # 4 standard errors of a coverage of 95 %


def test_scores_are_the_mean_the_mean_of_the_lowest_and_the_gain_over_the_untuned() -> None:
    tokens, untuned = np.array([-1.0, -2, -3, -4, -5, -6, -7, -8, -9, -10]), np.full(10, -8.0)
    assert scores(tokens, untuned) == (-5.5, -9.5, 2.5)
    assert scores(tokens[:2], untuned[:2]) == (-1.5, -2.0, 6.5)


def test_roc_steps_through_every_threshold_and_takes_equal_scores_together() -> None:
    false, true = roc([3.0, 2.0, 1.0], [2.0, 0.0])
    assert false.tolist() == [0, 0, 0.5, 0.5, 1]
    assert true.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_auc_counts_pairs_and_ties_half_and_is_the_area_under_the_curve() -> None:
    members, others = [3.0, 2.0, 1.0], [2.0, 0.0]
    false, true = roc(members, others)
    assert auc(members, others).value == pytest.approx((2 + 1.5 + 1) / 6)
    assert np.trapezoid(true, false) == pytest.approx(auc(members, others).value)


def test_auc_of_lists_that_do_not_overlap_is_1_with_an_interval() -> None:
    found = auc([5.0 + i for i in range(20)], [0.1 * i for i in range(30)])
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 20))


@pytest.mark.parametrize(("shift", "sizes"), [(0.0, (60, 60)), (0.5, (40, 90)), (2.0, (60, 60))])
def test_the_interval_of_the_auc_holds_the_true_one(shift: float, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    truth = float(norm.cdf(shift / math.sqrt(2)))
    held = 0
    for _ in range(REPEATS):
        found = auc(rng.normal(shift, 1, sizes[0]).tolist(), rng.normal(0, 1, sizes[1]).tolist())
        held += found.low <= truth <= found.high
    # DeLong's interval is an approximation: neither too narrow nor uselessly wide.
    assert 0.95 - MISSED <= held / REPEATS < 0.99


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_the_interval_of_tpr_at_1_percent_fpr_holds_the_true_one(shift: float) -> None:
    rng = np.random.default_rng(6)
    truth = float(norm.sf(norm.isf(0.01) - shift))
    held, values = 0, []
    for _ in range(REPEATS):
        found = tpr_at(rng.normal(shift, 1, 300).tolist(), rng.normal(0, 1, 500).tolist())
        held += found.low <= truth <= found.high
        values.append(found.value)
        assert found.low <= found.value <= found.high
    assert held / REPEATS >= 0.95 - MISSED
    assert np.mean(values) == pytest.approx(truth, abs=0.02)


def test_from_few_non_members_nothing_is_claimed_at_1_percent() -> None:
    found = tpr_at([9.0] * 50, [float(i) / 100 for i in range(100)])
    assert (found.value, found.low, found.high) == (1, 0, 1)


def test_at_most_1_percent_of_the_non_members_are_above_the_threshold_even_among_ties() -> None:
    assert tpr_at([1.0] * 10, [1.0] * 1000).value == 0


def test_the_picture_is_the_same_bytes_every_time() -> None:
    curves = {"loss": roc([2.0, 3.0], [1.0, 2.0])}
    assert picture(curves) == picture(curves)
    assert picture(curves).startswith(b"\x89PNG")
