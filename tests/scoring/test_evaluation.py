"""Scoring in HumanEval's formats."""

import gzip
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from privcode.errors import UserError
from privcode.execution import sandboxes
from privcode.scoring import Task, extract, load_tasks, prompt_for
from privcode.scoring.evaluation import evaluate, pass_at_k, score
from privcode.scoring.score import score_files

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
ADD = Task(
    "t/0",
    'def add(a, b):\n    """Sum."""\n',
    "add",
    "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
    "    return a + b\n",
)
PLAIN = Task(
    "p/0", "Write peak(xs), the largest.", "peak", "def check(f):\n    assert f([3]) == 3\n"
)

needs_sandbox = pytest.mark.skipif(
    not any(state.available for state in sandboxes()), reason="no sandbox on this machine"
)


def human_eval() -> list[Task]:
    path = SHARED / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip("HumanEval is not at hand")
    return load_tasks(path)


def solution(body: str) -> dict[str, str]:
    return {"task_id": "t/0", "completion": body}


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for n, c in itertools.product(range(1, 7), range(7)):
        for k in range(1, n + 1):
            if c <= n:
                draws = list(itertools.combinations(range(n), k))
                share = sum(any(i < c for i in draw) for draw in draws) / len(draws)
                assert pass_at_k(n, c, k) == pytest.approx(share)


@pytest.mark.parametrize("wrong", [(1, 2, 1), (2, -1, 1), (2, 1, 3), (2, 1, 0)])
def test_pass_at_k_refuses_what_has_no_meaning(wrong):
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(*wrong)


@needs_sandbox
def test_right_and_wrong_samples_are_told_apart():
    samples = [solution("    return a + b\n"), solution("    return a - b\n"), solution("    (")]
    result = score([ADD], samples, k=(1, 2))
    assert [row["passed"] for row in result.rows] == [True, False, False]
    assert result.pass_at == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}
    assert result.errors == {"AssertionError": 1, "SyntaxError": 1}


@needs_sandbox
@pytest.mark.parametrize(
    "body",
    [
        "    import os; os._exit(0)\n",
        "    raise SystemExit\n",
        "    return 3\nimport sys; sys.exit(0)\n",
        "    print('passed'); exit(0)\n",
        "    return 3\ndef check(candidate): pass\n",
        "    return 3\nimport atexit, os; atexit.register(os._exit, 0)\n",
    ],
)
def test_a_sample_cannot_pass_by_leaving_early(body):
    assert score([ADD], [solution(body)]).pass_at[1] == 0


@needs_sandbox
def test_a_task_without_samples_counts_as_failed_and_is_named():
    result = score([ADD, PLAIN], [solution("    return a + b\n")])
    assert (result.pass_at[1], result.missing) == (0.5, ("p/0",))


@needs_sandbox
def test_whole_programs_run_with_a_prelude():
    sample = {"task_id": "p/0", "solution": "def peak(xs): return house(xs)"}
    prelude = "def house(xs): return max(xs)"
    assert score([PLAIN], [sample], prelude=prelude).pass_at[1] == 1
    assert score([PLAIN], [sample]).errors == {"NameError": 1}


def test_too_few_samples_for_k_is_refused():
    with pytest.raises(UserError, match="task t/0 has 1"):
        score([ADD], [solution("")], k=(1, 10))


@needs_sandbox
def test_files_are_scored_and_results_written(tmp_path):
    tasks = tmp_path / "tasks.jsonl.gz"
    with gzip.open(tasks, "wt") as file:
        file.write(json.dumps(asdict(ADD)) + "\n")
    good, bad = solution("    return a + b\n"), solution("    return 0\n")
    samples = write_rows(tmp_path / "s.jsonl", good, bad)
    summary = score_files(tasks, samples, k=(1,))
    assert (summary["pass@1"], summary["tasks"], summary["samples"]) == (0.5, 1, 2)
    rows = [json.loads(x) for x in (tmp_path / "s.jsonl_results.jsonl").read_text().splitlines()]
    assert [(row["task_id"], row["passed"]) for row in rows] == [("t/0", True), ("t/0", False)]


