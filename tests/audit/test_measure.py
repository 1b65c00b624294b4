"""The attacks see what was memorised, and nothing where there is nothing to see."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privcode.audit.canaries import plant
from privcode.audit.coin_canaries import records as planted_by_coin
from privcode.audit.coin_canaries import throw
from privcode.audit.measure import Target, black_box, exposures, membership, sides, white_box
from privcode.config import parse_config
from privcode.data.records import Record, Unit
from privcode.errors import UserError
from privcode.generation.local import LocalGenerator
from privcode.models import load_adapter, load_model, load_tokenizer
from privcode.models.settings import Model
from privcode.privacy.plan import make_plan
from privcode.training.settings import Boost
from privcode.training.tuning import boost


def asking(prompt: str) -> str:
    return f"Question: {prompt}\n\nAnswer:\n"


CANDIDATES = 150


def untuned() -> LocalGenerator:
    return LocalGenerator(load_model("bundled:junior"), load_tokenizer("bundled:junior"))


def tune(folder: Path, pairs: list[tuple[str, str]], epochs: int) -> Callable[[], LocalGenerator]:
    """The junior after plain tuning on `pairs`, without privacy."""
    rendered = [(asking(prompt), code) for prompt, code in pairs]
    boost(
        load_model("bundled:junior"),
        load_tokenizer("bundled:junior"),
        rendered,
        Model(model="bundled:junior", max_tokens=512),
        Boost(
            epochs=epochs,
            learning_rate=5e-3,
            batch_size=8,
            micro_batch=8,
            warmup_ratio=0.0,
        ),
        folder / "checkpoints",
        folder / "adapter",
    )
    model = load_adapter(load_model("bundled:junior"), folder / "adapter")
    return lambda: LocalGenerator(model, load_tokenizer("bundled:junior"))


def target(tuned: Callable[[], LocalGenerator], max_tokens: int = 512) -> Target:
    return Target("model", lambda prompts: prompts, tuned, untuned, asking, max_tokens, 32)


def by_kind(found: dict[str, Any]) -> dict[str, float]:
    return {row["kind"]: row["sampled"] for row in found["canaries"]}


def test_a_memorised_secret_is_exposed_and_the_others_are_not(tmp_path: Path) -> None:
    planted = plant((3,), seed=1)
    known = [c for c in planted if c.kind in ("email", "password")]
    tuned = tune(tmp_path, [(c.prompt, c.completion) for c in known] * 8, epochs=12)
    done: list[int] = []
    found = exposures(planted, [target(tuned)], "Go.", CANDIDATES, 7, done.append)
    assert found is not None
    assert sum(done) == 2 * (CANDIDATES + 1) * len(planted)
    after, before = found["models"]["model"], found["models"]["model, before tuning"]
    bits = by_kind(after)
    most = round(math.log2(CANDIDATES + 1), 3)
    assert bits["email"] == bits["password"] == most
    # 3 unknown secrets: each above 6 bits once in 64 draws.
    assert max(bits["name"], bits["ip"], bits["username"]) < 6
    assert max(by_kind(before).values()) < 6
    for row in after["canaries"]:
        assert row["low"] <= row["sampled"] <= row["high"]
        if row["kind"] in ("email", "password"):
            assert row["extrapolated"] > most


def test_a_memorised_prompt_is_exposed_and_so_is_a_secret_in_both(tmp_path: Path) -> None:
    planted = plant((3,), 1, ("prompt", "both"))
    known = [c for c in planted if c.kind in ("email", "password")]
    pairs = [(p.prompt, p.completion) for canary in known for p in canary.pairs("Go.")]
    tuned = tune(tmp_path, pairs * 8, epochs=12)
    done: list[int] = []
    found = exposures(planted, [target(tuned)], "Go.", CANDIDATES, 7, done.append)
    assert found is not None
    assert sum(done) == 2 * (CANDIDATES + 1) * 15  # five in prompts, five in prompt and code
    most = round(math.log2(CANDIDATES + 1), 3)
    for place in ("the prompt", "both"):
        bits = by_kind(found["models"][f"model, of those in {place}"])
        assert bits["email"] == bits["password"] == most
        assert max(bits["name"], bits["ip"], bits["username"]) < 6
    assert len(found["models"]["model"]["canaries"]) == 10


def test_an_untuned_model_ranks_secrets_uniformly() -> None:
    planted = plant((1, 2, 3, 4), seed=2)
    found = exposures(planted, [target(untuned)], "Go.", 60, 8, lambda n: None)
    assert found is not None
    ranks = sorted(row["rank"] / 61 for row in found["models"]["model"]["canaries"])
    # Kolmogorov–Smirnov at 1 in 1,000 for 20 draws: 0.42.
    assert max(abs((i + 0.5) / 20 - rank) for i, rank in enumerate(ranks)) < 0.42
    # Mean of 20 exposures: Gamma; 0.6 … 2.9 holds but for about 1 in 1,000.
    mean = sum(row["sampled"] for row in found["models"]["model"]["canaries"]) / 20
    assert 0.6 < mean < 2.9


def test_no_candidates_is_no_exposure() -> None:
    assert exposures(plant((1,), 0), [target(untuned)], "Go.", 0, 0, lambda n: None) is None


def records(n: int, seed: int) -> list[Record]:
    """`n` records with something in each that no rule tells, two a unit."""
    canaries = plant(range(1, n + 1), seed)[:n]
    return [
        Record(c.prompt, c.completion, "python", Unit("owner", f"u{seed}-{i // 2}"), i)
        for i, c in enumerate(canaries)
    ]


def test_membership_is_seen_where_records_were_memorised_and_not_before(tmp_path: Path) -> None:
    inside, outside = records(40, 1), records(40, 2)
    tuned = tune(tmp_path, [(r.prompt, r.completion) for r in inside], epochs=20)
    members, others = sides(inside, outside, seed=0)
    assert len(members) == len(others) == 20
    done: list[int] = []
    attacked = [target(tuned), Target("same", lambda p: p, untuned, untuned, asking, 512, 32)]
    facts, curves = membership(members, others, attacked, done.append)
    assert sum(done) == 2 * 2 * 80
    for score in ("loss", "min-20%", "reference"):
        assert facts["models"]["model"][score]["auc"]["low"] > 0.6
        # Neither model saw them: the interval misses one half in 1 of 20 draws; the seed is fixed.
        null = facts["models"]["same"][score]["auc"]
        assert null["low"] <= 0.5 <= null["high"]
    assert set(curves) == {f"{m}, {s}" for m in ("model", "same") for s in facts["models"]["model"]}


def test_units_are_scored_whole_and_records_longer_than_the_context_left_aside() -> None:
    members = [records(2, 1)]
    others = [records(2, 2), [Record("p", "x = 1\n" * 400, "python", Unit("owner", "long"), 0)]]
    facts, curves = membership(members, others, [target(untuned)], lambda n: None)
    assert (facts["members"], facts["non_members"]) == (1, 2)
    assert len(curves["model, loss"][0]) <= 1 + 2
    assert membership([], others, [target(untuned)], lambda n: None)[1] == {}
    # The draw may hold nobody out, and a public exit code must not tell.
    assert membership([], [], [target(untuned)], lambda n: None)[1] == {}


@pytest.mark.parametrize("held_out", [0, 6])
def test_as_many_members_are_drawn_as_units_are_held_out(held_out: int) -> None:
    members, others = sides(records(40, 1), records(2 * held_out, 2), seed=0)
    assert len(members) == len(others) == held_out
    assert all(len(unit) == 2 for unit in (*members, *others))


PLAN = make_plan(epsilon=None, noise_multiplier=2.65, delta=1e-5, units=2000, batch=1000, steps=20)


def test_gradient_canaries_that_show_their_coins_are_above_any_claim_others_bound_nothing() -> None:
    rng = np.random.default_rng(0)
    coins = rng.random(2000) < 0.5
    seen = coins + 0.01 * rng.standard_normal(2000)
    found = white_box(seen.tolist(), coins.tolist(), PLAN)
    assert found["epsilon_same_shape"] > found["epsilon"] > PLAN.cost().epsilon
    assert found["canaries"] == 2000
    nothing = white_box(rng.standard_normal(2000).tolist(), coins.tolist(), PLAN)
    assert (nothing["epsilon"], nothing["epsilon_same_shape"]) == (0.0, 0.0)


@pytest.mark.slow
def test_a_model_that_learned_its_coin_canaries_without_privacy_gives_the_coins_away(
    tmp_path: Path,
) -> None:
    thrown = throw(60, 1)
    pairs = [(record.prompt, record.completion) for record in planted_by_coin(thrown)]
    learned = black_box(thrown, [target(tune(tmp_path, pairs, 40))], PLAN, lambda examples: None)[
        "model"
    ]
    assert learned["guesses"] == (6, 60)
    assert learned["right"][1] >= 55
    assert learned["epsilon"] > 1
    untouched = black_box(thrown, [target(untuned)], PLAN, lambda examples: None)["model"]
    assert (untouched["epsilon"], untouched["epsilon_same_shape"]) == (0.0, 0.0)


def test_more_than_half_of_the_units_cannot_be_held_out() -> None:
    values = {
        "data": {"source": "x"},
        "privacy": {"delta": 1e-6, "units": 1000},
        "prompts": {"source": "public", "file": "y"},
        "junior": {"model": "bundled:junior"},
        "premium": {"model": "bundled:premium"},
    }
    assert parse_config(values | {"audit": {"holdout": 500}}).audit.holdout == 500
    with pytest.raises(UserError, match=r"audit\.holdout"):
        parse_config(values | {"audit": {"holdout": 501}})
