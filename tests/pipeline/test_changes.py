"""Settings of stages that are not done can change; all others cannot."""

from pathlib import Path
from typing import Any

import pytest

from privcode.config import load_config, with_settings
from privcode.errors import UserError
from privcode.files import read_sealed, write_json
from privcode.pipeline.changes import fixed
from privcode.pipeline.run import Run
from privcode.privacy.ledger import Ledger
from tests.helpers.runs import make_run

LATER = {
    "prompts.limit": 2,
    "synthesize.temperature": 0.5,
    "validate.surest": 0.5,
    "premium.lora.r": 3,
    "boost.epochs": 7,
    "evaluate.max_new_tokens": 5,
}
NEVER: dict[str, Any] = {
    "privacy.steps": 4,
    "privacy.delta": 1e-4,
    "data.public": True,
    "junior.max_tokens": 99,
    "sanitize.learning_rate": 0.5,
    "sanitize.seed": 4,
    "audit.repetitions": [3],
    "method": "dpft",
}
DONE = {"sanitize": 6, "synthesize": 4, "validate": 3, "boost": 1, "evaluate": 0}
"""How many of LATER can still change when this stage is the last that is done."""


def begun(root: Path, last: str) -> tuple[Any, Path]:
    """A run of which the stages up to `last` are done; its config."""
    run = make_run(root)
    stages = list(run.stages)
    run = Run.open(run.out)
    noted = {n: f for n, f in run.done().items() if stages.index(n) <= stages.index(last)}
    run.note("stages", noted)
    run.close()
    return load_config(run.out / "config.yaml"), run.out


@pytest.mark.parametrize("last", DONE)
def test_a_stages_settings_are_fixed_once_it_is_done(tmp_path: Path, last: str) -> None:
    config, out = begun(tmp_path, last)
    ledger = (out / "private" / "ledger.jsonl").read_bytes()
    accepted = 0
    for field, value in LATER.items():
        changed = with_settings(config, {field: value}, "test")
        if fixed(config, changed, Run.open(out, look=True).done()):
            before = (out / "config.yaml").read_bytes()
            with pytest.raises(UserError, match=r"other settings \(\w+ is done, and read"):
                Run(changed, out)
            assert (out / "config.yaml").read_bytes() == before
            continue
        accepted += 1
        Run(changed, out).close()
        assert load_config(out / "config.yaml") == changed
        with Run.open(out) as run:  # and the manifest knows
            run.note("report", {})
        with pytest.raises(UserError, match="other settings"):
            Run(with_settings(changed, {"privacy.steps": 9}, "test"), out)
        Run(config, out).close()
    assert accepted == DONE[last]
    assert (out / "private" / "ledger.jsonl").read_bytes() == ledger


@pytest.mark.parametrize("field", NEVER)
def test_what_decides_privacy_never_changes(tmp_path: Path, field: str) -> None:
    config, out = begun(tmp_path, "sanitize")
    changed = with_settings(config, {field: NEVER[field]}, "test")
    with pytest.raises(UserError, match=r"other settings \(.* cannot change"):
        Run(changed, out)
    assert load_config(out / "config.yaml") == config


def test_it_never_changes_from_the_first_line_of_the_ledger_on(tmp_path: Path) -> None:
    config = make_run(tmp_path).config
    with Run(config, tmp_path / "new") as run:
        Ledger(run.ledger).begin(run.plan, data="0" * 64, run="1" * 32)
    with pytest.raises(UserError, match=r"other settings \(privacy cannot change"):
        Run(with_settings(config, {"privacy.steps": 4}, "test"), tmp_path / "new")
    Run(with_settings(config, {"boost.epochs": 7}, "test"), tmp_path / "new").close()


def test_the_describer_is_fixed_by_validate_and_the_rest_of_the_premium_is_not(
    tmp_path: Path,
) -> None:
    config, out = begun(tmp_path, "validate")
    with pytest.raises(UserError, match="validate is done, and read premium"):
        Run(with_settings(config, {"premium.model": "bundled:junior"}, "test"), out)
    Run(with_settings(config, {"premium.lora.r": 3}, "test"), out).close()


def test_a_stage_that_is_not_done_begins_anew(tmp_path: Path) -> None:
    config, out = begun(tmp_path, "sanitize")
    partial = out / "synthetic" / ".raw.jsonl.partial"
    partial.write_text("drawn at another temperature\n")
    Run(with_settings(config, {"evaluate.max_new_tokens": 5}, "test"), out).close()
    assert partial.exists()
    assert not list((out / "evaluation").glob("house*"))
    Run(with_settings(config, {"synthesize.temperature": 0.5}, "test"), out).close()
    assert not partial.exists()
    assert (out / "models" / "junior" / "adapter_config.json").exists()


def test_a_change_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    config, out = begun(tmp_path, "sanitize")
    changed, old = with_settings(config, {"boost.epochs": 7}, "test"), out / "config.yaml"
    text = old.read_text()
    Run(changed, out).close()
    old.write_text(text)  # as if it had stopped before writing config.yaml
    Run(changed, out).close()
    assert load_config(old) == changed
    with Run.open(out) as run:
        run.note("report", {})


def test_a_config_edited_by_hand_is_not_taken_for_the_runs_settings(tmp_path: Path) -> None:
    config, out = begun(tmp_path, "validate")
    kept = out / "config.yaml"
    edited = with_settings(config, {"synthesize.temperature": 0.5}, "test")
    kept.write_text(kept.read_text().replace("temperature: 1.0", "temperature: 0.5", 1))
    with pytest.raises(UserError, match="it was edited"):
        Run(with_settings(edited, {"boost.epochs": 7}, "test"), out)


def test_a_trial_of_a_sweep_keeps_all_settings(tmp_path: Path) -> None:
    config, out = begun(tmp_path, "sanitize")
    for change in ({"privacy.selection": "trials", "privacy.trials": 4},):
        trial = with_settings(config, change, "test")
        with Run(trial, tmp_path / "trial") as run:
            write_json(run.private / "ledger.jsonl", {})
        with pytest.raises(UserError, match="cannot change"):
            Run(with_settings(trial, {"boost.epochs": 7}, "test"), tmp_path / "trial")
    assert read_sealed(out / "manifest.json")["stages"].keys() == {"sanitize"}


def test_where_the_work_is_done_can_change_when_all_is_done(tmp_path: Path) -> None:
    config, out = begun(tmp_path, "audit")
    kept = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    assert "scale" not in (out / "config.yaml").read_text()
    for engine in ("ray", "local"):
        Run(with_settings(config, {"scale.engine": engine}, "test"), out).close()
        assert load_config(out / "config.yaml").scale.engine == engine
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == kept
    assert "scale" not in (out / "config.yaml").read_text()
