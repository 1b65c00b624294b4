"""No score where a benchmark's own solutions fail; what passed is not run again."""

from dataclasses import replace
from pathlib import Path

import pytest

from privcode.errors import UserError
from privcode.execution import Limits, _languages, unsupported
from privcode.scoring import GroundTruth, Task, ground_truth, limits_for, load_tasks

RIGHT = Task(
    "t/0", "def f(x):\n", "f", "def check(f):\n    assert f(1) == 2\n", "    return 2 * x\n"
)


def many(wrong: int, of: int) -> list[Task]:
    return [
        replace(
            RIGHT,
            task_id=f"t/{i}",
            canonical_solution="    return 0\n" if i < wrong else RIGHT.canonical_solution,
        )
        for i in range(of)
    ]


@pytest.mark.usefixtures("sandbox")
def test_two_in_a_hundred_may_fail_and_no_more():
    found = ground_truth(many(1, 50), limits=Limits())
    assert found == GroundTruth(49, 50, {"t/0": "AssertionError"})
    assert found.facts()["rate"] == 0.98
    with pytest.raises(UserError, match=r"pass for 47 of 49 tasks here.* t/0, t/1: AssertionError"):
        ground_truth(many(2, 49), limits=Limits())


@pytest.mark.usefixtures("sandbox")
def test_what_passed_is_noted_for_these_tasks_and_limits_alone():
    ground_truth([RIGHT], limits=Limits())
    counted: list[int] = []
    again = ground_truth([RIGHT], limits=Limits(), sandbox="none", progress=counted.append)
    assert (again, sum(counted)) == (GroundTruth(1, 1, {}), 1)  # no sandbox was looked for
    other = replace(RIGHT, test=RIGHT.test + " ")
    for tasks, limits in (([other], Limits()), ([RIGHT], Limits(cpu_seconds=4))):
        with pytest.raises(UserError, match="there is none called 'none'"):
            ground_truth(tasks, limits=limits, sandbox="none")


@pytest.mark.usefixtures("sandbox")
def test_what_passed_is_not_recalled_once_its_tools_have_gone(monkeypatch, tmp_path):
    task = Task("m/0", "function f() {", "", "}\n", format="multipl", language="javascript")
    if reason := unsupported("javascript"):
        pytest.skip(reason)
    assert ground_truth([task], limits=Limits()) == GroundTruth(0, 0, {})
    monkeypatch.setenv("PATH", str(tmp_path))
    _languages.toolchain.cache_clear()
    try:
        with pytest.raises(UserError, match=r"0 of 1 tasks here.*node"):
            ground_truth([task], limits=Limits())
    finally:
        _languages.toolchain.cache_clear()


@pytest.mark.usefixtures("sandbox")
def test_a_refusal_is_not_noted():
    wrong = many(1, 1)
    for _ in range(2):
        with pytest.raises(UserError, match="0 of 1"):
            ground_truth(wrong, limits=Limits())
    with pytest.raises(UserError, match="there is none called 'none'"):
        ground_truth(wrong, limits=Limits(), sandbox="none")


@pytest.mark.usefixtures("sandbox")
def test_missing_libraries_are_named_with_what_installs_them():
    lacking = Task(
        *("BigCodeBench/1", "", "f", "import no_such_module", "    return 1\n"),
        format="bigcodebench",
        head="import no_such\ndef f():\n",
    )
    with pytest.raises(UserError, match=r"pip install no_such no_such_module; .*--stdlib-only"):
        ground_truth([lacking], limits=Limits())


@pytest.mark.usefixtures("sandbox")
def test_tasks_without_a_solution_are_not_checked():
    assert ground_truth([replace(RIGHT, canonical_solution="")], limits=Limits()).checked == 0


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("name", "stdlib_only", "least", "of"),
    [
        ("HumanEval.jsonl.gz", False, 164, 164),
        ("HumanEvalPlus.jsonl.gz", False, 164, 164),
        ("mbpp-sanitized.json", False, 427, 427),
        ("MbppPlus.jsonl.gz", False, 377, 378),
        ("BigCodeBench.jsonl.gz", True, 294, 300),
    ],
)
def test_the_benchmarks_own_solutions_pass(
    official: Path, name: str, stdlib_only: bool, least: int, of: int
):
    tasks = load_tasks(official / name, stdlib_only=stdlib_only)
    found = ground_truth(tasks, limits=limits_for(tasks[0].format))
    assert found.checked == of
    assert found.passed >= least, found.failed
