"""Measured rates: which are used, which are not and why, and what they make of a plan."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privcode import cli
from privcode.config import Config, parse_config
from privcode.errors import UserError
from privcode.pipeline.cost import estimate
from privcode.pipeline.rates import (
    Doing,
    Rate,
    Rates,
    RatesFile,
    chosen_rates,
    rates_path,
    read_rates,
    this_device,
    versions,
)
from privcode.pipeline.work import LONGEST, STAGES, Lengths

VALUES: dict[str, Any] = {
    "data": {"source": "not-here.jsonl", "public": True},
    "privacy": {"epsilon": 4, "delta": 1e-6, "units": 1000, "batch": 100, "steps": 10},
    "prompts": {"source": "public", "file": "not-here.txt", "limit": 1000},
    "junior": {"model": "nobody/toy-1B", "dtype": "bfloat16", "max_tokens": 100},
    "sanitize": {"syntax": {"schedule": "off"}},
    "synthesize": {"max_new_tokens": 50, "batch_size": 100, "backend": "vllm"},
    "validate": {"round_trip": {"method": "off"}},
    "premium": {"model": "nobody/toy-7b-base", "dtype": "bfloat16", "max_tokens": 200},
    "boost": {"epochs": 2},
}


def config(**changes: object) -> Config:
    return parse_config(VALUES | changes)


def doings(chosen: Config) -> dict[str, Doing]:
    """The kinds of work in the first four stages, by stage."""
    counts = {chosen.prompts: 1}
    stages = ("sanitize", "synthesize", "boost")
    return {stage: STAGES[stage](chosen, counts, LONGEST)[0].doing for stage in stages}


def measured(chosen: Config, **speeds: float) -> Rates:
    """Rates by stage: tokens read a second. Writing is half as fast."""
    kinds = doings(chosen)
    table = {
        kinds[stage]: Rate(doing=kinds[stage], read=s, written=s / 2, tokens=1, seconds=1)
        for stage, s in speeds.items()
    }
    return Rates(table, {"python": 20.0}, "a card", "some.json")


def cost(chosen: Config, rates: Rates | None = None, **more: Any) -> dict[str, Any]:
    return estimate([("it", chosen, ())], rates, **more)


def test_a_measured_stage_takes_its_tokens_over_the_rate_and_the_others_stay_arithmetic() -> None:
    chosen = config()
    found = cost(chosen, measured(chosen, sanitize=1000, synthesize=500))
    (row,) = found["rows"]
    # 10 steps of 100 records of 100 tokens; 1,000 prompts of 100 tokens, and 50 new for each.
    assert row["stages"]["sanitize"] == 10 * 100 * 100 / 1000
    assert row["stages"]["synthesize"] == 1000 * 100 / 500 + 1000 * 50 / 250
    (plain,) = cost(chosen)["rows"]
    assert row["stages"]["boost"] == plain["stages"]["boost"]
    assert row["measured"] == pytest.approx(100 + 400)
    assert plain["measured"] == 0
    assert found["rates"] == {"device": "a card", "file": "some.json"}
    assert found["not_measured"] == ["tune nobody/toy-7b-base"]
    # Expected lengths (250 and 350, here more than the settings allow for a record) meet the rate,
    # too: the context is full, and answers are as long as they may be.
    assert row["expected"]["stages"]["sanitize"] == 100
    assert found["programs"] == {"count": 1000, "seconds": 50.0}
    assert cost(chosen)["programs"] == {"count": 1000, "seconds": None}


@pytest.mark.parametrize(
    "change",
    [
        {"junior": VALUES["junior"] | {"model": "nobody/other-1B"}},
        {"junior": VALUES["junior"] | {"dtype": "float32"}},
        {"junior": VALUES["junior"] | {"quantization": "4bit"}},
        {"junior": VALUES["junior"] | {"gradient_checkpointing": True}},
        {"junior": VALUES["junior"] | {"lora": {"r": 8}}},
        {"junior": VALUES["junior"] | {"max_tokens": 90}},
        {"sanitize": {"syntax": {"schedule": "decay"}}},
        {"sanitize": {"syntax": {"schedule": "off"}, "micro_batch": 4}},
    ],
)
def test_a_rate_of_other_work_is_not_used_for_training(change: dict[str, Any]) -> None:
    rates = measured(config(), sanitize=1e-3)
    (row,) = cost(config(**change), rates)["rows"]
    assert row["measured"] == 0
    (same,) = cost(config(), rates)["rows"]
    assert same["measured"] > 1e6


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "local"},
        {"batch_size": 99},
        {"vllm": {"tensor_parallel": 2}},
        {"vllm": {"quantization": "fp8"}},
    ],
)
def test_a_rate_of_another_backend_is_not_used_for_sampling(change: dict[str, Any]) -> None:
    rates = measured(config(), synthesize=1e-3)
    section = VALUES["synthesize"] | change
    (row,) = cost(config(synthesize=section), rates)["rows"]
    assert row["measured"] == 0


def test_gpus_that_share_a_model_all_count() -> None:
    shared = config(synthesize=VALUES["synthesize"] | {"vllm": {"tensor_parallel": 4}})
    (row,) = cost(shared, measured(shared, synthesize=500))["rows"]
    assert row["stages"]["synthesize"] == 4 * (1000 * 100 / 500 + 1000 * 50 / 250)
    assert row["wall"]["synthesize"]["seconds"] == 1000 * 100 / 500 + 1000 * 50 / 250


def test_expected_lengths_are_those_that_are_given_and_never_more_than_the_settings_allow() -> None:
    chosen = config()
    rates = measured(chosen, sanitize=1000, synthesize=500)
    (row,) = cost(chosen, rates, lengths=Lengths(20, 30))["rows"]
    assert row["expected"]["stages"]["sanitize"] == 10 * 100 * (20 + 30) / 1000
    assert row["expected"]["stages"]["synthesize"] == 1000 * 20 / 500 + 1000 * 30 / 250
    assert row["stages"]["sanitize"] == 100  # at most
    for lengths in (Lengths(1, 1), Lengths(100, 1), Lengths(1, 100), Lengths(1e6, 1e6)):
        (row,) = cost(chosen, lengths=lengths)["rows"]
        for key in ("tokens", "flops", "seconds"):
            assert row["expected"][key] <= row[key]
    assert row["expected"]["tokens"] == row["tokens"]


def test_the_file_of_public_prompts_says_how_long_they_are(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("x" * 30 + "\n" + "y" * 90 + "\n")
    chosen = config(prompts={"source": "public", "file": str(file)})
    found = cost(chosen, measured(chosen, synthesize=500), lengths=Lengths(70, 10))
    assert found["lengths"]["public"] == {str(file): 20}  # 60 bytes in the mean, at 3 each
    (row,) = found["rows"]
    assert row["expected"]["stages"]["synthesize"] == round(2 * 20 / 500 + 2 * 10 / 250, 1)
    # Records have prompts of their own.
    assert (
        row["expected"]["stages"]["sanitize"]
        == cost(config(), measured(config()), lengths=Lengths(70, 10))["rows"][0]["expected"][
            "stages"
        ]["sanitize"]
    )


def write(path: Path, **changes: Any) -> dict[str, Any]:
    kept = RatesFile(
        privcode_rates=1,
        device=this_device(),
        versions=versions(),
        rates=list(measured(config(), sanitize=1000).table.values()),
        programs={"python": 10},
    )
    values = json.loads(kept.model_dump_json()) | changes
    path.write_text(json.dumps(values))
    return values


def test_the_file_next_to_the_config_is_used(tmp_path: Path) -> None:
    at = tmp_path / "mine.yaml"
    assert chosen_rates(at) == (Rates(), "")
    write(rates_path(at))
    rates, ignored = chosen_rates(at)
    assert ignored == ""
    assert rates.path == str(tmp_path / "mine.rates.json")
    assert cost(config(), rates)["rows"][0]["stages"]["sanitize"] == 100


def test_rates_of_another_machine_are_used_only_when_they_are_named(tmp_path: Path) -> None:
    at = tmp_path / "mine.yaml"
    write(rates_path(at), device="another card")
    rates, ignored = chosen_rates(at)
    assert rates == Rates()
    assert ignored.count("\n") == 0
    assert "it is of another card, and this machine is" in ignored
    named, ignored = chosen_rates(at, rates_path(at))
    assert ignored == ""
    assert named.device == "another card"


def test_rates_of_other_versions_are_stale(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    write(file, versions=versions() | {"torch": "2.0.0"})
    rates, ignored = chosen_rates(tmp_path / "c.yaml", file)
    assert rates == Rates()
    assert f"{file}: not used: it is of torch 2.0.0 (here " in ignored
    # What is not installed here cannot be compared: vLLM has an environment of its own.
    write(file, versions=versions() | {"vllm": "9.9.9"})
    assert chosen_rates(tmp_path / "c.yaml", file)[1] == "" or "vllm" in versions()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"privcode_rates": 2}, "field privcode_rates"),
        ({"device": None}, "field device"),
        ({"more": 1}, "field more"),
        ({"device": "a\x1b[31m card"}, "field device"),
        ({"rates": [{}]}, "field rates.0.doing"),
        ({"programs": {"python": 0}}, "field programs.python"),
        ({"programs": {"python": -1}}, "field programs.python"),
        ({"programs": {"python": "fast"}}, "field programs.python"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = tmp_path / "r.json"
    write(file, **change)
    with pytest.raises(UserError, match=words) as refused:
        read_rates(file)
    assert "\n" not in str(refused.value)
    assert "doctor --measure" in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": NaN}', "null", '"\\ud800"'])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"r\.json"):
        chosen_rates(tmp_path / "c.yaml", file)
    with pytest.raises(UserError, match=r"none\.json"):
        chosen_rates(tmp_path / "c.yaml", tmp_path / "none.json")


def test_plan_says_what_is_measured_and_what_is_not(tmp_path: Path) -> None:
    at = tmp_path / "mine.yaml"
    at.write_text(yaml.safe_dump(VALUES))
    write(rates_path(at))
    done = CliRunner().invoke(cli.app, ["plan", str(at)])
    assert done.exit_code == 0, done.output
    assert f"at the rates in {rates_path(at)}, of {this_device()}" in done.output
    assert "measured: 2 min of 4 min" in done.output
    assert "by arithmetic: sample nobody/toy-1B, tune nobody/toy-7b-base" in done.output
    write(rates_path(at), device="another card")
    done = CliRunner().invoke(cli.app, ["plan", str(at)])
    assert "not used: it is of another card" in done.output
    rates_path(at).write_text("{")
    done = CliRunner().invoke(cli.app, ["plan", str(at)])
    assert done.exit_code != 0
