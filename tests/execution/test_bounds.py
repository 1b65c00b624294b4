"""What a hostile program uses up or leaves behind, in every sandbox, as root and not."""

import secrets
import time
from pathlib import Path

import pytest

from privcode.execution import Limits

SMALL = Limits(cpu_seconds=1, wall_seconds=8, files_mb=8)


def alive(mark: str) -> list[str]:
    return [
        process.name
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and mark in _command_line(process)
    ]


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


# Time


def test_a_loop_is_stopped_by_processor_time(box):
    outcome = box.run("while True: pass")
    assert (outcome.status, outcome.error) == ("timeout", "ProcessorTime")


def test_a_loop_that_ignores_signals_is_stopped(box):
    code = """
import signal
for s in (signal.SIGTERM, signal.SIGXCPU, signal.SIGINT, signal.SIGALRM):
    signal.signal(s, signal.SIG_IGN)
while True: pass
"""
    assert box.run(code, Limits(cpu_seconds=1)).status == "timeout"


def test_many_processes_share_the_processor_time(box):
    code = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        while time.process_time() < 0.9: pass
        os._exit(0)
for _ in range(4): os.wait()
time.sleep(1)
"""
    outcome = box.run(code, Limits(cpu_seconds=1, wall_seconds=20))
    assert (outcome.status, outcome.error) == ("timeout", "ProcessorTime")


def test_a_sleeper_is_stopped_by_wall_time(box):
    outcome = box.run("import time; time.sleep(60)", Limits(wall_seconds=1))
    assert (outcome.status, outcome.error) == ("timeout", "WallTime")


def test_a_program_that_closes_its_output_is_still_stopped(box):
    code = "import os, time\nos.closerange(0, 64)\ntime.sleep(60)"
    assert box.run(code, Limits(wall_seconds=1)).status == "timeout"


def test_a_program_that_stops_itself_is_stopped(box):
    code = "import os, signal\nos.killpg(0, signal.SIGSTOP)"
    assert box.run(code, Limits(wall_seconds=1)).status == "timeout"


# Processes


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
    outcome = box.run(code)
    assert 0 < int(outcome.stdout) <= 40, outcome


def test_an_exponential_fork_bomb_ends_and_leaves_nothing(box):
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    first, second = box.all([code, "print('still well')"], Limits(cpu_seconds=1, wall_seconds=3))
    assert first.status in ("timeout", "error")
    assert second.stdout == "still well\n"


@pytest.mark.parametrize("checked", [False, True])
def test_a_daemon_is_not_left_running(box, checked):
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
    assert box.run(code, checked=checked).status == "ok"
    assert not alive(mark)


def test_dead_orphans_do_not_count_for_ever(box):
    code = """
import os, time
def fork():
    while True:
        try: return os.fork()
        except BlockingIOError: time.sleep(0.1)
for _ in range(60):
    if fork() == 0:
        if fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
"""
    assert box.run(code, Limits(wall_seconds=8)).status == "ok"


# Memory


def test_a_memory_bomb_is_stopped(box):
    code = "x = []\nwhile True: x.append(bytearray(1 << 24))"
    assert box.run(code, Limits(memory_mb=256)).status == "memory"


def test_many_processes_share_the_memory(box):
    code = """
import os, time
for _ in range(7):
    if os.fork() == 0: break
kept = bytearray(os.urandom(1 << 20)) * 40
time.sleep(5)
print('DONE')
"""
    outcome = box.run(code, Limits(memory_mb=200, wall_seconds=20, cpu_seconds=10))
    assert (outcome.status, outcome.error, outcome.stdout) == ("memory", "MemoryLimit", "")


def test_pages_shared_after_a_fork_count_once(box):
    code = """
import os, time
kept = bytearray(60 << 20)
for _ in range(7):
    if os.fork() == 0: break
time.sleep(1)
"""
    assert box.run(code, Limits(memory_mb=200)).status == "ok"


# Files and output


def test_one_large_file_is_stopped(box):
    code = "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()"
    assert box.run(code).status in ("error", "output")


_FILL = """
import os, time
def fill(write):
    for i in range(40):
        try: write(i)
        except OSError as e: raise SystemExit(str(e))
        time.sleep(0.02)
    print('DONE')