def test_a_bad_sample_names_file_row_and_field_before_anything_runs(tmp_path):
    tasks = write_rows(tmp_path / "tasks.jsonl", asdict(ADD))
    good = solution("    return a + b\n")
    for bad, message in (
        ({"task_id": "none", "completion": ""}, r"s\.jsonl, row 2, field task_id: no such task"),
        ({"task_id": "t/0"}, r"s\.jsonl, row 2, field completion: is missing"),
        ({"task_id": "t/0", "solution": 1}, r"s\.jsonl, row 2, field solution: is a int"),
    ):
        samples = write_rows(tmp_path / "s.jsonl", good, bad)
        with pytest.raises(UserError, match=message):
            score_files(tasks, samples)
    assert not (tmp_path / "s.jsonl_results.jsonl").exists()


@needs_sandbox
@pytest.mark.parametrize("kind", ["solution", "completion"])
@pytest.mark.parametrize("plus", [True, False])
def test_half_a_surrogate_pair_fails_its_own_sample_alone(tmp_path, kind, plus):
    row = asdict(ADD) | ({"base_input": [[1, 2]], "plus_input": [], "atol": 0} if plus else {})
    tasks = write_rows(tmp_path / "tasks.jsonl", row)
    bodies = ["    return a + b\n", '    s = "\ud83d"\n    return a + b\n', "    return 0\n"]
    head = ADD.prompt if kind == "solution" else ""
    samples = write_rows(
        tmp_path / "s.jsonl", *({"task_id": "t/0", kind: head + b} for b in bodies)
    )
    facts = score_files(tasks, samples)
    assert facts["pass@1"] == pytest.approx(1 / 3)
    assert facts["errors"] == {"has half a surrogate pair": 1, "AssertionError": 1}
    theirs = json.loads((tmp_path / "s_eval_results.json").read_bytes())["eval"]["t/0"]
    assert [found["base_status"] for found in theirs] == ["pass", "fail", "fail"]
    assert {found["plus_status"] for found in theirs[1:]} <= {None, "fail", "pass"}


@needs_sandbox
def test_an_answer_with_carriage_returns_passes():
    body = "    return a + b\r\n\r\n\r\ndef other():\r\n    pass\r\n"
    assert score([ADD], [solution(body)]).pass_at == {1: 1.0}
    answer = "Here:\r\n```python\r\ndef add(a, b):\r\n    return a + b\r\n```\r\n"
    whole = {"task_id": "t/0", "solution": extract(answer, "instruct", ADD)}
    assert score([ADD], [whole]).pass_at == {1: 1.0}


@pytest.mark.parametrize("value", [["\ud83d"], {"a": "\ud83d"}, 1, None])
def test_an_answer_that_is_no_text_is_refused_before_anything_runs(tmp_path, value):
    tasks = write_rows(tmp_path / "tasks.jsonl", asdict(ADD))
    samples = write_rows(tmp_path / "s.jsonl", {"task_id": "t/0", "completion": value})
    with pytest.raises(UserError, match=r"s\.jsonl, row 1, field completion"):
        score_files(tasks, samples)
    assert not (tmp_path / "s_results.jsonl").exists()


def test_a_task_without_test_names_the_field(tmp_path):
    row = {key: value for key, value in asdict(ADD).items() if key != "test"}
    with pytest.raises(UserError, match=r"row 1, field test: is missing"):
        load_tasks(write_rows(tmp_path / "tasks.jsonl", row), "humaneval")


def test_prompts_are_raw_fenced_or_plain():
    assert prompt_for(ADD, "complete") == ADD.prompt
    assert "\n```\ndef add(a, b):" in prompt_for(ADD, "instruct")
    question = "Question: {problem}\n\nAnswer:"
    expected = "Question: Write peak(xs), the largest.\n\nAnswer:"
    assert prompt_for(PLAIN, "instruct", question) == expected


@pytest.mark.parametrize("tail", ["\ndef more():", "\n# test", "\nprint(add(1, 2))", "\n```\nDone"])
def test_a_completion_ends_at_a_new_top_level_statement(tail):
    body = "    x = [\n        a,\n    ]\n\n    return a + b\n"
    assert extract(body + tail, "complete", ADD) == ADD.prompt + body + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n",
        "Sure:\n```python\nx = 1\n```\nand\n```\ny\n```",
        "```\nx = 1\n```",
        "```py\nx = 1\n",
        "```python\r\nx = 1\n```",
    ],
)
def test_an_answer_is_its_first_fenced_block_or_all_of_it(text):
    assert extract(text, "instruct", ADD) == "x = 1\n"


