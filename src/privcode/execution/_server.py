"""A server inside a sandbox, and what happens to each task that it is given.

Promises:
- A task is `ok` only if it ended by itself with exit code 0, within every limit. If `checked`, it
  must also have reached its last statement.
- Whatever a task started is dead before its outcome is given.
- A server that died, or does not answer, is replaced before the next task.

Does not: see inside. What the server reports is believed.
"""

import fcntl
import marshal
import math
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from privcode.errors import UserError
from privcode.execution._folder import new_folder, remove
from privcode.execution._languages import python_error
from privcode.execution._program import Limits, Outcome, Status
from privcode.execution._sandboxes import ENVIRONMENT, Sandbox

TAIL = 4096
_POLL_SECONDS = 0.1
_START_SECONDS = 300.0  # a large module, on a busy machine
_GRACE_SECONDS = 5.0
_PATIENCE = 10  # times the wall time, most of it spent waiting for a core
_SCRATCH = Path("/tmp")  # in namespaces
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_RUNTIME = 256 << 20  # bytes of writable memory above the bound, which may not be resident


class SandboxFailure(Exception):
    """The sandbox itself did not start. The task was never begun."""


@dataclass(frozen=True)
class Task:
    """What a server does once: run `code` as Python, or a `command`, in a scratch with `files`.

    Attributes:
        stdin: text.
        checked: whether Python code has to prove that its last statement was reached.
        judge: status and error class of a task that ended by itself, from exit code and stderr.
        reserves: bound the memory that it may write to, not its address space.
        made: a path in the scratch; the files below it are returned.
    """

    id: str
    limits: Limits
    code: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: str = ""
    checked: bool = False
    judge: Callable[[int, str], tuple[Status, str]] = python_error
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    reserves: bool = False
    made: str = ""