"""


@pytest.mark.parametrize(
    "write",
    [
        "open(f'f{i}', 'wb').write(bytes(1 << 20))",
        "kept.append(os.open(f'f{i}', os.O_CREAT | os.O_RDWR)); os.unlink(f'f{i}');"
        " os.write(kept[-1], bytes(1 << 20))",
        "kept.append(os.open('.', os.O_TMPFILE | os.O_RDWR)); os.write(kept[-1], bytes(1 << 20))",
        "os.makedirs('d', 0o300, exist_ok=True); open(f'd/f{i}', 'wb').write(bytes(1 << 20))",
        "fd = os.open(f'f{i}', os.O_CREAT | os.O_RDWR); os.write(fd, bytes(1 << 20));"
        " kept.append(mmap.mmap(fd, 4096)); os.close(fd); os.unlink(f'f{i}')",
        "open(f'/dev/shm/f{i}', 'wb').write(bytes(1 << 20))",
        pytest.param(
            "[open(f'f{i}.{j}', 'w').close() for j in range(400)]",
            marks=pytest.mark.slow,
        ),
        pytest.param("os.makedirs('/'.join(f'd{i}' for _ in range(300)))", marks=pytest.mark.slow),
    ],
    ids=["files", "deleted", "unnamed", "closed", "mapped", "shm", "empty", "folders"],
)
def test_many_files_are_stopped(box, write):
    code = f"{_FILL}\nimport mmap\nkept = []\ndef one(i):\n    {write}\nfill(one)"
    outcome = box.run(code, Limits(files_mb=8))
    assert outcome.status in ("error", "output", "blocked", "timeout"), outcome
    assert "DONE" not in outcome.stdout


def test_deleted_files_cannot_hide_in_a_socket(box):
    code = f"""{_FILL}
import socket
ours, theirs = socket.socketpair()
def one(i):
    fd = os.open(f'f{{i}}', os.O_CREAT | os.O_RDWR)
    os.write(fd, bytes(1 << 20))
    socket.send_fds(ours, [b'x'], [fd])
    os.close(fd)
    os.unlink(f'f{{i}}')
fill(one)
"""
    outcome = box.run(code)
    assert outcome.status in ("error", "output", "blocked"), outcome
    assert "DONE" not in outcome.stdout


def test_a_zip_bomb_is_stopped(box):
    code = """
import io, zipfile
packed = io.BytesIO()
with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as file:
    for i in range(40): file.writestr(f'f{i}', bytes(1 << 20))
zipfile.ZipFile(packed).extractall('.')
import time; time.sleep(0.5)
print('DONE')
"""
    outcome = box.run(code, Limits(files_mb=8))
    assert outcome.status in ("error", "output")
    assert "DONE" not in outcome.stdout


def test_open_files_are_bounded(box):
    code = """
kept = []
try:
    while True: kept.append(open('/dev/null'))
except OSError:
    print(len(kept))
"""
    assert 0 < int(box.run(code).stdout) <= SMALL.open_files


def test_an_output_bomb_is_stopped(box):
    outcome = box.run("while True: print('x' * 1000)")
    assert outcome.status == "output"
    assert len(outcome.stdout) <= 4096


def test_an_output_bomb_of_a_child_is_stopped(box):
    code = "import os, time\nif os.fork() == 0:\n    while True: os.write(2, b'x' * 999)\n"
    assert box.run(code + "time.sleep(60)").status == "output"


def test_limits_cannot_be_raised(box):
    code = """
import os, resource
for name in ('AS', 'CPU', 'NPROC', 'FSIZE', 'NOFILE'):
    for most in (1 << 40, resource.RLIM_INFINITY):
        try: resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (most, most)); print('DONE')
        except (OSError, ValueError): pass
    try: resource.prlimit(os.getppid(), getattr(resource, 'RLIMIT_' + name), (1, 1)); print('DONE')
    except OSError: pass
"""
    assert box.run(code).stdout == ""


# What is left


def _scratches(box):
    """What lies in the caller's own folder, but its lock and a container's empty root."""
    left = list(box.caller.scratch.glob("privcode-run-*/*"))
    return [path for path in left if path.name != "lock" and not path.name.startswith("root-")]


def test_scratch_is_gone_afterwards(box):
    # A Python that itself lies below /tmp is shown there.
    look = "import os\nprint(os.listdir('.'))\nopen('note', 'w').write('x')"
    first, second = box.all([look, look])
    assert (first.status, second.status, second.stdout) == ("ok", "ok", first.stdout)
    assert "note" not in first.stdout
    assert _scratches(box) == []


def test_a_deep_or_closed_scratch_directory_is_removed(box):
    code = """
os.makedirs('closed/in', 0o300); open('closed/in/f', 'w'); os.mkdir('shut', 0)
for _ in range(40):  # longer than a path may be
    os.mkdir('d' * 200); os.chdir('d' * 200)
open('f', 'w')
"""
    box.run(code)
    deadline = time.monotonic() + 2
    while _scratches(box) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _scratches(box) == []
