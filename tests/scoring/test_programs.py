"""Verdicts where test and solution are one process: assertions, unittest, other languages."""

from dataclasses import replace

import pytest

from privcode.errors import UserError
from privcode.execution import execute
from privcode.execution import unsupported as no_tools
from privcode.scoring import (
    GroundTruth,
    Task,
    Verdict,
    limits_for,
    program_for,
    unsupported,
    verdict,
)
from privcode.scoring.evaluation import score

ABS = Task(
    "t/0",
    "def f(x):\n",
    "f",
    "def check(candidate):\n    assert abs(candidate(2.0) - 4) < 1e-6\n",
    "    return 2 * x\n",
)
MBPP = Task("Mbpp/126", '"""p"""\n', "sum", "assert sum(2, 3) == 6", format="mbpp")
UNIT = Task(
    "BigCodeBench/1",
    "def f(x):\n",
    "f",
    """
import unittest
class TestCases(unittest.TestCase):
    def test_one(self):
        self.assertEqual(f(1), 2)
    def test_two(self):
        self.assertEqual(f(2), 4)
""",
    "    return 2 * x\n",
    format="bigcodebench",
    head="import os\ndef f(x):\n",
)


def judge(task: Task, solution: str) -> Verdict:
    program = program_for(task, {"solution": solution})
    (outcome,) = execute([program], limits_for(task.format))
    return verdict(task, outcome)


def test_each_format_has_limits_of_its_own_and_a_figure_that_is_given_wins():
    assert limits_for("humaneval").cpu_seconds == 5
    assert (limits_for("mbpp+").cpu_seconds, limits_for("mbpp+").memory_mb) == (60, 4096)
    assert limits_for("bigcodebench", 7, 512).cpu_seconds == 7
    assert limits_for("bigcodebench", 7, 512).memory_mb == 512


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "solution",
    [
        "def abs(x): return 0\ndef f(x): return 1",
        "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 1",
        "def f(x):\n    import builtins\n    builtins.abs = lambda x: 0\n    return 1",
        "def check(candidate): pass\ndef f(x): return 1",
        "class Y(float):\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0.0\n"
        "def f(x): return Y(1)",
    ],
)
def test_an_assertion_cannot_be_talked_over(solution: str):
    assert not judge(ABS, solution).passed
    assert judge(ABS, "def f(x): return 2 * x").passed


@pytest.mark.usefixtures("sandbox")
def test_mbpp_asserts_run_on_functions_named_like_builtins():
    assert judge(MBPP, "def sum(a, b):\n    return a * b").passed
    assert judge(MBPP, "def sum(a, b):\n    return a + b").error == "AssertionError"
    assert judge(MBPP, "def other(a, b):\n    return a * b").error == "NameError"


@pytest.mark.usefixtures("sandbox")
def test_what_a_solution_does_as_a_script_is_not_run():
    script = "def f(x): return 2 * x\nif __name__ == '__main__':\n    raise ValueError"
    assert judge(ABS, script).passed


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("solution", "error"),
    [
        ("def f(x): return 2 if x == 1 else 5", "AssertionError"),
        ("def f(x): return x / 0", "ZeroDivisionError"),
        ("import unittest\ndef f(x): raise unittest.SkipTest", "NoVerdict"),
        ("import unittest\nunittest.TestCase.assertEqual = lambda *a: 0\ndef f(x): pass", "Tamp"),
        ("import unittest\nunittest.TestCase.run = lambda *a: 0\ndef f(x): pass", "Tampering"),
        (
            "import unittest\nkept = unittest.TestCase.assertEqual\n"
            "unittest.TestCase.assertEqual = lambda *a: 0\n"
            "def f(x): unittest.TestCase.assertEqual = kept",
            "Tampering",
        ),
        (
            "import unittest\ndef f(x):\n    unittest.TestCase.assertEqual = lambda *a: 0",
            "Tampering",
        ),
        ("import os\ndef f(x): os._exit(0)", "NoVerdict"),
        ("def f(x): raise SystemExit(0)", "SystemExit"),
        ("import sys\nsys.exit(0)", "NoVerdict"),
    ],
)
def test_a_unittest_task_passes_only_if_every_test_did(solution: str, error: str):
    assert judge(UNIT, "def f(x): return 2 * x").passed
    found = judge(UNIT, solution)
    assert (found.passed, found.base) == (False, "fail")
    assert found.error.startswith(error)


