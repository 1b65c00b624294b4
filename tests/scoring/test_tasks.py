"""Tasks from files in the formats of their owners."""

import json
from pathlib import Path
from typing import Any

import pytest

from privcode.errors import UserError
from privcode.scoring import extract, format_named, load_tasks, prompt_for
from privcode.scoring.formats._arguments import phases

HUMANEVAL = {"task_id": "t/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "t"}
PLUS = HUMANEVAL | {
    "canonical_solution": "    return x\n",
    "base_input": [[1]],
    "plus_input": [[2]],
    "atol": 0,
}
MBPP_PLUS = {name: value for name, value in PLUS.items() if name != "test"}
MBPP = {
    "task_id": 7,
    "prompt": "Add one.",
    "code": "def helper(x): return x + 1\ndef f(x): return helper(x)",
    "test_imports": ["import math"],
    "test_list": ["assert f(1) == 2", "assert f(2) == 3"],
}
BIGCODEBENCH = {
    "task_id": "BigCodeBench/1",
    "complete_prompt": 'import os\ndef f(x):\n    """Doc."""\n',
    "instruct_prompt": "Do it.\n",
    "code_prompt": "import os\ndef f(x):\n",
    "canonical_solution": "    return x\n",
    "entry_point": "f",
    "test": "import unittest\n",
    "libs": "['os']",
}
MULTIPL = {
    "name": "HumanEval_0_f",
    "language": "rs",
    "prompt": "fn f() {\n",
    "tests": "}\nfn main() {}\n",
    "stop_tokens": ["\n}"],
}


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "format", "task_id"),
    [
        (HUMANEVAL, "humaneval", "t/0"),
        (PLUS, "humaneval+", "t/0"),
        (MBPP_PLUS, "mbpp+", "t/0"),
        (MBPP, "mbpp", "Mbpp/7"),
        (BIGCODEBENCH, "bigcodebench", "BigCodeBench/1"),
        (MULTIPL, "multipl", "HumanEval_0_f"),
    ],
)
def test_a_format_is_known_by_its_fields(
    tmp_path: Path, row: dict[str, Any], format: str, task_id: str
):
    (task,) = load_tasks(written(tmp_path / "t.jsonl", row))
    assert (task.format, task.task_id) == (format, task_id)


def test_a_file_in_no_known_format_says_which_are_known_and_what_they_need(tmp_path: Path):
    row = {"task_id": "a", "SECRET": "x"}
    with pytest.raises(UserError, match=r"t\.jsonl, row 1: has the fields of no") as caught:
        load_tasks(written(tmp_path / "t.jsonl", row))
    words = str(caught.value)
    assert "humaneval (task_id, prompt, entry_point, test), humaneval+ (" in words
    assert words.endswith("multipl (name, language, prompt, tests)")
    assert "SECRET" not in words


def test_a_named_format_wins_over_the_fields(tmp_path: Path):
    (task,) = load_tasks(written(tmp_path / "t.jsonl", PLUS), "humaneval")
    assert (task.format, task.cases) == ("humaneval", None)
    with pytest.raises(UserError, match=r"format humanevil: unknown; choose one of humaneval, "):
        format_named("humanevil")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (MBPP | {"test_list": []}, "row 1, field task_id, test_list"),
        (MBPP | {"test_list": ["assert g(1)"]}, "row 1, field test_list: calls no function"),
        (MBPP | {"test_list": ["assert ("]}, "row 1, field code, test_list: are not Python"),
        (PLUS | {"atol": "1"}, "row 1, field atol: must be a number"),
        (PLUS | {"base_input": 1}, "row 1, field base_input"),
        (BIGCODEBENCH | {"test": None}, "row 1, field test: is a NoneType"),
        (MULTIPL | {"stop_tokens": "x"}, "row 1, field stop_tokens: must be a list"),
        (HUMANEVAL | {"entry_point": "a b"}, "row 1, field entry_point: not a Python name"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        load_tasks(written(tmp_path / "t.jsonl", row))


def test_mbpp_is_asked_as_evalplus_asks_it(tmp_path: Path):
    (task,) = load_tasks(written(tmp_path / "t.jsonl", MBPP))
    prompt = '"""\nAdd one.\nassert f(1) == 2\n"""\n'
    assert prompt_for(task, "complete") == prompt
    assert f"code block:\n```\n{prompt.strip()}\n```\n" in prompt_for(task, "instruct")
    answer = "def g(): pass\n\ndef f(x):\n    return x + 1\n\nassert f(1) == 2\n"
    assert extract(answer, "complete", task) == prompt + answer.partition("\nassert")[0] + "\n"
    assert task.entry_point == "f"
    assert task.test == "import math\n\nassert f(1) == 2\nassert f(2) == 3"


def test_bigcodebench_has_a_prompt_for_each_way(tmp_path: Path):
    (task,) = load_tasks(written(tmp_path / "t.jsonl", BIGCODEBENCH))
    assert prompt_for(task, "complete") == BIGCODEBENCH["complete_prompt"]
    assert prompt_for(task, "instruct").endswith("code block:\nDo it.\n")


def test_multipl_completions_end_at_their_stop_tokens(tmp_path: Path):
    (task,) = load_tasks(written(tmp_path / "t.jsonl", MULTIPL))
    assert task.language == "rust"
    assert extract("    1\n}\nfn g() {}", "complete", task) == "fn f() {\n    1"


def test_the_standard_library_alone_is_what_code_and_tests_import(tmp_path: Path):
    numpy = BIGCODEBENCH | {"task_id": "BigCodeBench/2", "test": "import numpy.linalg\n"}
    path = written(tmp_path / "t.jsonl", BIGCODEBENCH, numpy)
    assert [t.task_id for t in load_tasks(path, stdlib_only=True)] == ["BigCodeBench/1"]
    with pytest.raises(UserError, match="no task needs only the standard library"):
        load_tasks(written(tmp_path / "n.jsonl", numpy), stdlib_only=True)


def test_the_official_files_are_read_whole(official: Path):
    counts = {
        "HumanEval.jsonl.gz": 164,
        "HumanEvalPlus.jsonl.gz": 164,
        "MbppPlus.jsonl.gz": 378,
        "mbpp-sanitized.json": 427,
        "BigCodeBench.jsonl.gz": 1140,
    }
    assert {name: len(load_tasks(official / name)) for name in counts} == counts
    chosen = load_tasks(official / "BigCodeBench.jsonl.gz", stdlib_only=True)
    assert len(chosen) == 300


def test_arguments_that_json_lacks_are_made_again(official: Path):
    tasks = {task.task_id: task for task in load_tasks(official / "MbppPlus.jsonl.gz")}

    def first(task_id: str) -> list[Any]:
        return phases(tasks[task_id])[0][1][0]

    assert first("Mbpp/2") == [(3, 4, 5, 6), (5, 7, 4, 10)]
    assert first("Mbpp/63") == [[(3, 5), (1, 7), (10, 3), (1, 2)]]
    assert first("Mbpp/106") == [[5, 6, 7], (9, 10)]
    assert first("Mbpp/252") == [1 + 0j]
    assert first("Mbpp/446")[1] == ["a", "b"]
    assert phases(tasks["Mbpp/793"])[1] == ("plus", [])
