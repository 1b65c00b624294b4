"""Canaries are what they claim to be, and a leak is counted where it happened."""

import ast
import json
import math
from dataclasses import replace
from ipaddress import ip_address

import pytest

from privcode.audit import canaries as module
from privcode.audit.canaries import (
    KINDS,
    PLACES,
    Canary,
    candidates,
    leaks,
    plant,
    records,
    space_bits,
)
from privcode.errors import UserError

COUNTS = (1, 5, 10, 100)


def test_each_repetition_count_gets_one_canary_of_each_kind() -> None:
    planted = [(c.repetitions, c.kind) for c in plant(COUNTS, 3)]
    assert planted == [(n, kind) for n in COUNTS for kind in KINDS]


def test_the_same_seed_plants_the_same_canaries_and_another_seed_shares_no_secret() -> None:
    assert plant(COUNTS, 3) == plant(COUNTS, 3)
    assert not {c.secret for c in plant(COUNTS, 3)} & {c.secret for c in plant(COUNTS, 4)}


def test_secrets_and_prompts_are_unique_over_many_seeds() -> None:
    many = [c for seed in range(300) for c in plant(COUNTS, seed)]
    assert len({c.secret for c in many}) == len(many) == 300 * 20
    assert len({c.prompt for c in plant(COUNTS, 0)}) == 20


def test_the_secret_is_verbatim_in_a_completion_that_is_python_and_not_in_the_prompt() -> None:
    for canary in plant(COUNTS, 3):
        ast.parse(canary.completion)
        assert canary.completion.count(canary.secret) == 1
        assert canary.secret not in canary.prompt


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_space_is_that_of_what_is_drawn_from(kind: str) -> None:
    parts = module._SPACES[kind]
    for part in parts:  # different choices, all of one length: no two draws spell the same secret
        assert len(set(part)) == len(part)
        assert len({len(choice) for choice in part}) == 1
    assert 2 ** space_bits(kind) == pytest.approx(math.prod(len(part) for part in parts))
    assert space_bits(kind) >= 48
    secrets = [c.secret for seed in range(200) for c in plant((1,), seed) if c.kind == kind]
    for secret in secrets:
        start = 0
        for part in parts:
            width = len(part[0])
            assert secret[start : start + width] in part
            start += width
        assert start == len(secret)


def test_candidates_are_other_secrets_in_the_canary_s_own_pair() -> None:
    for canary in plant((1, 10), 3, PLACES):
        found = candidates(canary, 200, seed=3)
        assert found == candidates(canary, 200, seed=3)
        assert len({other.secret for other in found}) == 200
        assert canary not in found
        for other in found:
            assert len(other.secret) == len(canary.secret)
            assert replace(other, secret=canary.secret) == canary


def test_a_secret_stands_in_its_place_and_nowhere_else() -> None:
    planted = plant(COUNTS, 3, ("both", "code", "prompt"))
    assert [c for c in planted if c.place == "code"] == plant(COUNTS, 3)
    assert len({c.secret for c in planted}) == len(planted) == 3 * 5 * len(COUNTS)
    for canary in planted:
        assert (canary.secret in canary.prompt) == (canary.place != "code")
        assert (canary.secret in canary.completion) == (canary.place != "prompt")
        ast.parse(canary.completion)


def test_nobody_is_asked_a_question_that_holds_the_secret() -> None:
    for canary in plant(COUNTS, 3, PLACES):
        asked = canary.asked("Go.")
        assert not any(canary.secret in text for question in asked for text in question)
        begun = [begun for prompt, begun in asked if prompt == "Go."]
        assert begun == ([] if canary.place == "code" else [canary.prompt.split(canary.secret)[0]])


def test_a_secret_is_ranked_by_all_that_holds_it() -> None:
    for canary in plant(COUNTS, 3, PLACES):
        answers = [pair.completion for pair in canary.pairs("Go.")]
        wanted = {"code": [canary.completion], "prompt": [canary.prompt]}
        both = [canary.prompt, canary.completion]
        assert answers == wanted.get(canary.place, both)
    one, ten = (candidates(c, 50, seed=3) for c in plant((1, 10), 3) if c.kind == "name")
    assert not set(one) & set(ten)


def test_addresses_cannot_belong_to_anybody() -> None:
    for canary in plant(COUNTS, 3):
        if canary.kind == "ip":
            assert not ip_address(canary.secret).is_global
            assert str(ip_address(canary.secret)) == canary.secret
        if canary.kind == "email":
            assert canary.secret.endswith(".example")


def test_each_repetition_is_a_record_and_a_unit_of_its_own() -> None:
    planted = records(plant(COUNTS, 3))
    assert len(planted) == 5 * sum(COUNTS)
    assert len({r.unit for r in planted}) == len(planted)
    assert all(r.unit.kind == "canary" for r in planted)
    assert {(r.language, r.row) for r in planted} == {("python", 0)}


@pytest.mark.parametrize("counts", [(0,), (1, 1), (5, -2)])
def test_a_count_below_one_or_given_twice_is_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        plant(counts, 0)


def test_leaks_are_counted_by_repetitions_and_by_kind() -> None:
    canaries = plant((1, 10), 3)
    texts = iter([f"x = '{canaries[5].secret}'", canaries[5].secret + canaries[7].secret, "pass"])
    result = leaks(canaries, texts)
    assert (result["planted"], result["leaked"]) == (10, 2)
    assert result["by_repetitions"] == {
        "1": {"planted": 5, "leaked": 0},
        "10": {"planted": 5, "leaked": 2},
    }
    leaked = {kind: counts["leaked"] for kind, counts in result["by_kind"].items()}
    assert leaked == {"email": 1, "name": 0, "ip": 1, "password": 0, "username": 0}


def test_only_a_verbatim_secret_counts() -> None:
    canary = Canary("name", "p", "Mira Tolvane", 1)
    assert leaks([canary], ["mira tolvane", "Mira", "Tolvane", "Mira  Tolvane"])["leaked"] == 0
    assert leaks([canary], ["say Mira Tolvane!"])["leaked"] == 1


def test_the_result_is_json_and_holds_no_secret() -> None:
    canaries = plant(COUNTS, 3)
    text = json.dumps(leaks(canaries, [c.completion for c in canaries]))
    assert json.loads(text)["leaked"] == 20
    assert not any(c.secret in text for c in canaries)
