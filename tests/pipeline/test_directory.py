"""Stages that another run has done with the same settings become a run's own, unchanged."""

import stat
from pathlib import Path

import pytest

from privcode.config import Config, parse_config
from privcode.errors import UserError
from privcode.pipeline.directory import Workspace

CONFIG = {
    "data": {"source": "d.jsonl"},
    "privacy": {"delta": 1e-6, "units": 1000},
    "prompts": {"source": "public", "file": "p.jsonl"},
    "junior": {"model": "j"},
    "premium": {"model": "p"},
}


@pytest.fixture
def config() -> Config:
    return parse_config(CONFIG)


@pytest.fixture
def donor(config: Config, tmp_path: Path) -> Path:
    done = Workspace(config, tmp_path / "donor")
    with done.stage("make", [], [done.out / "models"]):
        (done.out / "models").mkdir()
        (done.out / "models" / "weights").write_bytes(b"123")
        (done.private / "ledger.jsonl").write_text("{}\n")
        (done.private / "secret.txt").write_text("stays")
        (done.private / "pretuned").mkdir()
        (done.private / "pretuned" / "adapter").write_bytes(b"45")
    done.close()
    return done.out


def test_a_stage_is_taken_over_whole_and_is_not_done_again(
    config: Config, donor: Path, tmp_path: Path
) -> None:
    run = Workspace(config, tmp_path / "run")
    run.copy_stages(donor, ("make",), ("ledger.jsonl", "missing.json", "pretuned"))
    assert (run.out / "models" / "weights").read_bytes() == b"123"
    assert stat.S_IMODE((run.private / "ledger.jsonl").stat().st_mode) == 0o600
    assert (run.private / "pretuned" / "adapter").read_bytes() == b"45"
    assert stat.S_IMODE((run.private / "pretuned" / "adapter").stat().st_mode) == 0o600
    assert not (run.private / "secret.txt").exists()  # only what is named comes along
    with run.stage("make", [], [run.out / "models"]) as needed:
        assert not needed


def test_what_was_changed_since_is_not_taken_over(
    config: Config, donor: Path, tmp_path: Path
) -> None:
    (donor / "models" / "weights").write_bytes(b"124")
    run = Workspace(config, tmp_path / "run")
    with pytest.raises(UserError, match="changed since"):
        run.copy_stages(donor, ("make",), ())
    assert run.done() == {}


def test_a_stage_that_is_done_here_is_left_alone(
    config: Config, donor: Path, tmp_path: Path
) -> None:
    run = Workspace(config, tmp_path / "run")
    with run.stage("make", [], [run.out / "models"]):
        (run.out / "models").mkdir()
        (run.out / "models" / "weights").write_bytes(b"own")
    run.copy_stages(donor, ("make",), ())
    assert (run.out / "models" / "weights").read_bytes() == b"own"


def test_settings_may_change_until_something_is_done(config: Config, tmp_path: Path) -> None:
    other = parse_config({**CONFIG, "data": {"source": "mended.jsonl"}})
    Workspace(config, tmp_path / "run").close()
    held = Workspace(other, tmp_path / "run")
    with pytest.raises(UserError, match="another privcode process"):
        Workspace(config, tmp_path / "run")
    assert "mended.jsonl" in (tmp_path / "run" / "config.yaml").read_text()
    (held.private / "ledger.jsonl").write_text("{}\n")
    held.close()
    with pytest.raises(UserError, match="other settings"):
        Workspace(config, tmp_path / "run")
    Workspace(other, tmp_path / "run").close()


def test_a_config_that_lies_alone_in_a_folder_is_not_written_over(
    config: Config, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("# somebody's own\n")
    for _ in range(2):
        with pytest.raises(UserError, match="other settings"):
            Workspace(config, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "# somebody's own\n"
