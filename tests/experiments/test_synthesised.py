"""What an arm synthesised: public figures of public texts, and private ones in private/ alone."""

from pathlib import Path
from typing import Any

import pytest

from privcode.config import load_config, with_settings
from privcode.exercises.corpus import prelude, private_records, public_prompts
from privcode.experiments.synthesised import against_private, figures_of, synthesised
from privcode.files import read_json, write_jsonl
from privcode.pipeline.run import Run

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: 4, delta: 1.0e-4, units: 100, batch: 8, steps: 2}
prompts: {source: public, file: prompts.jsonl, limit: 40}
junior: {model: "bundled:junior"}
validate: {execution: {prelude: house.py}}
premium: {model: "bundled:premium"}
"""
PRIVATE = {"prompts told from private", "copied prompts", "copied parts of programs of records"}


def run_of(folder: Path, pairs: list[tuple[str, str]], **changes: Any) -> Run:
    """A run that has accepted these pairs."""
    write_jsonl(folder / "private.jsonl", private_records(100, seed=1))
    write_jsonl(folder / "prompts.jsonl", public_prompts(100, seed=2))
    (folder / "house.py").write_text(prelude())
    (folder / "c.yaml").write_text(CONFIG)
    run = Run(with_settings(load_config(folder / "c.yaml"), changes, "test"), folder / "run")
    run.accepted.parent.mkdir(parents=True)
    rows = ({"id": str(n), "prompt": p, "completion": c} for n, (p, c) in enumerate(pairs))
    write_jsonl(run.accepted, rows)
    return run


def records(n: int, seed: int) -> list[tuple[str, str]]:
    return [(row["prompt"], row["code"]) for row in private_records(n, seed=seed)]


def test_figures_of_private_data_are_for_the_owner_alone(tmp_path: Path) -> None:
    private = tmp_path / "private.json"
    with run_of(tmp_path, records(50, seed=1)) as run:
        shown = figures_of(run, private)
    assert not any("private" in name or "copied" in name for name in shown)
    assert shown["pairs"] == 50
    assert set(read_json(private)) > PRIVATE
    assert private.stat().st_mode & 0o777 == 0o600


def test_figures_of_public_data_are_shown(tmp_path: Path) -> None:
    private = tmp_path / "private.json"
    with run_of(tmp_path, records(50, seed=1), **{"data.public": True}) as run:
        assert set(figures_of(run, private)) > PRIVATE
    assert not private.exists()


def test_copies_of_the_records_are_found(tmp_path: Path) -> None:
    copied, fresh = records(30, seed=1), records(30, seed=7)
    with run_of(tmp_path, copied + fresh) as run:
        found = against_private(run, tmp_path)
    assert 0.5 <= found["copied programs"] <= 0.6
    assert 0.5 <= found["copied prompts"] <= 0.6


def test_public_figures_read_no_private_record(tmp_path: Path) -> None:
    with run_of(tmp_path, records(50, seed=1)) as run:
        before = synthesised(run)
        (tmp_path / "private.jsonl").unlink()
        assert synthesised(run) == before
        assert against_private(run, tmp_path) == {}  # where they are not, nothing is known
    assert 0 < before["operations"] < 1
    assert before["distinct programs"] <= 1


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"prompts.limit": 100}, False),  # none is left
        ({"prompts.limit": None}, False),
        ({"prompts.source": "synthesised"}, True),
        ({"prompts.source": "latent"}, True),
        ({"prompts.source": "synthesised", "prompts.file": None}, False),
        ({"prompts.source": "synthesised", "prompts.file": "private.jsonl"}, False),
    ],
)
def test_prompts_are_held_against_public_ones_that_were_not_used(
    tmp_path: Path, changes: dict[str, Any], known: bool
) -> None:
    if file := changes.get("prompts.file"):
        changes |= {"prompts.file": str(tmp_path / file)}
    with run_of(tmp_path, records(50, seed=1), **changes) as run:
        declared = run.config.prompts.file
        assert ("prompts told from public" in synthesised(run, declared)) == known


def test_prompts_that_nobody_declared_public_are_not_looked_at(tmp_path: Path) -> None:
    """A file that a run names and does not draw from may be private, too."""
    with run_of(tmp_path, records(50, seed=1), **{"prompts.source": "synthesised"}) as run:
        before = synthesised(run)
        (tmp_path / "prompts.jsonl").unlink()
        assert synthesised(run) == figures_of(run, tmp_path / "private.json") == before
    assert "prompts told from public" not in before


def test_a_run_without_pairs_has_no_figures(tmp_path: Path) -> None:
    with run_of(tmp_path, []) as run:
        assert synthesised(run) == against_private(run, tmp_path) == {}


def test_the_world_is_known_by_its_library(tmp_path: Path) -> None:
    with run_of(tmp_path, records(5, 1), **{"validate.execution.prelude": None}) as run:
        assert "operations" not in synthesised(run)
