"""Order, laziness, verdicts and files of `privcode execute`."""

import json

import pytest

from privcode.errors import UserError
from privcode.execution import Limits, Program, choose_sandbox, execute, execute_file, sandboxes

if not any(state.available for state in sandboxes()):
    pytest.skip("no sandbox on this machine", allow_module_level=True)


def statuses(*codes: str, **limits: float) -> list[tuple[str, str]]:
    programs = [Program(str(n), code) for n, code in enumerate(codes)]
    return [(o.status, o.error) for o in execute(programs, Limits(**limits))]


def test_outcomes_come_in_input_order():
    codes = ["import time; time.sleep(0.5)", "pass", "1/0", "pass"]
    programs = [Program(str(n), code) for n, code in enumerate(codes)]
    assert [o.id for o in execute(programs)] == ["0", "1", "2", "3"]


def test_programs_are_taken_only_a_few_ahead():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield Program(str(taken), "pass")

    outcomes = execute(endless(), workers=1)
    assert next(outcomes).id == "1"
    outcomes.close()
    assert taken < 10


def test_a_plain_program_runs(box):
    outcome = box.run("print(input()[::-1])", stdin="abc\n")
    assert (outcome.status, outcome.stdout, outcome.exit_code) == ("ok", "cba\n", 0)


def test_asyncio_threads_and_subprocesses_work(box):
    code = """
import asyncio, subprocess, sys, threading
async def f(): await asyncio.sleep(0); return 'a'
print(asyncio.run(f()))
threading.Thread(target=print, args=('t',)).start()
print(subprocess.run([sys.executable, '-I', '-S', '-c', 'print(1)'], stdout=-1).stdout)
"""
    outcome = box.run(code)
    assert outcome.status == "ok", outcome
    assert "a" in outcome.stdout
    assert "b'1\\n'" in outcome.stdout


def test_installed_packages_can_be_imported():
    (outcome,) = execute([Program("a", "import numpy; print(numpy.arange(3).sum())")])
    assert outcome.stdout == "3\n"


def test_each_error_has_its_class():
    assert statuses("1/0", "import nonesuch.deep", "def", "raise SystemExit(3)") == [
        ("error", "ZeroDivisionError"),
        ("error", "ModuleNotFoundError: nonesuch"),
        ("error", "SyntaxError"),
        ("error", "ExitCode3"),
    ]


def test_an_unknown_language_is_unsupported_and_not_run():
    (outcome,) = execute([Program("a", "x", language="cobol")])
    assert (outcome.status, outcome.exit_code) == ("unsupported", None)


def test_text_that_is_not_unicode_is_an_error_of_the_program():
    assert statuses("x = '\ud800'", "x = '\0'") == [
        ("error", "UnicodeEncodeError"),
        ("error", "SyntaxError"),
    ]


def test_an_unknown_sandbox_is_named():
    with pytest.raises(UserError, match=r"'none'.*bubblewrap"):
        choose_sandbox("none")


def test_a_file_keeps_its_rows_and_other_fields(tmp_path):
    source, destination = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": 1, "code": "print(2)", "tag": "x"}, {"id": "b", "code": "1/0"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = execute_file(source, destination)
    first, second = map(json.loads, destination.read_text().splitlines())
    assert (first["tag"], first["status"], first["stdout"]) == ("x", "ok", "2\n")
    assert second["error"] == "ZeroDivisionError"
    assert counts == {
        "programs": 2,
        "status": {"ok": 1, "error": 1},
        "errors": {"ZeroDivisionError": 1},
    }


def test_a_bad_row_names_file_row_and_field_before_anything_runs(tmp_path):
    source, destination = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": 1, "code": "pass"}\n{"id": 2, "code": 5}\n')
    with pytest.raises(UserError, match=r"in\.jsonl, row 2, field code: is a int"):
        execute_file(source, destination)
    assert not destination.exists()
