"""Run programs inside a sandbox, many at a time, and say how each ended.

Promises: outcomes come lazily and in input order with a bounded number of programs in hand; a
program is `ok` only if it ended by itself with exit code 0 within every limit and, if `checked`,
after its last statement was reached; whatever it started is killed before its outcome is given.
Does not: withstand a *checked* program that searches its own open files for the nonce; and
counts processor seconds per process, so many processes are bounded by wall time.
"""

import errno
import fcntl
import marshal
import math
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from privcode.errors import UserError
from privcode.execution._sandboxes import Sandbox, choose_sandbox

Status = Literal["ok", "error", "timeout", "memory", "output", "blocked", "unsupported"]

TAIL = 4096
_POLL_SECONDS = 0.1
_MAX_FILES = 10_000
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


@dataclass(frozen=True)
class Program:
    """One program; `checked` asks for proof that its last statement was reached."""

    id: str
    code: str
    language: str = "python"
    stdin: str = ""
    checked: bool = False


@dataclass(frozen=True)
class Limits:
    """Bounds for one program; memory and processor time are per process."""

    cpu_seconds: float = 5
    wall_seconds: float = 30
    memory_mb: int = 1024
    output_kb: int = 64
    processes: int = 32
    files_mb: int = 64
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """How a program ended; `stdout` and `stderr` are the last few kB, `seconds` wall time."""

    id: str
    status: Status
    exit_code: int | None
    seconds: float
    stdout: str
    stderr: str
    error: str


class SandboxFailure(Exception):
    """The sandbox itself did not start; the program was never run."""


def execute(
    programs: Iterable[Program],
    limits: Limits | None = None,
    *,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Outcome]:
    """Run each program in its own sandbox; outcomes come lazily, in input order.

    Args:
        programs: consumed a few ahead of the outcomes taken.
        limits: the same for every program; default `Limits()`.
        sandbox: "auto", "bubblewrap" or "landlock".
        workers: programs at a time, at most and by default the machine's cores.
        progress: called with 1 for every outcome.

    Raises:
        UserError: no sandbox works on this machine, or it stopped working.
    """
    chosen = choose_sandbox(sandbox)
    return _execute(programs, limits or Limits(), chosen, workers, progress)


