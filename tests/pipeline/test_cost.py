"""What runs cost: the arithmetic, by hand and against torch's own count of operations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from privcode.audit import canaries
from privcode.config import Config, parse_config
from privcode.errors import UserError
from privcode.models import attach_lora, load_model
from privcode.pipeline.arms import arms
from privcode.pipeline.cost import estimate
from privcode.pipeline.work import BACKWARD, FORWARD, size

FAST = 312e12 * 0.3
"""Operations a second of the stated GPU at the stated share."""


def config(**changes: object) -> Config:
    values: dict[str, object] = {
        "data": {"source": "not-here.jsonl", "public": True},
        "privacy": {"epsilon": 4, "delta": 1e-6, "units": 1000, "batch": 100, "steps": 10},
        "prompts": {"source": "public", "file": "not-here.txt", "limit": 1000},
        "junior": {"model": "nobody/toy-1B", "dtype": "bfloat16", "max_tokens": 100},
        "sanitize": {"syntax": {"schedule": "off"}},
        "synthesize": {"max_new_tokens": 50, "batch_size": 100},
        "validate": {"round_trip": {"method": "off"}},
        "premium": {"model": "nobody/toy-7b-base", "dtype": "bfloat16", "max_tokens": 200},
        "boost": {"epochs": 2},
    }
    return parse_config(values | changes)


def one(**changes: object) -> dict[str, Any]:
    chosen = config(**changes)
    (row,) = estimate([(chosen.method, chosen, ())])["rows"]
    return row


def test_a_run_costs_what_a_hand_computes() -> None:
    row = one()
    # 10 steps of 100 records of 100 tokens, 4 operations for each of 1e9 weights.
    training = 10 * 100 * 100 * 4e9
    # 1000 prompts of 100 tokens read, 2 operations; 50 tokens each written, where 10 batches read
    # 2e9 bytes for each token at 0.3 of 2.04 TB/s: longer than the operations.
    reading, writing = 1000 * 100 * 2e9, 1000 * 50 * 2e9
    loading = 10 * 50 * 2e9 / (2.04e12 * 0.3)
    assert loading > writing / FAST
    # 2 epochs of 1000 pairs of 200 tokens, 4 operations: forward and back.
    boosting = 2 * 1000 * 200 * 4 * 7e9
    assert row["flops"] == pytest.approx(training + reading + writing + boosting)
    assert row["stages"] == {
        "sanitize": round(training / FAST, 1),
        "synthesize": round(reading / FAST + loading, 1),
        "validate": 0,
        "boost": round(boosting / FAST, 1),
    }
    assert row["tokens"] == 10 * 100 * 100 + 1000 * 150 + 2 * 1000 * 200
    assert row["memory"] == 14e9
    assert (row["runs"], row["dp_trainings"]) == (1, 1)


def test_the_syntax_term_and_checkpointing_are_one_more_forward_pass_each() -> None:
    plain = one()["stages"]["sanitize"]
    toy = {"model": "nobody/toy-1B", "dtype": "bfloat16", "max_tokens": 100}
    with_term = one(sanitize={"syntax": {"schedule": "decay"}})["stages"]["sanitize"]
    checkpointed = one(junior=toy | {"gradient_checkpointing": True})["stages"]["sanitize"]
    assert with_term == checkpointed == pytest.approx(1.5 * plain, abs=0.1)
    premium = {"model": "nobody/toy-7b-base", "dtype": "bfloat16", "max_tokens": 200}
    boosted = one(premium=premium | {"gradient_checkpointing": True})["stages"]["boost"]
    assert boosted == pytest.approx(1.5 * one()["stages"]["boost"], abs=0.1)


def test_a_batch_that_fills_the_card_takes_the_time_of_its_operations() -> None:
    row = one(synthesize={"max_new_tokens": 50, "batch_size": 1000})
    assert row["stages"]["synthesize"] == round(1000 * 150 * 2e9 / FAST, 1)


def test_describing_reads_the_code_once_for_each_sample_and_likelihood_the_prompt_twice() -> None:
    trip = {"describer": "nobody/words-2B", "dtype": "bfloat16", "batch_size": 10**6}
    sampled = {"method": "bertscore", "samples": 3, "max_new_tokens": 7}
    none = one()["tokens"]
    assert one(validate={"round_trip": trip | sampled})["tokens"] - none == 1000 * 3 * (50 + 7)
    assert one(validate={"round_trip": trip})["tokens"] - none == 1000 * (50 + 2 * 100)
    kept = sampled | {"backend": "vllm"}
    assert one(validate={"round_trip": trip | kept})["tokens"] - none == 1000 * (50 + 3 * 7)


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("synthesised", 10 * 100 * 100 + 1000 * (100 + 9)),  # learned and written
        ("described", 1000 * (50 + 9)),  # by the premium, from the code
    ],
)
def test_prompts_that_a_model_writes_are_paid_for(source: str, more: int) -> None:
    prompts = {"source": source, "limit": 1000, "max_new_tokens": 9}
    assert one(prompts=prompts)["tokens"] - one()["tokens"] == more


@pytest.mark.parametrize(
    ("method", "tokens"),
    [
        ("dpft", 10 * 100 * 200),  # the premium sees the private data
        ("nondpft", 2 * 300 * 200),  # 300 of the 1000 records
        ("jft", 2 * 300 * 200 + 10 * 100 * 200),
        ("control", 1000 * 150 + 2 * 1000 * 200),
        ("base", 0),
    ],
)
def test_each_method_pays_for_its_own_stages(method: str, tokens: int) -> None:
    assert one(method=method, boost={"epochs": 2, "limit": 300})["tokens"] == tokens


@pytest.mark.parametrize("method", ["dpft", "nondpft"])
def test_learning_secret_prompts_doubles_what_is_learned(method: str) -> None:
    secret = {"prompts": {"source": "synthesised", "limit": 1000}}
    assert one(method=method, **secret)["tokens"] == 2 * one(method=method)["tokens"]


def test_canaries_are_asked_for_and_ranked() -> None:
    planted = canaries.plant([1], 0)
    asked = 5 * 3 * 9 + 3 * sum(len(c.prompt) for c in planted)
    ranked = 2 * (4 + 1) * sum(len(c.prompt + c.completion) for c in planted)
    audit = {"repetitions": [1], "samples": 2, "max_new_tokens": 9}
    drawn = 10 * 0.1 * 5 * 100  # five records more among the private ones
    for candidates, more in ((0, 0), (4, ranked)):
        found = one(audit=audit | {"candidates": candidates})["tokens"] - one()["tokens"]
        assert found == pytest.approx(drawn + 2 * (asked + more))


@pytest.mark.parametrize("name", ["bundled:junior", "bundled:premium"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_torch_counts_as_many_operations(name: str, method: str) -> None:
    chosen = config(junior={"model": name, "lora": {"r": 1}}).junior
    model = load_model(name)
    assert size(chosen).base == model.num_parameters()
    ids = torch.randint(5, 1000, (2, 32))
    tokens = ids.numel() * model.num_parameters()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(ids)
    assert forward.get_total_flops() / tokens == pytest.approx(FORWARD, rel=0.02)
    if method == "lora":
        model = attach_lora(model, 1, 1, 0.0)
    with FlopCounterMode(display=False) as both:
        model(ids).logits.logsumexp(-1).sum().backward()
    assert both.get_total_flops() / tokens == pytest.approx(FORWARD + BACKWARD[method], rel=0.02)


def test_what_runs_have_in_common_is_counted_once() -> None:
    methods = ["privcode", "no-execution", "no-privsa"]
    chosen = config(sanitize={}, compare={"methods": methods, "seeds": [0, 1]})
    found = estimate([(a.method, a.config, a.taken) for a in arms(chosen).values()])
    rows = {row["name"]: row for row in found["rows"]}
    assert {name: (row["runs"], row["dp_trainings"]) for name, row in rows.items()} == {
        "privcode": (2, 2),
        "no-execution": (2, 0),
        "no-privsa": (2, 2),
    }
    assert list(rows["no-execution"]["stages"]) == ["validate", "boost"]
    assert (found["all"]["runs"], found["all"]["dp_trainings"]) == (6, 4)
    for key in ("flops", "tokens", "seconds"):
        assert found["all"][key] == pytest.approx(sum(row[key] for row in rows.values()))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("Qwen/Qwen2.5-Coder-1.5B", 1.5e9),
        ("Qwen/CodeQwen1.5-7B", 7e9),
        ("deepseek-ai/deepseek-coder-6.7b-base", 6.7e9),
        ("meta-llama/Llama-3.1-8B-Instruct", 8e9),
        ("nobody/toy-350m", 350e6),
    ],
)
def test_a_model_that_is_not_here_has_the_size_in_its_name(name: str, weights: float) -> None:
    found = size(config(junior={"model": name}).junior)
    assert (found.base, found.by_name) == (weights, True)


@pytest.mark.parametrize("name", ["nobody/toy", "nobody/toy-8x7B", "nobody/7bit-toy", "7B/toy"])
def test_a_name_without_a_size_is_not_guessed_at(name: str) -> None:
    with pytest.raises(UserError, match="its name has no size"):
        size(config(junior={"model": name}).junior)


def test_what_cannot_be_counted_is_named(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    chosen = {
        "prompts": {"source": "public", "file": str(prompts)},
        "premium": {"model": "nobody/toy"},
        "evaluate": {"tasks": [{"name": "t", "file": "not-here.jsonl"}]},
    }
    found = estimate([("privcode", config(**chosen), ())])
    assert found["not_counted"] == [
        f"synthesize, boost: {prompts} is not here; prompts.limit would tell how many",
        "evaluate: not-here.jsonl is not here",
    ]
    prompts.write_text("one\ntwo\ntwo\n")
    counted = estimate([("privcode", config(**chosen), ())])
    assert counted["not_counted"] == [
        "boost: nobody/toy: its config is not here, and its name has no size",
        "evaluate: not-here.jsonl is not here",
    ]
    assert counted["by_name"] == ["nobody/toy-1B"]
    assert counted["all"]["tokens"] - found["all"]["tokens"] == 2 * 150


@pytest.mark.parametrize(
    ("stage", "section", "field", "values"),
    [
        ("sanitize", "privacy", "steps", [10, 20, 40]),
        ("sanitize", "privacy", "batch", [10, 100, 200]),
        ("sanitize", "junior", "max_tokens", [50, 100, 2000]),
        ("synthesize", "synthesize", "samples_per_prompt", [1, 2, 4]),
        ("synthesize", "synthesize", "max_new_tokens", [10, 50, 4000]),
        ("boost", "boost", "epochs", [1, 2, 3]),
        ("boost", "premium", "max_tokens", [100, 200, 2000]),
    ],
)
def test_more_work_never_takes_less_time(
    stage: str, section: str, field: str, values: list[int]
) -> None:
    rows = []
    for value in values:
        whole = config().model_dump(by_alias=True)[section]
        rows.append(one(**{section: whole | {field: value}}))
    for taken in (
        [r["stages"][stage] for r in rows],
        [r["expected"]["stages"][stage] for r in rows],
    ):
        assert taken == sorted(taken)
    assert all(row["expected"]["seconds"] <= row["seconds"] for row in rows)
    assert rows[0]["stages"][stage] < rows[-1]["stages"][stage]
