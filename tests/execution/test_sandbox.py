"""What a hostile program tries, one thing each, in every sandbox this machine has."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from privcode.execution import Limits, Outcome, Program, execute, sandboxes

SMALL = Limits(cpu_seconds=1, wall_seconds=8, files_mb=8)


@pytest.fixture(params=["bubblewrap", "landlock"])
def box(request):
    (state,) = [s for s in sandboxes() if s.name == request.param]
    if not state.available:
        pytest.skip(f"{state.name}: {state.reason}")
    return request.param


def run(box: str, code: str, limits: Limits = SMALL, **fields: object) -> Outcome:
    (outcome,) = execute([Program("p", code, **fields)], limits, sandbox=box)
    return outcome


def attempt(action: str, setup: str = "") -> str:
    """A program that says whether `action` succeeded."""
    body = "\n    ".join(action.splitlines())
    return (
        f"{setup}\ntry:\n    {body}\n    print('DONE')\nexcept OSError as e:\n    print('no', e)\n"
    )


def alive(mark: str) -> list[str]:
    return [
        p.name
        for p in Path("/proc").iterdir()
        if p.name.isdigit() and mark in _command_line(p) and "pytest" not in _command_line(p)
    ]


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_a_plain_program_runs(box):
    outcome = run(box, "print(input()[::-1])", stdin="abc\n")
    assert (outcome.status, outcome.stdout, outcome.exit_code) == ("ok", "cba\n", 0)


def test_installed_packages_can_be_imported(box):
    assert run(box, "import numpy; print(numpy.arange(3).sum())").stdout == "3\n"


def test_asyncio_threads_and_subprocesses_work(box):
    code = """
import asyncio, subprocess, sys, threading
async def f(): await asyncio.sleep(0); return 'a'
print(asyncio.run(f()))
threading.Thread(target=print, args=('t',)).start()
print(subprocess.run([sys.executable, '-I', '-S', '-c', 'print(1)'], stdout=-1).stdout)
"""
    outcome = run(box, code)
    assert outcome.status == "ok", outcome
    assert "a" in outcome.stdout
    assert "b'1\\n'" in outcome.stdout


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_no_network_socket(box, family, kind):
    assert (
        "no"
        in run(
            box, attempt(f"socket.socket(socket.{family}, socket.{kind})", "import socket")
        ).stdout
    )


def test_no_unix_socket_to_the_host(box, tmp_path):
    address = "\0privcode-test-" + secrets.token_hex(4)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        action = f"socket.socket(socket.AF_UNIX).connect({address!r})"
        assert "no" in run(box, attempt(action, "import socket")).stdout


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/shadow", "/proc/1/cmdline", "~/.bashrc"])
def test_no_reading_of_the_host(box, path):
    path = os.path.expanduser(path)
    text = run(box, f"print(open({path!r}).read())").stdout
    assert "root:" not in text
    if path.startswith("/proc"):
        assert Path(path).read_text() not in text
    else:
        assert text == ""


def test_no_reading_of_a_secret_planted_outside(box):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("planted-secret")
        file.flush()
        os.chmod(file.name, 0o666)
        outcome = run(box, f"print(open({file.name!r}).read())")
    assert outcome.status in ("error", "blocked")
    assert "planted-secret" not in outcome.stdout


def test_no_writing_outside_scratch(box):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        kept = Path(folder, "kept")
        kept.write_text("whole")
        os.chmod(kept, 0o666)
        os.utime(kept, (1, 1))
        for action in (
            f"open({folder + '/new'!r}, 'w').write('x')",
            f"open({str(kept)!r}, 'a').write('x')",
            f"os.truncate({str(kept)!r}, 0)",
            f"os.remove({str(kept)!r})",
            f"os.chmod({str(kept)!r}, 0)",
            f"os.utime({str(kept)!r}, (2, 2))",
            f"os.mkdir({folder + '/d'!r})",
            f"os.link({str(kept)!r}, 'mine'); open('mine').read()",
        ):
            assert "DONE" not in run(box, attempt(action, "import os")).stdout, action
        assert kept.read_text() == "whole"
        assert kept.stat().st_mode & 0o777 == 0o666
        assert kept.stat().st_mtime == 1
        assert os.listdir(folder) == ["kept"]


def test_no_writing_into_the_installed_packages(box):
    target = str(Path(pytest.__file__).with_name("planted.py"))
    assert "DONE" not in run(box, attempt(f"open({target!r}, 'w')")).stdout
    assert not Path(target).exists()


def test_no_secret_from_the_environment(box, monkeypatch):
    secret = secrets.token_hex(8)
    monkeypatch.setenv("API_TOKEN", secret)
    code = """
import os, glob
print(dict(os.environ))
for path in glob.glob('/proc/*/environ') + ['/proc/1/environ', '/proc/self/environ',
        f'/proc/{os.getppid()}/environ', '/proc/PARENT/environ']:
    try: print(path, open(path, 'rb').read())
    except OSError as e: print(path, e)
""".replace("PARENT", str(os.getpid()))
    outcome = run(box, code)
    assert outcome.status == "ok", outcome
    assert secret not in outcome.stdout
    assert "API_TOKEN" not in outcome.stdout


def test_a_fork_bomb_is_bounded(box):
    code = """