def _execute(
    programs: Iterable[Program],
    limits: Limits,
    sandbox: Sandbox,
    workers: int | None,
    progress: Callable[[int], None] | None,
) -> Iterator[Outcome]:
    cores = os.cpu_count() or 1
    count = max(1, min(workers or cores, cores))
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(count):
        slots.put(slot)
    stop = threading.Event()

    def run(program: Program) -> Outcome:
        slot = slots.get()
        try:
            return run_one(program, limits, sandbox, slot, stop)
        except SandboxFailure:  # a shortage that may pass: once more, then give up
            time.sleep(0.5)
            return run_one(program, limits, sandbox, slot, stop)
        finally:
            slots.put(slot)

    pending: deque[Future[Outcome]] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        source = iter(programs)
        exhausted = False
        while True:
            while not exhausted and len(pending) < 4 * count:
                program = next(source, None)
                if program is None:
                    exhausted = True
                else:
                    pending.append(pool.submit(run, program))
            if not pending:
                return
            try:
                outcome = pending.popleft().result()
            except SandboxFailure as failure:
                raise UserError(
                    f"sandbox: {sandbox.name} stopped working ({failure}); free memory and "
                    "processes, then run again"
                ) from failure
            if progress is not None:
                progress(1)
            yield outcome
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def run_one(
    program: Program,
    limits: Limits,
    sandbox: Sandbox,
    slot: int,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run one program; `slot` keeps programs that run side by side under different users.

    Raises:
        SandboxFailure: the sandbox did not start.
    """
    if program.language != "python":
        message = f"no runner for {program.language!r}; only python runs for now"
        return Outcome(program.id, "unsupported", None, 0.0, "", "", message)
    uid = 1_500_000_000 + os.getpid() % 1_000_000 * 64 + slot % 64 if os.geteuid() == 0 else None
    with ExitStack() as stack:
        scratch = Path("/tmp")
        if sandbox.scratch_on_disk:
            scratch = Path(tempfile.mkdtemp(prefix="privcode-"))
            stack.callback(_remove, scratch)
            if uid is not None:
                os.chown(scratch, uid, uid)
        launch = sandbox.launch(scratch, limits.files_mb << 20, uid)
        nonce = secrets.token_hex(16).encode() if program.checked else b"-"
        request = launch.request | {
            "code": program.code,
            "checked": program.checked,
            "limits": _rlimits(limits, shared_user=sandbox.scratch_on_disk and uid is None),
        }
        stdin = _memory_file(stack, program.stdin.encode("utf-8", "replace"))
        order = _memory_file(stack, marshal.dumps(request))
        nonce_fd = _memory_file(stack, nonce)
        report, report_end = os.pipe()
        stack.callback(os.close, report)
        passed = [order, report_end, nonce_fd]
        command = list(launch.command)
        if launch.bpf is not None:
            passed.append(_memory_file(stack, launch.bpf))
            command[1:1] = ["--seccomp", str(passed[-1])]
        try:
            process = subprocess.Popen(
                [*command, str(order), str(report_end), str(nonce_fd)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=passed,
                cwd=scratch,
                env=_ENVIRONMENT | {"HOME": str(scratch), "TMPDIR": str(scratch)},
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxFailure(error.strerror) from error
        finally:
            os.close(report_end)
        with process:
            watched = scratch if sandbox.scratch_on_disk else None
            return _supervise(process, program, limits, report, nonce, watched, stop)


def _supervise(
    process: "subprocess.Popen[bytes]",
    program: Program,
    limits: Limits,
    report: int,
    nonce: bytes,
    watched: Path | None,
    stop: threading.Event | None,
) -> Outcome:
    """Read the program's output until it ends or breaks a limit, then kill its whole group."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.fileno(), process.stderr.fileno()
    kept = {out: bytearray(), err: bytearray(), report: bytearray()}
    total = 0
    broken: tuple[Status, str] | None = None
    begin = checked = time.monotonic()
    ended = os.pidfd_open(process.pid)
    poll = select.poll()
    for fd in (out, err, report, ended):
        poll.register(fd, select.POLLIN)
    open_fds = {out, err, report}
    drain_until: float | None = None
    try:
        while open_fds:
            now = time.monotonic()
            if drain_until is None:
                if now - begin > limits.wall_seconds:
                    broken = broken or ("timeout", "WallTime")
                elif stop is not None and stop.is_set():
                    broken = broken or ("error", "Interrupted")
                elif watched is not None and now > checked + _POLL_SECONDS:
                    checked = now
                    if _used(watched) > limits.files_mb << 20:
                        broken = broken or ("output", "DiskLimit")
                if broken is not None:
                    _kill(process.pid)
                    drain_until = now + 2
            elif now > drain_until:
                break
            for fd, _ in poll.poll(1000 * _POLL_SECONDS):
                if fd == ended:
                    poll.unregister(ended)
                    _kill(process.pid)  # before it is reaped, so its group is still its own
                    drain_until = drain_until or time.monotonic() + 2
                    continue
                chunk = os.read(fd, 65536)
                if not chunk:
                    poll.unregister(fd)
                    open_fds.discard(fd)
                    continue
                kept[fd] = (kept[fd] + chunk)[-TAIL:]
                if fd != report:
                    total += len(chunk)
                    if total > limits.output_kb << 10:
                        broken = broken or ("output", "OutputLimit")
        # Every pipe may be closed while the program goes on: wait out its time.
        while broken is None and not select.select([ended], [], [], _POLL_SECONDS)[0]:
            if time.monotonic() - begin > limits.wall_seconds:
                broken = ("timeout", "WallTime")
            elif stop is not None and stop.is_set():
                broken = ("error", "Interrupted")
            elif watched is not None and _used(watched) > limits.files_mb << 20:
                broken = ("output", "DiskLimit")
    finally:
        _kill(process.pid)
        os.close(ended)
    code = process.wait()
    seconds = time.monotonic() - begin
    code = 128 - code if code < 0 else code
    stdout, stderr = (kept[fd].decode("utf-8", "replace") for fd in (out, err))
    reported = bytes(kept[report])
    if not reported.startswith(b"started\n") and broken is None:
        last = stderr.strip().splitlines()
        raise SandboxFailure(last[-1] if last else f"exit code {code}")
    status, error = broken or _verdict(code, stderr, seconds, limits)
    if status == "ok" and program.checked and reported != b"started\n" + nonce:
        status, error = "error", "NoVerdict"
    return Outcome(program.id, status, code, round(seconds, 4), stdout, stderr, error)


def _verdict(code: int, stderr: str, seconds: float, limits: Limits) -> tuple[Status, str]:
    """Status and error class of a program that ended by itself or by a kernel limit."""
    if code == 0:
        return "ok", ""
    late = seconds > limits.cpu_seconds
    if code == 128 + signal.SIGXCPU or (code == 128 + signal.SIGKILL and late):
        return "timeout", "ProcessorTime"
    if code > 128:
        with suppress(ValueError):
            return "error", signal.Signals(code - 128).name
    lines = stderr.strip().splitlines()
    match = re.match(r"([A-Za-z_][\w.]*)(?::|$)", lines[-1]) if lines else None
    name = match[1] if match else f"ExitCode{code}"
    if name == "ModuleNotFoundError":
        module = re.search(r"No module named '([^']+)'", lines[-1])
        return "error", f"{name}: {module[1]}" if module else name
    if name == "PermissionError":
        return "blocked", name
    return ("memory", name) if name == "MemoryError" else ("error", name)


def _rlimits(limits: Limits, *, shared_user: bool) -> dict[str, tuple[int, int]]:
    """Names of `resource` limits -> (soft, hard)."""
    cpu = max(1, math.ceil(limits.cpu_seconds))
    # Elsewhere the program's user or namespace is its own; here its user runs other things too.
    processes = limits.processes + (_own_tasks() if shared_user else 0)
    one_file, memory = limits.files_mb << 20, limits.memory_mb << 20
    return {
        "RLIMIT_CPU": (cpu, cpu + 1),
        "RLIMIT_AS": (memory, memory),
        "RLIMIT_NPROC": (processes, processes),
        "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
        "RLIMIT_FSIZE": (one_file, one_file),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
    }


def _own_tasks() -> int:
    """Tasks (threads) of this user at present: what RLIMIT_NPROC already counts."""
    count, me = 0, os.getuid()
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == me:
                count += os.stat(f"{entry.path}/task").st_nlink - 2
    return count


def _memory_file(stack: ExitStack, content: bytes) -> int:
    """A sealed file in memory, at its beginning."""
    fd = os.memfd_create("privcode", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    with open(os.dup(fd), "wb") as file:
        file.write(content)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _used(folder: Path) -> int:
    """Bytes on disk below `folder`; too many entries, or too deep, count as over any limit."""
    over = 1 << 62
    size = entries = 0
    folders = [str(folder)]
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                entries += 1
                with suppress(FileNotFoundError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return over
        if entries > _MAX_FILES:
            return over
    return size


def _remove(folder: Path) -> None:
    """Delete a scratch directory, however deep a program made it."""
    shutil.rmtree(folder, onerror=lambda *_: None) if _shallow(folder) else None
    if folder.exists():
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)


def _shallow(folder: Path) -> bool:
    return all(not entry.is_dir(follow_symlinks=False) for entry in os.scandir(folder))
