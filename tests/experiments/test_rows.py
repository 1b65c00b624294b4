"""Rows of a comparison are kept: it goes on where only they are left."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from privcode.config import Config, load_config, parse_config, with_settings
from privcode.errors import UserError
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.experiments import compare as comparing
from privcode.experiments.compare import compare
from privcode.experiments.rows import identity, keep_row, kept_row
from privcode.files import write_jsonl
from privcode.pipeline.arms import Arm, arms

CONFIG = """\
data: {source: private.jsonl, language: python, public: true}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 60, batch: 8, steps: 2}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
synthesize: {max_new_tokens: 40}
validate: {execution: {enabled: false}, round_trip: {method: "off"}}
premium: {model: "bundled:premium", lora: {r: 2, alpha: 4}}
boost: {epochs: 1}
evaluate:
  tasks: [{name: house, file: tasks.jsonl, prelude: house.py, instruction: "{problem}"}]
  max_new_tokens: 40
compare: {methods: [base, control]}
"""


def prepared(folder: Path, **changes: Any) -> Config:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "private.jsonl", private_records(60, seed=1))
    write_jsonl(folder / "prompts.jsonl", public_prompts(20, seed=1))
    write_jsonl(folder / "tasks.jsonl", tasks(4, seed=1))
    (folder / "house.py").write_text(prelude())
    (folder / "c.yaml").write_text(CONFIG)
    return with_settings(load_config(folder / "c.yaml"), changes, "test")


def arm(**changes: Any) -> Arm:
    values: dict[str, Any] = {
        "data": {"source": "/a/d.jsonl", "public": True},
        "privacy": {"epsilon": 4, "delta": 1e-6, "units": 1000, "batch": 8},
        "prompts": {"source": "public", "file": "/a/p.jsonl"},
        "junior": {"model": "j"},
        "premium": {"model": "p"},
        "compare": {"methods": ["privcode"]},
    }
    return arms(parse_config(values | changes))["privcode-eps4"]


ROW = {"method": "privcode", "pass@1": 0.5, "grid": {"data.source": "/a/d.jsonl"}}


def test_a_row_is_found_again_and_holds_no_path(tmp_path: Path) -> None:
    assert kept_row(tmp_path, "a", arm()) is None
    keep_row(tmp_path, "a", arm(), ROW, 3.5)
    assert kept_row(tmp_path, "a", arm()) == {"row": ROW | {"grid": {}}, "seconds": 3.5}
    assert "/a/" not in (tmp_path / "rows" / "a.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"source": "/b/c/d.jsonl", "public": True}},  # another machine
        {"prompts": {"source": "public", "file": "/b/p.jsonl"}},
        {"prompts": {"source": "public", "file": "../b/p.jsonl"}},  # where the file is not there
        {"sanitize": {"seed": 0}},  # the default, spelled out
        {"compare": {"methods": ["base", "privcode"]}},
        {"scale": {"engine": "ray"}},
    ],
)
def test_an_arm_with_the_same_settings_elsewhere_takes_the_row(
    tmp_path: Path, changes: Any
) -> None:
    keep_row(tmp_path, "a", arm(), ROW, None)
    assert kept_row(tmp_path, "a", arm(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"source": "/a/other.jsonl", "public": True}},
        {"sanitize": {"learning_rate": 0.5}},
        {"junior": {"model": "other/j"}},
        {"audit": {"places": ["code", "prompt"]}},
        {"prompts": {"source": "public", "file": "/a/p.jsonl", "limit": 3}},
        {"evaluate": {"tasks": [{"name": "t", "file": "/a/t.jsonl"}]}},
    ],
)
def test_a_row_of_other_settings_is_refused(tmp_path: Path, changes: Any) -> None:
    keep_row(tmp_path, "a", arm(), ROW, None)
    with pytest.raises(UserError, match=r"rows/a\.json: is of other settings than arm a has now"):
        kept_row(tmp_path, "a", arm(**changes))


def test_values_inside_lists_are_part_of_what_an_arm_is() -> None:
    first, second = (
        arm(evaluate={"tasks": [{"name": "t", "file": "/a/t.jsonl", "mode": mode}]})
        for mode in ("instruct", "complete")
    )
    assert identity(first.config) != identity(second.config)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"row": 1}', "\x00"])
def test_a_broken_row_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"^[^\n]*rows/a\.json: [^\n]*$"):
        kept_row(tmp_path, "a", arm())


def test_an_edited_row_is_refused(tmp_path: Path) -> None:
    keep_row(tmp_path, "a", arm(), ROW, None)
    path = tmp_path / "rows" / "a.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(UserError, match="was changed after it was written"):
        kept_row(tmp_path, "a", arm())


@pytest.mark.slow
def test_a_comparison_goes_on_from_its_rows_alone_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(tmp_path / "one", **{"compare.methods": ["base"]})
    facts = compare(first, tmp_path / "one" / "out")
    assert facts["missing"] == []
    second = prepared(tmp_path / "two")
    out = tmp_path / "two" / "out"
    shutil.copytree(tmp_path / "one" / "out" / "rows", out / "rows")
    whole = compare(second, out)
    assert [row["method"] for row in whole["rows"]] == ["base", "control"]
    assert whole["rows"][:1] == facts["rows"]
    assert whole["seconds"] == pytest.approx(sum(row["seconds"] for row in whole["rows"]), abs=0.11)
    assert not (out / "base").exists()
    assert "| control |" in (out / "table.md").read_text()

    # From then on nothing is run: without its runs and its table the comparison is the same.
    shutil.rmtree(out / "control")
    (out / "results.json").unlink()
    monkeypatch.setattr(comparing, "_start", None)
    assert compare(second, out) == whole
    assert json.loads((out / "results.json").read_text()) == whole

    # A row of other settings is refused before anything is run.
    with pytest.raises(UserError, match=r"rows/base\.json: is of other settings"):
        compare(with_settings(second, {"boost.epochs": 2}, "test"), out)


@pytest.mark.slow
def test_rows_are_made_of_runs_that_are_finished_and_have_none(tmp_path: Path) -> None:
    config = prepared(tmp_path, **{"compare.methods": ["base"]})
    facts = compare(config, tmp_path / "out")
    row = tmp_path / "out" / "rows" / "base.json"
    kept = row.read_text()
    row.unlink()
    assert compare(config, tmp_path / "out") == facts
    assert row.read_text() == kept


@pytest.mark.slow
def test_the_rows_of_arms_that_ended_stay_when_another_fails(tmp_path: Path) -> None:
    config = prepared(tmp_path, **{"compare.methods": ["base", "privcode"]})
    (tmp_path / "private.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="arm privcode"):
        compare(config, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["method"] for row in facts["rows"]] == ["base"]
    assert facts["missing"] == ["privcode"]
    assert "1 of 2 runs are not done yet." in (tmp_path / "out" / "table.md").read_text()
    assert [path.name for path in (tmp_path / "out" / "rows").iterdir()] == ["base.json"]


@pytest.mark.slow
def test_an_arm_whose_donor_is_gone_is_run_whole(tmp_path: Path) -> None:
    config = prepared(tmp_path, **{"compare.methods": ["privcode"]})
    compare(config, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "privcode")
    both = with_settings(config, {"compare.methods": ["privcode", "no-privsa", "no-filters"]}, "t")
    both = with_settings(both, {"validate.surest": 1.0}, "t")
    first, _, last = compare(both, tmp_path / "out")["rows"]
    assert first["junior_pass@1"] is not None
    # It trained a junior of its own, which nobody scored.
    assert (tmp_path / "out" / "no-filters" / "private" / "ledger.jsonl").exists()
    assert last["junior_pass@1"] is None
