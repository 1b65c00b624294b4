"""What is left on the machine when privcode is killed, and where its tools may come from."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import privcode
from privcode.execution import Limits, Program, _folder, _sandboxes, choose_sandbox, sandboxes
from privcode.execution._worker import Worker

LAYERS = [state.name for state in sandboxes() if state.available]


def begin(layer: str, above: Path) -> subprocess.Popen[bytes]:
    """`privcode execute` of a program that sleeps, begun, with its temporary files in `above`."""
    mark = secrets.token_hex(8)
    source = above.parent / "in.jsonl"
    code = f"open('left', 'w')\nimport os\nos.execv('/bin/sleep', ['{mark}', '60'])"
    source.write_text(json.dumps({"id": 1, "code": code}) + "\n")
    above.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "privcode.cli", "execute"]
    process = subprocess.Popen(
        [*command, source, "-o", source.with_name("out"), "--sandbox", layer],
        env=os.environ
        | {"TMPDIR": str(above), "PYTHONPATH": str(Path(privcode.__file__).parents[1])},
        stderr=subprocess.DEVNULL,
    )
    while subprocess.run(["pgrep", "-f", f"^{mark}"], check=False, stdout=-1).returncode:
        assert process.poll() is None
        time.sleep(0.05)
    return process


def left(above: Path) -> list[str]:
    return sorted(str(path.relative_to(above)) for path in above.rglob("*"))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_run_that_is_terminated_leaves_nothing(layer, tmp_path):
    process = begin(layer, tmp_path / "tmp")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert left(tmp_path / "tmp") == []
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "tmp"]


@pytest.mark.parametrize("layer", LAYERS)
def test_what_a_killed_run_leaves_is_swept_by_the_next(layer, tmp_path, monkeypatch):
    above = tmp_path / "tmp"
    alive, killed = begin(layer, above), begin(layer, above)
    kept = left(above) if layer != "namespaces" else []
    killed.kill()
    killed.wait()
    time.sleep(0.5)  # its server ends
    _folder.sweep(above)
    own = {Path(path).parts[0] for path in left(above)}
    assert len(own) == (1 if kept and layer in ("landlock", "podman") else 0), own
    alive.terminate()
    alive.wait(20)
    assert left(above) == []


def test_a_sweep_follows_no_link_and_leaves_what_is_not_its_own(tmp_path):
    above, treasure = tmp_path / "above", tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "file").write_text("whole")
    for name in ("dead", "new", "old", "other"):
        (above / f"privcode-run-{name}").mkdir(parents=True)
    (above / "privcode-run-link").symlink_to(treasure)
    (above / "something").mkdir()
    dead = above / "privcode-run-dead"
    (dead / "lock").touch()
    (dead / "link").symlink_to(treasure)
    (above / "privcode-run-other" / "lock").symlink_to(treasure / "file")
    os.utime(above / "privcode-run-old", (1, 1))
    if os.geteuid() == 0:
        (above / "privcode-run-user").mkdir()
        (above / "privcode-run-user" / "lock").touch()
        os.chown(above / "privcode-run-user", 23_456, 23_456)
    _folder.sweep(above)
    found = {name.removeprefix("privcode-run-") for name in os.listdir(above)}
    assert found - {"user"} == {"new", "other", "link", "something"}
    assert ("user" in found) == (os.geteuid() == 0)
    assert (treasure / "file").read_text() == "whole"


@pytest.mark.skipif("bubblewrap" not in LAYERS, reason="no bubblewrap")
def test_a_tool_that_others_could_have_planted_is_passed_over(tmp_path, monkeypatch):
    planted = tmp_path / "bwrap"
    planted.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    planted.chmod(0o755)
    tmp_path.chmod(0o777)
    monkeypatch.setenv("PATH", f"{tmp_path}:.:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    _sandboxes._tool.cache_clear()
    worker = Worker(choose_sandbox("bubblewrap"), Limits(), slot=3)
    assert worker.run(Program("a", "print(1)")).stdout == "1\n"
    worker.close()
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    _sandboxes._tool.cache_clear()
    assert _sandboxes._tool("bwrap") is None
    _sandboxes._tool.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put a tool where root alone writes")
def test_a_tool_of_roots_is_found_outside_usr_bin(monkeypatch):
    folder = Path("/opt") / f"privcode-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        (folder / "bwrap").write_text("#!/bin/sh\n")
        (folder / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin")
        _sandboxes._tool.cache_clear()
        assert _sandboxes._tool("bwrap") == str(folder / "bwrap")
        folder.chmod(0o757)
        _sandboxes._tool.cache_clear()
        assert _sandboxes._tool("bwrap") != str(folder / "bwrap")
    finally:
        _sandboxes._tool.cache_clear()
        (folder / "bwrap").unlink()
        folder.rmdir()
