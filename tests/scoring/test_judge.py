"""Verdicts on tasks with structured inputs: right answers pass, and nothing else does."""

import json

import pytest

from privcode.execution import execute, sandboxes
from privcode.scoring import Cases, Format, Task, Verdict, limits_for, program_for, verdict
from privcode.scoring.drivers.judge import decode, encode

pytestmark = pytest.mark.usefixtures("sandbox")


def task(
    reference: str = "def f(x):\n    return [x, x + 1]\n",
    base: list[list[object]] | None = None,
    plus: list[list[object]] | None = None,
    *,
    task_id: str = "Mbpp/1",
    atol: float = 0,
    format: Format = "mbpp+",
) -> Task:
    cases = Cases([[1], [2]] if base is None else base, [[3]] if plus is None else plus, atol)
    return Task(task_id, '"""p"""\n', "f", "", reference, format=format, cases=cases)


def judge(solution: str, about: Task | None = None, sandbox: str = "auto") -> Verdict:
    about = about or task()
    program = program_for(about, {"solution": solution})
    (outcome,) = execute([program], limits_for(about.format), sandbox=sandbox)
    return verdict(about, outcome)


def test_the_reference_itself_passes():
    assert judge("def f(x):\n    return [x, x + 1]") == Verdict(True, "ok", "", "pass", "pass")


def test_base_and_plus_are_told_apart_and_the_first_wrong_input_is_named():
    found = judge("def f(x):\n    return [x, x + 1] if x < 3 else None")
    assert (found.passed, found.base, found.plus) == (False, "pass", "fail")
    assert found.failed == (None, 0)
    found = judge("def f(x):\n    return [x, x + 1] if x != 2 else None")
    assert (found.passed, found.base, found.plus, found.failed) == (
        False,
        "fail",
        "pass",
        (1, None),
    )


@pytest.mark.parametrize(
    ("solution", "error"),
    [
        ("def f(x):\n    return (x, x + 1)", "AssertionError"),
        ("def f(x): return 1 / 0", "ZeroDivisionError"),
        ("def g(x): return x", "NameError"),
        ("def f(x:", "SyntaxError"),
        ("def f(x):\n    raise SystemExit(0)", "SystemExit"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "NoVerdict"),
        ("def f(x):\n    import os\n    os._exit(0)", "NoVerdict"),
    ],
)
def test_a_wrong_answer_fails_and_says_how(solution: str, error: str):
    found = judge(solution)
    assert (found.passed, found.base, found.error) == (False, "fail", error)


YES = """
class Yes(list):
    def __eq__(self, other): return True
    def __len__(self): return 2
    __hash__ = None
def f(x): return Yes()
"""
PASSING = '{"base": ["pass", null, ""], "plus": ["pass", null, ""]}'
SAY_PASS = f"""
import os
def f(x):
    for fd in range(64):
        try: os.write(fd, {PASSING + chr(10)!r}.encode())
        except OSError: pass
    print({PASSING!r})
    os._exit(0)
"""
SEARCH = """
import gc, os, sys
def texts():
    frame = sys._getframe()
    while frame:
        yield from (repr(v) for v in list(frame.f_locals.values()) + list(frame.f_globals.values()))
        frame = frame.f_back
    yield from (repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple)))
    for fd in range(64):
        try: yield os.read(fd, 1 << 20).decode() if fd != 3 else ""
        except OSError: pass
    judge = f"/proc/{os.getppid()}"
    try:
        yield open(judge + "/fd/0", errors="replace").read()
    except OSError: pass
    try:
        with open(judge + "/maps") as maps, open(judge + "/mem", "rb") as memory:
            for line in maps:
                if " rw-p " in line:
                    begin, end = (int(text, 16) for text in line.split()[0].split("-"))
                    memory.seek(begin)
                    yield memory.read(end - begin).decode("latin-1")
    except OSError: pass
def f(x):
    for text in texts():
        if "SECRE" + chr(84) in text:
            return [x, x + 1]
"""
KILL = (
    "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return [x, x + 1]"
)
HELD_OPEN = """
import os, time
def f(x):
    if os.fork(): os._exit(0)
    time.sleep(60)
"""


@pytest.mark.parametrize("solution", [YES, SAY_PASS, KILL, HELD_OPEN])
def test_a_verdict_cannot_be_faked(solution: str):
    assert not judge(solution).passed


