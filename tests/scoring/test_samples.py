"""Samples and results in evalplus's formats."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from privcode.cli import main
from privcode.errors import UserError
from privcode.scoring import read_samples
from privcode.scoring.score import score_files

TASK = {
    "task_id": "HumanEval/900",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    "base_input": [[1]],
    "plus_input": [[2], [3]],
    "atol": 0,
}
RIGHT, HALF = "def f(x):\n    return 2 * x", "def f(x):\n    return 2 * min(x, 2)"


def tasks(folder: Path) -> Path:
    path = folder / "tasks.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(TASK) + "\n")
    return path


def samples(path: Path, *solutions: str) -> Path:
    rows = [{"task_id": TASK["task_id"], "solution": text} for text in solutions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def results(tmp_path: Path, sandbox: None) -> tuple[dict[str, Any], Path]:
    given = samples(tmp_path / "samples.jsonl", RIGHT, HALF)
    facts = score_files(tasks(tmp_path), given)
    return facts, tmp_path / "samples_eval_results.json"


def test_results_are_what_evalplus_writes(results: tuple[dict[str, Any], Path]):
    facts, path = results
    found = json.loads(path.read_text())
    assert found["eval"][TASK["task_id"]] == [
        {
            "task_id": TASK["task_id"],
            "solution": text,
            "base_status": "pass",
            "plus_status": plus,
            "base_fail_tests": [],
            "plus_fail_tests": failed,
        }
        for text, plus, failed in ((RIGHT, "pass", []), (HALF, "fail", [[3]]))
    ]
    assert found["hash"] == hashlib.md5(json.dumps(TASK).encode() + b"\n").hexdigest()
    assert found["pass_at_k"] == {"base": {"pass@1": 1.0}, "plus": {"pass@1": 0.5}}
    assert (facts["pass@1"], facts["base pass@1"]) == (0.5, 1.0)
    assert facts["results"][1] == str(path)


def test_evalplus_results_are_checked_verdict_by_verdict(results: tuple[dict[str, Any], Path]):
    _, path = results
    found = json.loads(path.read_text())
    found["eval"][TASK["task_id"]][1]["plus_status"] = "pass"
    theirs = path.with_name("theirs.json")
    theirs.write_text(json.dumps(found))
    facts = score_files(path.with_name("tasks.jsonl.gz"), theirs)
    assert facts["agreement"] == {
        "same": 1,
        "of": 2,
        "differ": [
            {
                "sample": f"{theirs}, {TASK['task_id']}, sample 1",
                "theirs": ["pass", "pass"],
                "ours": ["pass", "fail"],
            }
        ],
    }


@pytest.mark.usefixtures("sandbox")
def test_a_folder_of_samples_is_read_in_order(tmp_path: Path):
    folder = tmp_path / "samples" / "HumanEval_900"
    folder.mkdir(parents=True)
    for number, text in ((10, HALF), (2, RIGHT)):
        (folder / f"{number}.py").write_text(text)
    read = [sample for _, sample in read_samples(tmp_path / "samples")]
    assert read == [{"task_id": "HumanEval/900", "solution": text} for text in (RIGHT, HALF)]
    assert score_files(tasks(tmp_path), tmp_path / "samples")["pass@1"] == 0.5
    assert (tmp_path / "samples" / "eval_results.json").exists()


@pytest.mark.parametrize("name", ["s.jsonl", "s.csv", "s.jsonl.zst", "S.PARQUET", "s"])
def test_samples_are_read_in_any_form(name: str, tmp_path: Path):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rows = [{"task_id": TASK["task_id"], "solution": text} for text in (RIGHT, HALF)]
    path, table = tmp_path / name, pa.Table.from_pylist(rows)
    if name == "s.jsonl.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    elif name == "s.csv":
        pyarrow.csv.write_csv(table, path)
    elif name == "S.PARQUET":
        pyarrow.parquet.write_table(table, path)
    else:
        samples(path, RIGHT, HALF)
    assert [sample for _, sample in read_samples(path)] == rows


def test_a_python_file_of_samples_may_have_a_mark(tmp_path: Path):
    (tmp_path / "HumanEval_900").mkdir()
    (tmp_path / "HumanEval_900" / "0.py").write_bytes(RIGHT.encode("utf-8-sig"))
    assert read_samples(tmp_path)[0][1]["solution"] == RIGHT


def test_what_is_no_samples_is_refused(tmp_path: Path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="has no field eval"):
        read_samples(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"begins a second value, as JSON Lines; name it \.jsonl"):
        read_samples(tmp_path / "b.json")
    with pytest.raises(UserError, match="holds no sample"):
        read_samples(tmp_path)


@pytest.mark.usefixtures("sandbox")
def test_the_command_prints_both_rates_the_ground_truth_and_what_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    given = samples(tmp_path / "samples.jsonl", RIGHT, HALF)
    command = ["privcode", "score", str(tasks(tmp_path)), str(given)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "pass@1 0.5000, base pass@1 1.0000 of 1 tasks, 2 samples" in out
    assert "humaneval+; of their own solutions 1 of 1 pass here" in out
    assert "samples_eval_results.json (as evalplus writes them)" in out
    monkeypatch.setattr("sys.argv", [*command, "--format", "none"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "format none: unknown" in capsys.readouterr().err