import os, time
made = 0
try:
    for _ in range(500):
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError:
    pass
print(made)
"""
    outcome = run(box, code)
    assert 0 < int(outcome.stdout) <= 40, outcome


def test_an_exponential_fork_bomb_ends_and_leaves_nothing(box):
    mark = secrets.token_hex(8)
    code = (
        f"import os\nmark = '{mark}'\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    )
    outcome = run(box, code, Limits(cpu_seconds=1, wall_seconds=3))
    assert outcome.status in ("timeout", "error")
    assert run(box, "print('still well')").stdout == "still well\n"


def test_a_memory_bomb_is_stopped(box):
    outcome = run(box, "x = []\nwhile True: x.append(bytearray(1 << 24))", Limits(memory_mb=256))
    assert outcome.status == "memory"


def test_an_output_bomb_is_stopped(box):
    outcome = run(box, "while True: print('x' * 1000)")
    assert outcome.status == "output"
    assert len(outcome.stdout) <= 4096


def test_one_large_file_is_stopped(box):
    code = "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()"
    outcome = run(box, code)
    assert outcome.status in ("error", "output")


def test_many_files_are_stopped(box):
    code = """
import time
for i in range(100):
    with open(f'f{i}', 'wb') as f: f.write(bytes(1 << 20))
    time.sleep(0.02)
print('DONE')
"""
    outcome = run(box, code)
    assert outcome.status in ("error", "output")
    assert "DONE" not in outcome.stdout


def test_a_loop_that_ignores_signals_is_stopped(box):
    code = """
import signal
for s in (signal.SIGTERM, signal.SIGXCPU, signal.SIGINT, signal.SIGALRM):
    signal.signal(s, signal.SIG_IGN)
while True: pass
"""
    outcome = run(box, code)
    assert outcome.status == "timeout"
    assert outcome.seconds < 8


def test_a_sleeper_is_stopped_by_wall_time(box):
    outcome = run(box, "import time; time.sleep(60)", Limits(wall_seconds=1))
    assert (outcome.status, outcome.error) == ("timeout", "WallTime")


def test_a_program_that_closes_its_output_is_still_stopped(box):
    code = "import os, time\nos.closerange(0, 64)\ntime.sleep(60)"
    outcome = run(box, code, Limits(wall_seconds=1))
    assert outcome.status == "timeout"


def test_a_daemon_is_not_left_running(box):
    mark = secrets.token_hex(8)
    code = f"""
import os, sys
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        for fd in range(64):
            try: os.close(fd)
            except OSError: pass
        os.execv('/bin/sleep', ['{mark}', '60'])
    os._exit(0)
os.wait()
import time; time.sleep(0.3)
"""
    assert run(box, code).status == "ok"
    deadline = time.monotonic() + 2
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(mark)


def test_no_killing_of_anything_outside(box):
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        code = f"""
import os, signal
for pid in ({victim.pid}, {os.getpid()}):
    for s in (signal.SIGUSR1, signal.SIGKILL):
        try: os.kill(pid, s); print('DONE')
        except OSError: pass
"""
        assert "DONE" not in run(box, code).stdout
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_program_that_kills_all_it_can_is_not_ok(box):
    outcome = run(box, "import os\nos.kill(-1, 9)\nos.kill(os.getppid(), 9)\nos.killpg(0, 9)")
    assert outcome.status in ("error", "blocked")
    assert run(box, "print(1)").status == "ok"


def test_no_ptrace(box):
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(0, 0, 0, 0), ctypes.get_errno())
"""
    assert run(box, code).stdout == "-1 1\n"


@pytest.mark.parametrize("call", ["unshare(0x10000000)", "unshare(0x40000000)", "setns(0, 0)"])
def test_no_new_namespaces(box, call):
    code = (
        f"import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nprint(l.{call}, ctypes.get_errno())"
    )
    assert run(box, code).stdout == "-1 1\n"


def test_no_raising_of_limits(box):
    code = """
import resource
for name in ('AS', 'CPU', 'NPROC', 'FSIZE', 'NOFILE'):
    try: resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (1 << 40, 1 << 40)); print('DONE')
    except (OSError, ValueError): pass
"""
    assert run(box, code).stdout == ""


def test_no_powers_are_left(box):
    code = """
import ctypes, os
print(os.getuid() != 0 and os.geteuid() != 0)
print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))
"""
    assert run(box, code).stdout == "True\n1\n"


@pytest.fixture
def scratch_parent(monkeypatch):
    """A folder of this test's own: tests running beside it have scratch directories too."""
    parent = tempfile.mkdtemp(prefix="scratch-")
    os.chmod(parent, 0o755)
    monkeypatch.setattr(tempfile, "tempdir", parent)
    yield parent
    os.rmdir(parent)


def test_scratch_is_private_to_a_program_and_gone_afterwards(box, scratch_parent):
    first = run(box, "import os\nopen('note', 'w').write('x')\nprint(os.getcwd())")
    second = run(box, "import os\nprint(os.path.exists('note'))")
    assert (first.status, second.stdout) == ("ok", "False\n")
    assert os.listdir(scratch_parent) == []


def test_a_deep_scratch_directory_is_removed(box, scratch_parent):
    code = "import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\nopen('f', 'w')"
    assert run(box, code).status == "ok"
    assert os.listdir(scratch_parent) == []