class Server:
    """Does one task at a time. `slot` separates the users of servers that run side by side.

    It starts with the first task, and again where the next task needs other tools.
    """

    def __init__(self, sandbox: Sandbox, preload: Sequence[str], slot: int) -> None:
        self.sandbox, self.preload = sandbox, tuple(preload)
        # As root, programs run as a user that nothing else on the machine has.
        base = 1_500_000_000 + os.getpid() % 1_000_000 * 256
        self.uid = base + slot % 256 if os.geteuid() == 0 else None
        self._tools: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes]
        self._held = ExitStack()
        self._control: socket.socket | None = None

    def do(
        self, task: Task, tools: tuple[str, ...] = (), stop: threading.Event | None = None
    ) -> tuple[Outcome, dict[str, bytes]]:
        """Run a task until it ends or breaks a limit: its outcome, and the files that it made.

        Args:
            task: what to do.
            tools: paths that its command needs.
            stop: when set, the task is aborted.

        Raises:
            SandboxFailure: the sandbox did not start.
            UserError: a module to be preloaded cannot be imported, or starts threads.
        """
        with ExitStack() as stack:
            ends = [os.pipe(), os.pipe()]
            for reading, _ in ends:
                stack.callback(os.close, reading)
            with ExitStack() as passed:
                stdin = _memory_file(passed, task.stdin.encode("utf-8", "replace"))
                for _, writing in ends:
                    passed.callback(os.close, writing)
                control = self._begin(task, tools, stack, (stdin, ends[0][1], ends[1][1]))
            return self._supervise(task, ends[0][0], ends[1][0], control, stop)

    def hold(self, task: Task, tools: tuple[str, ...], stdin: int, stdout: int) -> None:
        """Begin a task that others talk to through these descriptors. `close` ends it."""
        with open(os.devnull, "wb") as stderr:
            self._begin(task, tools, self._held, (stdin, stdout, stderr.fileno()))

    def _begin(
        self, task: Task, tools: tuple[str, ...], stack: ExitStack, streams: tuple[int, int, int]
    ) -> socket.socket:
        """Hand the task over. When `stack` closes, its scratch is deleted."""
        control = self._started(tools)
        scratch = _SCRATCH
        if not self.sandbox.namespaces:
            scratch = new_folder("scratch")
            stack.callback(remove, scratch)
            if self.uid is not None:
                os.chown(scratch, self.uid, self.uid)
        request = {
            "checked": task.checked,
            "command": list(task.command),
            "environment": dict(task.environment),
            "made": task.made,
            "scratch": str(scratch),
            "on_disk": not self.sandbox.namespaces,
            "limits": self._rlimits(task),
            "bounds": {
                "cpu": task.limits.cpu_seconds,
                "wall": task.limits.wall_seconds,
                "memory": task.limits.memory_mb << 20,
                "disk": task.limits.files_mb << 20,
            },
        }
        with ExitStack() as passed:
            files = {name: bytes(content) for name, content in task.files.items()}
            order = _memory_file(passed, marshal.dumps((task.code, files)))
            try:
                socket.send_fds(control, [marshal.dumps(request)], [order, *streams])
            except OSError as error:
                raise self._failure(str(error)) from error
        return control

    def close(self) -> None:
        """End the server and all that it runs."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            self._errors.close()
        self._held.close()

    def _started(self, tools: tuple[str, ...]) -> socket.socket:
        """The control socket of the server, of a new one if none is alive with these tools."""
        if tools != self._tools or (self._process is not None and self._process.poll() is not None):
            self.close()
        if self._control is not None:
            return self._control
        self._tools = tools
        launch = self.sandbox.launch(self.uid, tools)
        control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as stack, far_end:
            self._errors = os.fdopen(os.memfd_create("privcode"), "w+b")
            setup = launch.setup | {"preload": list(self.preload)}
            passed = [far_end.fileno(), _memory_file(stack, marshal.dumps(setup))]
            try:
                self._process = subprocess.Popen(
                    [*launch.command, *map(str, passed)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    pass_fds=passed,
                    cwd="/",
                    env=ENVIRONMENT,
                    start_new_session=True,
                )
            except OSError as error:
                control.close()
                self._errors.close()
                raise SandboxFailure(str(error)) from error
        self._control = control
        control.settimeout(_START_SECONDS)
        try:
            answer = control.recv(1024)
        except OSError:
            answer = b""
        if not answer:
            raise self._failure("it does not answer")
        if answer != b"ready":
            self.close()
            message = answer.decode("utf-8", "replace")
            raise UserError(f"preload {', '.join(self.preload)}: {message}; leave it out")
        return control

    def _failure(self, otherwise: str) -> SandboxFailure:
        """Why the server failed, in its own last words. It is then given up."""
        if self._process is None:
            return SandboxFailure(otherwise)
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read()[-TAIL:].decode("utf-8", "replace").strip().splitlines()
        self.close()
        return SandboxFailure(lines[-1] if lines else otherwise)

    def _rlimits(self, task: Task) -> dict[str, tuple[int, int]]:
        """Names of `resource` limits -> (soft, hard)."""
        limits = task.limits
        cpu = max(1, math.ceil(limits.cpu_seconds))
        # Elsewhere the program's user or namespace is its own; here its user runs other things too.
        shared = not self.sandbox.namespaces and self.uid is None
        processes = limits.processes + (_own_tasks() if shared else 0)
        one_file, memory = limits.files_mb << 20, limits.memory_mb << 20
        return {
            "RLIMIT_CPU": (cpu, cpu + 1),
            **(
                {"RLIMIT_DATA": (memory + _RUNTIME, memory + _RUNTIME)}
                if task.reserves
                else {"RLIMIT_AS": (memory, memory)}
            ),
            "RLIMIT_NPROC": (processes, processes),
            "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
            "RLIMIT_FSIZE": (one_file, one_file),
            "RLIMIT_CORE": (1, 1),  # no core file, and unlike 0 no call of the host's handler
            "RLIMIT_MSGQUEUE": (0, 0),
            "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_SIGPENDING": (
                1024,
                1024,
            ),  # timers count, and each takes half a kB in the kernel
        }

    def _supervise(
        self,
        task: Task,
        out: int,
        err: int,
        control: socket.socket,
        stop: threading.Event | None,
    ) -> tuple[Outcome, dict[str, bytes]]:
        """Read what the task writes and what the server reports until both are at an end."""
        kept = {out: bytearray(), err: bytearray()}
        first_words = bytearray()
        total = 0
        broken: tuple[Status, str] | None = None
        reports: list[str] = []
        made: dict[str, bytes] = {}
        begin = time.monotonic()
        give_up: float | None = None
        poll = select.poll()
        open_fds = {out, err, control.fileno()}
        for fd in open_fds:
            poll.register(fd, select.POLLIN)
        while open_fds:
            now = time.monotonic()
            if give_up is None:
                if now - begin > _PATIENCE * task.limits.wall_seconds:
                    broken = broken or ("timeout", "WallTime")
                elif stop is not None and stop.is_set():
                    broken = broken or ("error", "Interrupted")
                if broken is not None:
                    with suppress(OSError):
                        control.send(b"stop")
                    give_up = now + _GRACE_SECONDS
            elif now > give_up:
                break
            for fd, _ in poll.poll(1000 * _POLL_SECONDS):
                if fd == control.fileno():
                    chunk, handed, _, _ = socket.recv_fds(control, 4096, 1)
                    reports += [chunk.decode()] if chunk else []
                    for file in handed:
                        with open(file, "rb") as content:
                            content.seek(0)
                            made = marshal.load(content)
                else:
                    chunk = os.read(fd, 65536)
                if not chunk or (len(reports) == 2 and fd == control.fileno()):
                    poll.unregister(fd)
                    open_fds.discard(fd)
                elif fd in kept:
                    kept[fd] = (kept[fd] + chunk)[-TAIL:]
                    if fd == err:
                        first_words += chunk[: TAIL - len(first_words)]
                    total += len(chunk)
                    if total > task.limits.output_kb << 10:
                        broken = broken or ("output", "OutputLimit")
        seconds = round(time.monotonic() - begin, 4)
        stdout, stderr = (kept[fd].decode("utf-8", "replace") for fd in (out, err))
        if len(reports) < 2:  # the server is gone, or does not answer
            failure = self._failure("it does not answer")
            if not reports:
                raise failure
            if not self.sandbox.namespaces:
                _kill(int(reports[0]))
            status, error = broken or ("error", "ServerLost")
            return Outcome(task.id, status, None, seconds, stdout, stderr, error), {}
        started, finished, code, milliseconds, reason = reports[1].split(" ")
        if started == "0" and broken is None:
            last = stderr.strip().splitlines()
            raise SandboxFailure(last[-1] if last else f"exit code {code}")
        exit_code = 128 - int(code) if int(code) < 0 else int(code)
        late = int(milliseconds) >= 950 * task.limits.cpu_seconds  # the kernel counts in ticks
        words = stderr if total <= TAIL else f"{first_words.decode('utf-8', 'replace')}\n{stderr}"
        status, error = broken or _ended(task, exit_code, reason, words, late)
        if status == "ok" and task.checked and finished == "0":
            status, error = "error", "NoVerdict"
        return Outcome(task.id, status, exit_code, seconds, stdout, stderr, error), made


_REASONS: dict[str, tuple[Status, str]] = {
    "cpu": ("timeout", "ProcessorTime"),
    "wall": ("timeout", "WallTime"),
    "memory": ("memory", "MemoryLimit"),
    "disk": ("output", "DiskLimit"),
}


def _ended(task: Task, code: int, reason: str, stderr: str, late: bool) -> tuple[Status, str]:
    """Status and error class of a task, ended by itself, by the server or by the kernel.

    `late`: whether it had used its processor time.
    """
    if reason:
        return _REASONS[reason]
    if code == 128 + signal.SIGXCPU or (code and late):
        return "timeout", "ProcessorTime"
    status, error = task.judge(code, stderr)
    if code > 128 and error == f"ExitCode{code}":
        with suppress(ValueError):
            return "error", signal.Signals(code - 128).name
    return status, error


def _own_tasks() -> int:
    """Tasks (threads) of this user at present: what RLIMIT_NPROC already counts."""
    count, me = 0, os.getuid()
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == me:
                count += os.stat(f"{entry.path}/task").st_nlink - 2
    return count


def _memory_file(stack: ExitStack, content: bytes) -> int:
    """A sealed file in memory, positioned at its beginning."""
    fd = os.memfd_create("privcode", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    written = 0
    while written < len(content):
        written += os.pwrite(fd, content[written:], written)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