def test_an_answer_is_the_block_in_the_language_of_its_task():
    text = "```bash\npip install x\n```\n1. Then\n   ```python\n   x = 1\n   ```\n<|im_end|>"
    assert extract(text, "instruct", ADD) == "x = 1\n"
    go = replace(ADD, language="go")
    assert extract(f"{text}\n```go\ny\n```".replace("<|im_end|>", ""), "instruct", go) == "y\n"
    assert extract("    return 1<|endoftext|>\nmore", "complete", ADD).endswith("return 1\n")
    response = "Below is it:\n```python\n"
    assert extract("```python\nx = 1\n```", "instruct", ADD, response) == "x = 1\n"


@needs_sandbox
def test_samples_in_fences_are_told_and_cleaned_when_asked(tmp_path):
    tasks = write_rows(tmp_path / "tasks.jsonl", asdict(ADD))
    right = "    return a + b\n"
    whole = f"Sure:\n```python\n{ADD.prompt}{right}```\nDone."
    rows = [{"task_id": "t/0", "solution": whole}, solution(f"{right}<|im_end|>"), solution(right)]
    samples = write_rows(tmp_path / "s.jsonl", *rows, solution("    return 0"))
    facts = score_files(tasks, samples)
    assert (facts["pass@1"], facts["unclean"]) == (0.25, 2)
    assert facts["conditions"]["clean"] is False
    facts = score_files(tasks, samples, clean=True)
    assert (facts["pass@1"], facts["unclean"]) == (0.75, 0)
    assert facts["conditions"]["clean"] is True


def test_an_answer_whose_fence_was_opened_for_it_ends_at_the_fence():
    response = "Below is it:\n```python\n"
    assert extract("x = 1\n```\nand so on", "instruct", ADD, response) == "x = 1\n"
    assert extract("x = 1\n", "instruct", ADD, response) == "x = 1\n"


@needs_sandbox
def test_a_score_says_what_it_depends_on():
    facts = score([ADD, PLAIN], [solution("    return a + b\n")]).summary()["conditions"]
    assert facts["format"] == "humaneval"
    assert facts["limits"]["cpu_seconds"] == 5
    assert facts["ground_truth"] == {"passed": 1, "checked": 1, "rate": 1.0, "failed": {}}
    assert {"privcode", "python"} <= set(facts["versions"])


@needs_sandbox
def test_there_is_no_score_where_the_tasks_own_solutions_fail():
    broken = replace(ADD, canonical_solution="    return a - b\n")
    with pytest.raises(UserError, match=r"0 of 1 tasks here.*t/0: AssertionError"):
        score([broken], [solution("    return a + b\n")])


@needs_sandbox
def test_evaluate_asks_reads_and_scores():
    asked = []

    def generate(prompts: list[str]) -> list[list[str]]:
        asked.extend(prompts)
        return [["```python\ndef peak(xs):\n    return max(xs)\n```", "no"] for _ in prompts]

    samples, result = evaluate(generate, [PLAIN], k=(1, 2))
    assert "Write peak(xs)" in asked[0]
    assert samples[0] == {"task_id": "p/0", "solution": "def peak(xs):\n    return max(xs)\n"}
    assert result.pass_at == {1: 0.5, 2: 1.0}


def test_no_canonical_solution_of_human_eval_is_cut():
    for task in human_eval():
        whole = task.prompt + task.canonical_solution
        assert extract(task.canonical_solution, "complete", task).strip() == whole.strip()


@needs_sandbox
def test_every_canonical_solution_of_human_eval_passes():
    tasks = human_eval()
    result = score(
        tasks, [{"task_id": t.task_id, "completion": t.canonical_solution} for t in tasks]
    )
    assert [row for row in result.rows if not row["passed"]] == []
    assert result.pass_at[1] == 1


@needs_sandbox
def test_no_empty_solution_of_human_eval_passes():
    tasks = human_eval()[:8]
    samples = [{"task_id": t.task_id, "completion": "    return None\n"} for t in tasks]
    assert score(tasks, samples).pass_at[1] == 0
