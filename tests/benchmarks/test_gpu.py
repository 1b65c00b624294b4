"""The prepared run for a GPU works, in its small form, wherever the tests run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_prepared_run_does_all_its_parts_in_the_small_form(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "gpu.json").read_text()) == found
    assert list(found) == ["machine", "tests", "bits", "head", "noise", "engine", "method"]
    assert found["tests"]["tests"] > 5
    assert found["bits"]["small"]["grouping"] in ("any number", "always as many")
    assert {row["engine"] for row in found["engine"]} >= {"privcode", "opacus hooks"}
    assert not any("error" in row for row in found["engine"])
    assert {row["method"] for row in found["method"]["rows"]} == {"base", "privcode"}


@pytest.mark.slow
def test_a_part_that_fails_is_said_and_ends_in_exit_code_1(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("data: {}\n", encoding="utf-8")
    command = [sys.executable, str(PROGRAM), "--part", "method", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--config", str(wrong)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "method: FAILED" in done.stderr
    assert "wrong.yaml" in json.loads(done.stdout.splitlines()[-1])["method"]["error"]
