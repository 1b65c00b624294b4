"""Order, laziness, verdicts and files of `privcode execute`."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import privcode
from privcode.errors import UserError
from privcode.execution import (
    Limits,
    Program,
    _sandboxes,
    choose_sandbox,
    execute,
    execute_file,
    sandboxes,
)
from privcode.execution._worker import Worker

if not any(state.available for state in sandboxes()):
    pytest.skip("no sandbox on this machine", allow_module_level=True)


def statuses(*codes: str, **limits: float) -> list[tuple[str, str]]:
    programs = [Program(str(n), code) for n, code in enumerate(codes)]
    return [(o.status, o.error) for o in execute(programs, Limits(**limits))]


def test_outcomes_come_in_input_order():
    codes = ["import time; time.sleep(0.5)", "pass", "1/0", "pass"]
    programs = [Program(str(n), code) for n, code in enumerate(codes)]
    assert [o.id for o in execute(programs)] == ["0", "1", "2", "3"]


@pytest.fixture(params=[state.name for state in sandboxes() if state.available])
def worker(request):
    made = Worker(choose_sandbox(request.param), Limits(wall_seconds=20), slot=1)
    yield made
    made.close()


def sleeper(mark: str) -> Program:
    return Program(
        "s", f"import os\nif os.fork(): os.wait()\nos.execv('/bin/sleep', ['{mark}', '9'])"
    )


def alive(mark: str) -> bool:
    """Whether anything with `mark` on its command line is left after a moment."""
    for _ in range(40):
        command = ["pgrep", "-f", f"^{mark}"]
        if subprocess.run(command, check=False, stdout=-1).returncode:
            return False
        time.sleep(0.05)
    return True


def started(mark: str) -> None:
    while subprocess.run(["pgrep", "-f", f"^{mark}"], check=False, stdout=-1).returncode:
        time.sleep(0.05)


def server_of(mark: str, worker: Worker) -> int:
    """What was started for a `sleeper`; podman's is no server, so there its grandparent."""
    if worker.sandbox.name != "podman":
        return worker._server._process.pid
    (process,) = map(int, subprocess.check_output(["pgrep", "-f", f"^{mark}"]).split())
    for _ in range(2):
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process


def test_a_server_that_dies_takes_its_program_along_and_is_replaced(worker):
    mark = secrets.token_hex(8)
    with ThreadPoolExecutor() as pool:
        outcome = pool.submit(worker.run, sleeper(mark))
        started(mark)
        os.kill(server_of(mark, worker), signal.SIGKILL)
        assert (outcome.result().status, outcome.result().error) == ("error", "ServerLost")
    assert not alive(mark)
    assert worker.run(Program("next", "print(1)")).stdout == "1\n"


def test_a_server_that_died_idle_is_replaced(worker):
    assert worker.run(Program("first", "print(1)")).stdout == "1\n"
    worker._server._process.kill()
    worker._server._process.wait()
    assert worker.run(Program("next", "print(1)")).stdout == "1\n"


def test_a_closed_iterator_leaves_nothing_running(worker):
    mark = secrets.token_hex(8)
    outcomes = execute([Program("a", ""), sleeper(mark)], sandbox=worker.sandbox.name, workers=1)
    next(outcomes)
    started(mark)
    outcomes.close()
    assert not alive(mark)


def test_nothing_outlives_a_caller_that_is_killed(worker):
    mark = secrets.token_hex(8)
    code = f"""
from privcode.execution import Program, execute
list(execute([Program("s", {sleeper(mark).code!r})], sandbox={worker.sandbox.name!r}, workers=1))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(privcode.__file__).parents[1])}
    caller = subprocess.Popen([sys.executable, "-c", code], env=environment)
    started(mark)
    caller.kill()
    caller.wait()
    assert not alive(mark)


@pytest.mark.parametrize(
    ("module", "why"),
    [("nonesuch", "No module named 'nonesuch'"), ("this.is.none", "No module named 'this.is'")],
)
def test_a_module_that_cannot_be_preloaded_is_named(module, why):
    with pytest.raises(UserError, match=f"preload {module}: ModuleNotFoundError: {why}"):
        list(execute([Program("a", "")], Limits(preload=(module,))))


def test_a_module_that_starts_threads_is_not_preloaded(worker, monkeypatch):
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    (folder / "threading_module.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[9], daemon=True).start()"
    )
    executable, packages, readable = _sandboxes._interpreter()
    found = executable, (*packages, str(folder)), (*readable, str(folder))
    monkeypatch.setattr(_sandboxes, "_interpreter", lambda: found)
    worker._server.preload = ("threading_module",)
    with pytest.raises(UserError, match="starts threads"):
        worker.run(Program("a", ""))
    shutil.rmtree(folder)


def test_a_preloaded_module_is_there_from_the_start():
    code = "import sys\nassert 'numpy' in sys.modules\nimport numpy\nprint(numpy.arange(3).sum())"
    (outcome,) = execute([Program("a", code)], Limits(preload=("numpy",)))
    assert outcome.stdout == "3\n"


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


@pytest.mark.parametrize("sandbox", [state.name for state in sandboxes() if state.available])
@pytest.mark.parametrize("mask", [0o077, 0])
def test_the_callers_mask_of_modes_is_not_the_programs(sandbox, mask):
    code = """
import os
os.mkdir('made'); open('made/file', 'w').close(); os.remove('made/file'); os.rmdir('made')
import wave  # from the interpreter's library, not loaded yet
assert os.umask(0) == 0o022
"""
    before = os.umask(mask)
    try:
        (outcome,) = execute([Program("1", code)], Limits(), sandbox=sandbox)
    finally:
        os.umask(before)
    assert (outcome.status, outcome.stderr) == ("ok", "")


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


@pytest.fixture
def busy_machine():
    """Four loops per core, before anything that is measured.

    Each in a session of its own, or a kernel that shares the cores among sessions
    (sched_autogroup) gives a program as much as all of them.
    """
    command = [sys.executable, "-c", "while True: pass"]
    loops = range(4 * (os.cpu_count() or 1))
    load = [subprocess.Popen(command, start_new_session=True) for _ in loops]
    yield
    for process in load:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_waiting_for_a_core_is_no_wall_time(worker, busy_machine):
    worker.limits = Limits(wall_seconds=1.5)
    code = "import time\nwhile time.process_time() < 1: pass"
    outcome = worker.run(Program("a", code))
    assert outcome.status == "ok"
    assert outcome.seconds > 2  # or this machine was not busy
    sleeping = worker.run(Program("b", "import time\ntime.sleep(20)"))
    assert (sleeping.error, sleeping.seconds < 10) == ("WallTime", True)


@pytest.mark.slow
def test_500_right_programs_pass_on_a_busy_machine(busy_machine):
    code = "import time\nwhile time.process_time() < 0.02: pass\nassert sum(range(100)) == 4950"
    programs = [Program(str(n), code, checked=True) for n in range(500)]
    outcomes = list(execute(programs, Limits(cpu_seconds=1, wall_seconds=1)))
    assert [o for o in outcomes if o.status != "ok"] == []


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
