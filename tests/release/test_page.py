"""The page: self-contained, escaped, and honest about what it lacks."""

import re
from dataclasses import replace
from typing import Any

import pytest

from privcode.privacy import make_plan
from privcode.privacy.accounting import Spent
from privcode.release.evidence import Evidence
from privcode.release.page import card, guarantee, page
from privcode.release.pictures import wilson

PLAN = make_plan(
    epsilon=None, noise_multiplier=1.5, delta=1e-5, units=500, batch=5, steps=3, clip_norm=1.0
)
PLAIN = Evidence(
    title="run",
    plan=PLAN,
    spent=(PLAN.spent(),),
    others=(),
    prompts="p.jsonl",
    junior="small",
    premium="large",
    filters={
        "execution": True,
        "round_trip": {"method": "off", "threshold": 0.0},
        "surest": 1.0,
    },
    evaluation={},
    audit=None,
    versions={"privcode": "0.1.0"},
)


def evidence(**changes: Any) -> Evidence:
    return replace(PLAIN, **changes)


def test_the_page_states_the_guarantee_and_fetches_nothing() -> None:
    text = page(evidence())
    assert f"ε = {PLAN.cost().epsilon:.4g}, δ = 1e-05" in text
    assert "privcode verify" in text
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(\s*['\"]?http", text)


def test_a_run_without_dp_says_that_there_is_no_guarantee() -> None:
    assert "No guarantee." in page(evidence(spent=()))
    assert guarantee(evidence(spent=()))["epsilon"] is None


def test_a_run_without_noise_says_that_there_is_no_guarantee() -> None:
    text = page(evidence(plan=replace(PLAN, noise_multiplier=0.0), spent=(Spent(0.01, 0.0, 3),)))
    assert "trained without noise" in text
    assert "more than e<sup>" not in text


def test_owners_and_other_runs_are_named() -> None:
    plan = replace(PLAN, owner_column="author", max_records_per_unit=4)
    text = page(evidence(plan=plan, others=(Spent(0.25, 3.0, 77),)))
    assert "all records of one owner (column author; at most 4 of them are used)" in text
    assert "77 steps, rate 0.25, noise 3" in text


def test_any_pass_at_k_is_shown() -> None:
    found = {"t": {"base": {"pass@10": 0.5, "pass@5": 0.25, "tasks": 4, "errors": {}}}}
    text = page(evidence(evaluation=found))
    assert text.index('<th class="n">pass@5') < text.index('<th class="n">pass@10')
    assert "pass@1<" not in text


def test_text_from_outside_is_shown_as_text() -> None:
    bad = "<script>alert(1)</script>"
    filters = PLAIN.filters | {"samples": 2, "accepted": 1, "reasons": {bad: 1}}
    found = {bad: {bad: {"pass@1": 0.5, "tasks": 4, "errors": {bad: 2}}}}
    names = evidence(
        title=bad, prompts=f"{bad[:-9]}.jsonl", junior=bad, premium=bad, filters=filters
    )
    audit = {"samples_per_prompt": 1, "places": {bad: {"by_repetitions": {}}}}
    whole = replace(names, evaluation=found, audit=audit, versions={"privcode": bad})
    for text in (page(whole), card(names, 1)):
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_pictures_take_dollars_and_long_names() -> None:
    filters = PLAIN.filters | {"samples": 9, "accepted": 1, "reasons": {"$x_$": 1, "e" * 90: 7}}
    assert "$x_$" in page(evidence(filters=filters))


def test_exposure_is_drawn_and_listed_where_it_was_measured() -> None:
    group = {"canaries": 5, "mean": 3.25, "least": 1.0, "most": 6.0, "extrapolated": 41.5}
    flat = {**group, "mean": 1.5, "extrapolated": None}
    models = {
        "junior": {"by_repetitions": {"1": group, "10": group}},
        "junior, before tuning": {"by_repetitions": {"1": flat, "10": flat}},
    }
    place = {"by_repetitions": {n: {"planted": 5, "leaked": 0} for n in ("1", "10")}}
    audit: dict[str, Any] = {"samples_per_prompt": 1, "places": {"anywhere": place}}
    assert "Exposure" not in page(evidence(audit=audit))
    assert "Exposure" not in page(evidence(audit=audit | {"exposure": None}))
    found = {"candidates": 1000, "models": models}
    text = page(evidence(audit=audit | {"exposure": found}))
    assert "Exposure" in text
    assert text == page(evidence(audit=audit | {"exposure": found}))
    assert '<td class="n">3.2 (41.5)</td>' in text
    assert '<td class="n">1.5</td>' in text
    assert "log<sub>2</sub> 1001" in text


def test_a_card_is_yaml_that_names_the_data() -> None:
    import yaml

    text = card(evidence(title='a "quoted": run'), 7)
    front = yaml.safe_load(text.split("---")[1])
    assert front["pretty_name"] == 'a "quoted": run'
    assert front["configs"][0]["data_files"][0]["path"] == "data/*.parquet"
    assert "7 synthetic" in text


@pytest.mark.parametrize(
    ("rate", "n", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (0.5, 100, 0.4038, 0.5962), (1.0, 20, 0.8389, 1.0)],
)
def test_intervals_are_wilson_s(rate: float, n: int, low: float, high: float) -> None:
    assert wilson(rate, n) == pytest.approx((low, high), abs=1e-4)


def test_lower_bounds_stand_beside_the_claim_with_or_without_planted_secrets() -> None:
    bound = {"canaries": 300, "guesses": [30, 9], "right": [28, 9], "confidence": 0.95}
    bound |= {"epsilon": 1.234, "epsilon_same_shape": None}
    text = page(evidence(audit={"one_run": {"the <junior>": bound}}))
    assert "What an attack showed" in text
    assert "the &lt;junior&gt;" in text
    assert "28 of 30, 9 of 9" in text
    assert "1.234" in text
    assert "Planted secrets" not in text
    assert guarantee(evidence(audit={"one_run": {"x": bound}}))["epsilon_lower_bounds"] == {
        "x": bound
    }
    assert "What an attack showed" not in page(evidence())
