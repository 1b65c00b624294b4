"""Prompts that a model writes: prompt and code of a record are learned under one plan."""

import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from privcode.config import Config, load_config, with_settings
from privcode.data.prompts import Lessons
from privcode.data.records import Record, Unit, stored, units_of
from privcode.data.settings import Prompts
from privcode.errors import UserError
from privcode.exercises.corpus import private_records
from privcode.files import read_json, read_jsonl, write_jsonl
from privcode.models import asking, attach_lora, load_model, load_tokenizer
from privcode.pipeline import results
from privcode.pipeline.budget import settings_digest
from privcode.pipeline.changes import fixed
from privcode.pipeline.run import Run
from privcode.pipeline.stages.boost import private_pairs
from privcode.privacy.plan import make_plan
from privcode.release.bundle import model_files
from privcode.release.verify import verify_bundle
from privcode.training.examples import collate, encode
from privcode.training.loss import per_example_losses

SOURCES = ("synthesised", "latent", "described")
CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 100, batch: 8, steps: 3,
          noise: reproducible}
prompts: {source: synthesised, limit: 300, opening: "A problem, please.", max_new_tokens: 20}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
synthesize: {max_new_tokens: 20, batch_size: 100}
validate: {execution: {enabled: false}, round_trip: {threshold: -99}}
premium: {model: "bundled:premium"}
boost: {epochs: 1, micro_batch: 8, batch_size: 8, limit: 8}
audit: {repetitions: [1], places: [code, prompt, both], samples: 1, candidates: 3,
        max_new_tokens: 20}