def test_the_solution_has_no_descriptors_but_its_own():
    about = task("def f(x):\n    return [0, 1, 2, 3, 4]\n")
    listed = "import os\ndef f(x):\n    return [fd for fd in range(1000) if there(fd)]\n"
    there = "def there(fd):\n    try: return bool(os.fstat(fd))\n    except OSError: return False"
    assert judge(listed + there, about).passed


@pytest.mark.parametrize("sandbox", [one.name for one in sandboxes() if one.available])
def test_the_solution_never_holds_the_reference(sandbox: str):
    about = task("SECRET = 'SECRET'\ndef f(x):\n    return [x, x + 1]\n")
    assert judge(SEARCH, about, sandbox).error == "AssertionError"


def test_an_endless_loop_is_a_timeout_within_seconds():
    found = judge("def f(x):\n    while True: pass")
    assert (found.passed, found.status, found.base, found.plus) == (
        *(False, "timeout", "timeout", "timeout"),
    )


def test_what_is_slow_for_the_reference_may_be_slow_for_the_solution():
    slow = "import time\ndef f(x):\n    end = time.process_time() + {}\n"
    slow += "    while time.process_time() < end: pass\n    return x"
    about = task(slow.format(0.4), [[1]], [])
    assert judge(slow.format(1.3), about).passed
    assert judge(slow.format(3), about).status == "timeout"


def test_printing_and_changing_arguments_are_no_mistakes():
    about = task("def f(xs):\n    return sum(xs)\n", [[[1, 2]]], [[[3]]])
    assert judge("def f(xs):\n    t = sum(xs); xs.clear(); print(t); return t", about).passed


def test_floats_may_differ_in_their_last_digits_and_nothing_else_may():
    about = task("def f(x):\n    return x / 3\n", [[1.0]], [[2.0]])
    assert judge("def f(x):\n    return x * 0.333333333333", about).passed
    assert not judge("def f(x):\n    return x * 0.333", about).passed
    assert judge(
        "def f(x):\n    return x * 0.333", task(about.canonical_solution, atol=0.01)
    ).passed
    assert not judge("def f(x):\n    return str(x / 3)", about).passed
    assert not judge("def f(x):\n    return 1", task("def f(x):\n    return 1 + 1e-9\n")).passed
    exact = task("def f(x):\n    return 10 ** 9\n")
    assert not judge("def f(x):\n    return 10 ** 9 + 1", exact).passed


def test_any_root_of_a_polynomial_is_right_and_no_other_number():
    root = "def f(xs):\n    xs.clear(); return 1.0\n"
    about = task(root, [[[2, -3, 1]]], [], task_id="HumanEval/32", atol=1e-4, format="humaneval+")
    assert judge("def f(xs):\n    return 2.0", about).passed
    assert not judge("def f(xs):\n    return 1.5", about).passed
    assert not judge("def f(xs):\n    xs.clear(); return 1.5", about).passed
    assert not judge("def f(xs):\n    return float('nan')", about).passed


def test_tasks_whose_tests_compare_sets_take_any_order():
    reference = "def f(a, b):\n    return tuple(sorted(set(a) & set(b)))\n"
    about = task(reference, [[[1, 2, 3], [3, 2]]], [], task_id="Mbpp/2")
    assert judge("def f(a, b):\n    return [x for x in (3, 2)]", about).passed
    assert judge("def f(a, b):\n    return (x for x in (3, 2, 2))", about).passed
    assert not judge("def f(a, b):\n    return [3]", about).passed


def test_tasks_that_ask_for_a_match_take_whatever_is_not_none():
    about = task("import re\ndef f(x):\n    return re.match('a', x)\n", [["a"], ["b"]], [])
    about = Task(**{**about.__dict__, "task_id": "Mbpp/787"})
    assert judge("def f(x):\n    return 'Found' if x == 'a' else None", about).passed
    assert judge("def f(x):\n    return x == 'a'", about).passed
    assert not judge("def f(x):\n    return 'Found'", about).passed


def test_a_task_may_have_no_plus_inputs():
    assert judge("def f(x):\n    return [x, x + 1]", task(plus=[])).passed


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, (2.5, None)], (1, "b"): {True}},
        [10**5000, -(10**400), 1, -1],
        [float("inf"), 1e-300],
        b"\x00\xff",
        2 + 3j,
        "\ud800 ✓",
        frozenset({1, (2,)}),
        [[]],
        {},
    ],
)
def test_plain_data_survive_the_way_to_the_judge(value: object):
    assert decode(json.dumps(encode(value))) == value


def test_what_is_no_plain_data_equals_nothing():
    assert decode(json.dumps(encode(object()))) != decode(json.dumps(encode(object())))
