"""Exposure has known answers, and its intervals hold what they promise."""

import json
import math

import numpy as np
import pytest
from scipy.stats import skewnorm

from privcode.audit.exposure import CHANCE, clopper_pearson, exposure, summary


def test_a_secret_likelier_than_all_others_shows_all_that_the_sample_can_show() -> None:
    found = exposure(1.0, [2.0 + i for i in range(255)], space_bits=60)
    assert (found.rank, found.sampled) == (1, 8)
    assert found.low == pytest.approx(-math.log2(1 - 0.025 ** (1 / 255)))
    assert found.high == 60


def test_the_least_likely_secret_shows_nothing() -> None:
    found = exposure(300.0, [float(i) for i in range(255)], space_bits=60)
    assert (found.rank, found.sampled, found.low) == (256, 0, 0)


def test_rank_counts_ties_half_and_a_model_that_tells_nothing_apart_exposes_nothing() -> None:
    found = exposure(5.0, [5.0] * 254, space_bits=60)
    assert found.rank == 128
    assert found.sampled == pytest.approx(1, abs=0.01)
    assert found.low == 0
    assert (found.extrapolated, found.fit) == (None, None)


@pytest.mark.parametrize("secret", [-8.0, -1000.0])  # about 2^-50, and nothing at all
def test_no_figure_is_above_the_size_of_the_space(secret: float) -> None:
    found = exposure(secret, np.random.default_rng(0).normal(size=500).tolist(), space_bits=20)
    assert (found.high, found.extrapolated) == (20, 20)


def test_secrets_that_the_model_does_not_know_have_the_exposure_of_chance() -> None:
    rng = np.random.default_rng(1)
    bits = [exposure(x, rng.normal(size=200).tolist(), 60).sampled for x in rng.normal(size=300)]
    # Standard deviation 1.44: the mean of 300 is within 4 standard errors but once in 15,000.
    assert np.mean(bits) == pytest.approx(CHANCE, abs=4 * 1.44 / math.sqrt(300))
    assert np.mean(np.asarray(bits) >= 3) == pytest.approx(1 / 8, abs=0.08)


@pytest.mark.parametrize("share", [0.3, 0.02, 0.001])
def test_the_interval_holds_the_exposure_over_the_whole_space_95_times_in_100(share: float) -> None:
    below = np.random.default_rng(2).binomial(500, share, size=4000)
    ends = {k: clopper_pearson(k, 500) for k in set(below.tolist())}
    held = np.mean([ends[k][0] <= share <= ends[k][1] for k in below.tolist()])
    assert held >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 4000)
    few = exposure(0.0, [-1.0] * 10 + [1.0] * 490, 60)
    low, high = clopper_pearson(10, 500)
    assert (few.low, few.high) == pytest.approx((-math.log2(high), -math.log2(low)))


def test_extrapolation_finds_the_true_exposure_where_its_model_is_right() -> None:
    law = skewnorm(-2, loc=80, scale=12)
    others = law.rvs(size=4000, random_state=3).tolist()
    found = exposure(float(law.ppf(2.0**-20)), others, space_bits=60)
    assert found.extrapolated == pytest.approx(20, abs=2)
    assert found.fit is not None
    assert found.fit > 0.1


def test_a_wrong_model_is_told_by_its_fit() -> None:
    rng = np.random.default_rng(4)
    two = np.concatenate([rng.normal(0, 1, 500), rng.normal(12, 1, 500)])
    fit = exposure(-9.0, two.tolist(), 60).fit
    assert fit is not None
    assert fit < 0.001


def test_the_summary_is_json_by_repetitions() -> None:
    some = [("name", n, exposure(x, [1.0, 2.0, 3.0], 50)) for n, x in ((1, 0.0), (1, 4.0), (9, 0))]
    found = json.loads(json.dumps(summary(some)))
    assert found["by_repetitions"]["1"]["canaries"] == 2
    assert (found["by_repetitions"]["1"]["least"], found["by_repetitions"]["1"]["most"]) == (0, 2)
    assert found["by_repetitions"]["9"]["mean"] == 2
    assert [row["rank"] for row in found["canaries"]] == [1, 4, 1]
