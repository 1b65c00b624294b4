"""A run through the command line: resumable stages, and nothing private outside `private/`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privcode.exercises.corpus import private_records, public_prompts
from privcode.files import write_jsonl

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 200, batch: 16, steps: 6,
          noise: reproducible}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
sanitize: {checkpoint_every: 2, learning_rate: 0.01, syntax: {lambda_max: 1.0}}
synthesize: {max_new_tokens: 24}
premium: {model: "bundled:premium"}
audit: {repetitions: [2]}
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "private.jsonl", private_records(200, seed=1))
    write_jsonl(tmp_path / "prompts.jsonl", public_prompts(600, seed=1))
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    return tmp_path / "privcode.yaml"


def privcode(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "privcode", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "privcode", *map(str, arguments)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, env=ENVIRONMENT)


def kill_when(process: subprocess.Popen[bytes], ready: "callable[[], bool]") -> None:  # type: ignore[valid-type]
    while not ready():
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def files(run: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(run)): p.read_bytes()
        for p in sorted(run.rglob("*"))
        if p.is_file() and p.name != "manifest.json"
    }


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_in_every_stage_and_run_again_gives_the_same_bytes(config: Path) -> None:
    whole, cut = config.parent / "whole", config.parent / "cut"
    for arguments in (("sanitize", config, "--out", whole), ("synthesize", whole)):
        done = privcode(*arguments)
        assert done.returncode == 0, done.stderr
    ledger = cut / "private" / "ledger.jsonl"
    kill_when(start("sanitize", config, "--out", cut), lambda: lines(ledger) >= 5)
    assert not (cut / "models").exists()
    assert privcode("sanitize", config, "--out", cut).returncode == 0
    partial = cut / "synthetic" / ".raw.jsonl.partial"
    kill_when(start("synthesize", cut), lambda: lines(partial) >= 256)
    assert not (cut / "synthetic" / "raw.jsonl").exists()
    assert privcode("synthesize", cut).returncode == 0
    assert files(cut) == files(whole)
    assert lines(ledger) == 1 + 6  # the plan and every step
    prompts = {row["prompt"] for row in public_prompts(600, seed=1)}
    assert lines(cut / "synthetic" / "raw.jsonl") == len(prompts)

    again = privcode("sanitize", config, "--out", cut)
    assert "done already" in again.stderr

    # Nothing about the private records is outside private/, in the manifest or on the console.
    assert oct((cut / "private").stat().st_mode)[-3:] == "700"
    stages = json.loads((cut / "manifest.json").read_text())["stages"]
    assert not any("private" in f for s in stages.values() for f in (*s["inputs"], *s["outputs"]))

    config.write_text(CONFIG.replace("steps: 6", "steps: 7"))
    other = privcode("sanitize", config, "--out", cut)
    assert other.returncode == 2
    assert "other settings" in other.stderr


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("private.jsonl", "none.jsonl", "none.jsonl"),
        ("bundled:junior", "bundled:none", "bundled:none"),
    ],
)
def test_a_wrong_data_or_model_name_is_one_line(
    config: Path, old: str, new: str, word: str
) -> None:
    config.write_text(CONFIG.replace(old, new, 1))
    done = privcode("sanitize", config, "--out", config.parent / "run")
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (config.parent / "run" / "models").exists()
