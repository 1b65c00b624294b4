"""The measurement on real code divides by author, and says what each model makes of the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from privcode.exercises.corpus import private_records
from privcode.files import read_json, read_jsonl, write_jsonl

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "real_code.py"


@pytest.mark.slow
def test_held_out_authors_are_not_trained_on_and_every_model_has_a_row(tmp_path: Path) -> None:
    records, out = tmp_path / "records.jsonl", tmp_path / "out"
    rows = [
        {**row, "completion": row["code"], "author": f"author {i // 3}"}
        for i, row in enumerate(private_records(600, seed=0))
    ]
    write_jsonl(records, rows)
    command = [sys.executable, str(PROGRAM), str(records), "--out", str(out), "--json"]
    command += ["--model", "bundled:junior", "--dtype", "float32", "--batch", "60", "--steps", "6"]
    command += ["--rate", "0.02", "--plain-rate", "0.004"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    learned, held = (
        {row["author"] for _, row in read_jsonl(out / f"{name}.jsonl")}
        for name in ("private", "held-out")
    )
    assert learned
    assert held
    assert not learned & held
    assert read_json(out / "units.json")["units"] == len(learned)
    found = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["model"] for row in found] == ["untuned", "DP ε 4", "DP ε 8", "without privacy"]
    untuned, *tuned = found
    for row in tuned:
        value, low, high = row["less"]
        assert low <= value <= high
        assert value == pytest.approx(untuned["bits"][0] - row["bits"][0])
    assert tuned[-1]["less"][1] > 0  # what is learned without noise helps other authors' code