"""


def record(prompt: str = "P", code: str = "x = 1\n", unit: str = "u") -> Record:
    return Record(prompt, code, "python", Unit("owner", unit), 1)


def section(source: str, **more: Any) -> Prompts:
    return Prompts.model_validate({"source": source, "limit": 9, "opening": "Go."} | more)


@pytest.fixture(params=SOURCES)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    write_jsonl(tmp_path / "private.jsonl", private_records(100, seed=1))
    text = CONFIG.replace("source: synthesised", f"source: {request.param}")
    (tmp_path / "privcode.yaml").write_text(text)
    return load_config(tmp_path / "privcode.yaml")


def test_prompt_and_code_are_taught_as_pairs_of_the_records_own_unit() -> None:
    one = record()
    assert list(Lessons([one], section("public", file="p.txt"))) == [one]
    prompt, code = Lessons([one], section("synthesised"))
    assert (prompt.prompt, prompt.completion, prompt.language) == ("Go.", "P", None)
    assert code == one
    assert list(Lessons([one], section("described"))) == [replace(one, prompt="Go.")]
    assert {pair.unit for pair in (prompt, code)} == {one.unit}


@pytest.mark.parametrize("source", ["public", *SOURCES])
def test_pairs_are_the_same_whether_they_are_asked_for_one_by_one_or_all(source: str) -> None:
    records = [record(f"P{n}", unit=f"u{n // 2}") for n in range(5)]
    file = {"file": "p.txt"} if source == "public" else {}
    pairs, held = (Lessons(some, section(source, **file)) for some in (records, stored(records)))
    assert list(pairs) == list(held) == [held[n] for n in range(len(held))] == held[:]
    assert len(held) == held.each * 5
    assert held[-1] == list(held)[-1]
    by_name: dict[Unit, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_name.setdefault(pair.unit, []).append(index)
    for some in (pairs, held):
        assert [list(unit) for unit in units_of(some)] == list(by_name.values())


@pytest.mark.parametrize("source", ["public", *SOURCES])
def test_without_privacy_prompts_are_learned_where_they_are_secret(
    source: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "private.jsonl", private_records(10, seed=1))
    (tmp_path / "prompts.txt").write_text("P\n")
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    values = {"method": "nondpft", "data.public": True, "prompts.source": source}
    values |= {"prompts.file": str(tmp_path / "prompts.txt")} if source == "public" else {}
    config = with_settings(load_config(tmp_path / "privcode.yaml"), values, "test")
    with Run(config, tmp_path / "run") as run:
        found, number = private_pairs(run)
        pairs = list(found)
    assert len(pairs) == number
    records = [(row["prompt"], row["code"]) for row in private_records(10, seed=1)[:8]]
    # Where the prompt is described, code alone is learned under DP.
    secret = source in ("synthesised", "latent")
    written = [("A problem, please.", prompt) for prompt, _ in records]
    assert set(records) <= set(pairs)
    assert (set(written) <= set(pairs)) == secret
    assert len(pairs) == (8 + 15) * (1 + secret)  # 15 canaries


def test_one_record_moves_the_sum_by_one_clip_norm_with_prompt_and_code_together() -> None:
    model = attach_lora(load_model("bundled:junior"), 2, 4, 0.0)
    tokenizer = load_tokenizer("bundled:junior")
    put = asking("Question: {prompt}\nAnswer:", tokenizer)
    records = [record(f"Add {n} to x.", f"x += {n}\n", f"u{n}") for n in range(3)]
    pairs = Lessons(records, section("synthesised"))
    examples = [encode(pair, put(pair.prompt), tokenizer, 64)[0] for pair in pairs]
    plan = make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-4, units=3, batch=3, steps=1, clip_norm=1e-3
    )
    clipper = plan.clipper(model)
    clipper.divide(pairs.each)
    units = units_of(pairs)
    assert [len(unit) for unit in units] == [2, 2, 2]

    def summed(chosen: list[list[int]]) -> torch.Tensor:
        for unit in chosen:
            batch = collate([examples[index] for index in unit], tokenizer.pad_token_id)
            with clipper.recording(len(unit)):
                per_example_losses(model, batch, 1.0).sum().backward()
            clipper.accumulate(torch.tensor([0, 1]))
        return clipper.take_sum()

    whole, last = summed(units) - summed(units[:-1]), summed(units[-1:])
    assert torch.equal(whole, last)
    # Both parts of the record are far longer than their share of the clip norm.
    assert plan.clip_norm / 2 < float(whole.norm()) <= plan.clip_norm


def test_a_run_needs_no_prompts_file_and_its_bundle_says_what_is_covered(config: Config) -> None:
    root = Path(config.data.source).parent
    with Run(config, root / "run") as run:
        run.all()
        source = config.prompts.source
        rows = [row for _, row in read_jsonl(run.raw)]
        assert rows
        assert len({row["prompt"] for row in rows}) > 20
        assert all(row["prompt"].strip() for row in rows)
        assert not any(row["prompt"] == config.prompts.opening for row in rows)
        assert [p.name for p in run.raw.parent.iterdir() if p.name.startswith(".")] == []
        places = read_json(run.evaluation / "audit.json")["places"]
        assert {
            f"anywhere, of those in {place}" for place in ("the code", "the prompt", "both")
        } < {*places}
        assert places["anywhere"]["planted"] == 15
        found = results.leaks_by_place(run)
        assert list(found) == ["code", "prompt", "both"]
        for place in found.values():
            assert place["leaks"]["1"]["planted"] == 5
            assert {*place["exposure"]} == {"junior", "tuned model"}
            assert all(0 <= bits["1"] <= 2 for bits in place["exposure"].values())  # of 4
        run.report()
        run.release(allow_reproducible_noise=True)
        facts = verify_bundle(run.bundle)
        assert facts["stated"]["prompts"] is None
        assert any("no prompt was taken as public" in line for line in facts["covered"])
        assert not any("the prompts," in line for line in facts["not_covered"])
        for name in ("README.md", "report.html"):
            assert "written by a model, after the mechanism" in (run.bundle / name).read_text()
        assert results.verify(run)["steps"] == 3
        assert source in SOURCES
        assert (run.junior / "latent.safetensors").exists() == (source == "latent")


def test_a_model_that_writes_no_prompts_has_no_vector_and_can_be_released(config: Config) -> None:
    out = Path(config.data.source).parent / "dpft"
    with Run(with_settings(config, {"method": "dpft"}, "test"), out) as run:
        run.do("sanitize")
        model_files([path.name for path in run.premium.iterdir()], str(run.premium))


@pytest.mark.parametrize(
    "config",
    [
        pytest.param("synthesised", marks=pytest.mark.slow),
        "latent",
        pytest.param("described", marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_a_killed_synthesis_goes_on_with_the_prompts_it_has(config: Config) -> None:
    """Killed after the prompts, and in the middle of the code: the same bytes as at one go."""
    root = Path(config.data.source).parent
    whole = root / "whole"
    with Run(config, whole) as run:
        run.do("sanitize")
        run.do("synthesize")
        wanted = run.raw.read_bytes()
    for copy, pattern in (("first", ".written.jsonl"), ("second", "*.partial")):
        shutil.copytree(whole, root / copy, ignore=shutil.ignore_patterns("synthetic"))
        with Run.open(root / copy) as run:
            run.note("stages", {"sanitize": run.done()["sanitize"]})
        process = multiprocessing.get_context("spawn").Process(target=_go_on, args=(root / copy,))
        process.start()
        while not list((root / copy / "synthetic").glob(pattern)):
            assert process.is_alive()
            time.sleep(0.002)
        process.kill()
        process.join()
        with Run.open(root / copy) as run:
            run.do("synthesize")
            assert run.raw.read_bytes() == wanted


def _go_on(out: Path) -> None:
    with Run.open(out) as run:
        run.do("synthesize")


def test_what_was_trained_on_cannot_change_and_how_many_are_written_can(config: Config) -> None:
    other = next(source for source in SOURCES if source != config.prompts.source)
    for field, value in (("source", other), ("opening", "Another opening.")):
        changed = with_settings(config, {f"prompts.{field}": value}, "test")
        assert "decide what sanitize trains on" in (fixed(config, changed, ()) or "")
        assert settings_digest(changed.model_dump(by_alias=True)) != settings_digest(
            config.model_dump(by_alias=True)
        )
    wider = with_settings(config, {"prompts.latent.size": 5}, "test")
    assert (fixed(config, wider, ()) is None) == (config.prompts.source != "latent")
    more = with_settings(config, {"prompts.limit": 7}, "test")
    assert fixed(config, more, ("sanitize",)) is None
    assert settings_digest(more.model_dump(by_alias=True)) == settings_digest(
        config.model_dump(by_alias=True)
    )


def test_a_public_run_has_the_settings_digest_that_it_had_before_there_was_a_choice() -> None:
    values: dict[str, Any] = {name: {} for name in ("data", "privacy", "sanitize", "junior")}
    values |= {"method": "privcode", "audit": {"seed": 0}}
    before = settings_digest(values | {"prompts": {"source": "public", "file": "p"}})
    now = {"source": "public", "file": "p", "opening": "Any.", "limit": 3}
    places = {"audit": {"seed": 0, "places": ["code"]}}
    assert settings_digest(values | {"prompts": now} | places) == before
    places = {"audit": {"seed": 0, "places": ["prompt"]}}
    assert settings_digest(values | {"prompts": now} | places) != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "public"}, "file: name the file of public prompts"),
        ({"limit": None}, "limit: say how many prompts to write"),
        ({"opening": " "}, "opening: .*give the junior a public text"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Prompts.model_validate({"source": "synthesised", "limit": 9} | changes)


def test_only_the_local_backend_puts_embeddings_before_a_text(config: Config) -> None:
    settings = {"prompts.source": "latent", "synthesize.backend": "vllm"}
    with pytest.raises(UserError, match=r"synthesize\.backend: prompts\.source latent .*local"):
        with_settings(config, settings, "test")


def test_gaps_in_private_code_are_no_prompts_to_learn(config: Config) -> None:
    settings = {"junior.template": "fim", "premium.template": "fim"}
    with pytest.raises(UserError, match=r"prompts\.source: is .*name a file"):
        with_settings(config, settings, "test")