@pytest.mark.usefixtures("sandbox")
def test_a_bigcodebench_solution_has_the_imports_of_its_prompt_and_can_start_python():
    start = "def f(x):\n    return os.system(f'exec python -c \"exit({2 * x})\"') // 256"
    assert judge(UNIT, start).passed


@pytest.mark.usefixtures("sandbox")
def test_a_task_whose_library_is_missing_is_unsupported_and_says_what_to_install():
    lacking = replace(UNIT, head="import no_such_module, Crypto_no\ndef f(x):\n")
    assert unsupported(lacking) == (
        "needs Crypto_no, no_such_module: pip install Crypto_no no_such_module"
    )
    sample = {"task_id": "BigCodeBench/1", "solution": ""}
    (row,) = score([lacking], [sample], truth=GroundTruth(0, 0, {})).rows
    assert (row["passed"], row["status"]) == (False, "unsupported")
    for task in (lacking, replace(lacking, canonical_solution="")):
        with pytest.raises(UserError, match="0 of 1 tasks here"):
            score([task], [sample])


# As MultiPL-E writes them: language: (prompt, right, wrong, tests)
TASKS = {
    "java": (
        "class Problem {\n    public static long f(long x) {\n",
        "        return x + 1;\n    }\n",
        "        return x;\n    }\n",
        "    public static void main(String[] args) {\n    assert(f(1) == (2));\n    }\n}\n",
    ),
    "cpp": (
        "#include<assert.h>\n#include<bits/stdc++.h>\nlong f(long x) {\n",
        "    return x + 1;\n",
        "    return x;\n",
        "}\nint main() {\n    auto candidate = f;\n    assert(candidate((1)) == (2));\n}\n",
    ),
    "javascript": (
        "function f(x){\n",
        "  return x + 1;\n}\n",
        "  return x;\n}\n",
        "const assert = require('node:assert');\nfunction test() {\n  let candidate = f;\n"
        "  assert.deepEqual(candidate(1),2);\n}\n\ntest();",
    ),
    "go": (
        'package f_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\nfunc f(x int) int {\n',
        "    return x + 1\n}\n",
        "    return x\n}\n",
        "func TestF(t *testing.T) {\n  candidate := f\n"
        '  if fmt.Sprintf("%v", candidate(1)) != fmt.Sprintf("%v", 2) { t.Errorf("no") }\n}\n',
    ),
}


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("language", TASKS)
def test_a_task_in_another_language_is_its_prompt_a_completion_and_tests(language):
    if reason := no_tools(language):
        pytest.skip(reason)
    prompt, right, wrong, tests = TASKS[language]
    task = Task("m/0", prompt, "", tests, format="multipl", language=language)
    samples = [{"task_id": "m/0", "completion": text} for text in (right, wrong)]
    assert [row["passed"] for row in score([task], samples).rows] == [True, False]


@pytest.mark.usefixtures("sandbox")
def test_a_language_without_a_runner_is_unsupported_and_refused():
    task = Task("m/0", "f() {\n", "", "}\n", format="multipl", language="cobol")
    sample = {"task_id": "m/0", "completion": "1"}
    (row,) = score([task], [sample], truth=GroundTruth(0, 0, {})).rows
    assert (row["passed"], row["status"]) == (False, "unsupported")
    with pytest.raises(UserError, match=r"0 of 1 tasks here.*choose one of python"):
        score([task], [sample])
    python = Task("m/0", "def f():\n", "", "\nassert f() == 1\n", format="multipl")
    assert score([python], [{"task_id": "m/0", "completion": "    return 1"}]).pass_at[1] == 1
    assert score([python], [{"task_id": "m/0", "completion": "    return 2"}]).pass_at[1] == 0
