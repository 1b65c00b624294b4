"""What runs inside the sandbox: a server, and for every program a keeper and the program itself.

The server imports what is to be preloaded, then forks a keeper for each request; the keeper makes
the program's own view of the machine, forks the program, watches it and reports how it ended.

Promises: nothing of a program is executed before every limit and filter is in place, and a step
that fails ends the process before; a keeper reports only after it killed and reaped whatever its
program started; a program holds standard input, output and error, if `checked` the pipe on which
its end is proven, and nothing else; it shares no memory and no scratch with another, and where
there are namespaces no process numbers either. Sent as text to `python -I -S -B -c`, so it imports
the standard library only.
Does not: hide the proof from a program that takes this file's interpreter apart from within.
"""

import atexit
import gc
import importlib
import marshal
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from privcode.execution._box import enter, mount
from privcode.execution._confine import check, drop, libc, restrict
from privcode.execution._measure import beyond

_POLL_SECONDS = 0.1
_MAX_FILES = 10_000
_NEW_PID, _NEW_NS = 0x20000000, 0x20000
_NOSUID_NODEV, _NOEXEC, _BIND, _PRIVATE = 6, 8, 4096, 1 << 14 | 1 << 18


# The server


def _serve(control_fd: int, setup_fd: int) -> tuple[str, bytes]:
    """Answer requests until the other end closes; returns in a forked, confined program alone."""
    with open(setup_fd, "rb") as file:
        setup: dict[str, Any] = marshal.load(file)
    control = socket.socket(fileno=control_fd)
    if setup["view"] is not None:
        enter(setup["view"])
    sys.path.extend(setup["path"])
    try:
        for name in setup["preload"]:
            importlib.import_module(name)
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("a module starts threads, which no fork would have")
    except BaseException as error:
        control.sendall(f"{type(error).__name__}: {error}".encode()[:500])
        os._exit(1)
    gc.collect()
    gc.freeze()  # a collection in a program would write to, so copy, every page it looks at
    control.sendall(b"ready")
    home = os.open("/proc/self/ns/pid", os.O_RDONLY)
    while True:
        _, passed, _, _ = socket.recv_fds(control, 1, 5)
        if len(passed) != 5:
            os._exit(0)
        if setup["namespaces"]:
            check(libc.unshare(_NEW_PID), "unshare")
        keeper = os.fork()
        if keeper == 0:
            control.close()
            return _keep(setup, *passed)
        if setup["namespaces"]:
            check(libc.setns(home, _NEW_PID), "setns")
        for fd in passed:
            os.close(fd)
        os.waitpid(keeper, 0)


# The keeper


def _keep(
    setup: dict[str, Any], request_fd: int, stdin: int, stdout: int, stderr: int, report_fd: int
) -> tuple[str, bytes]:
    """Fork the program, see it to its end and exit; returns in the program alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    check(libc.prctl(4, 0, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE: closed to others of this user
    check(libc.prctl(36, 1, 0, 0, 0), "prctl")  # PR_SET_CHILD_SUBREAPER
    report = socket.socket(fileno=report_fd)
    with open(request_fd, "rb") as file:
        request: dict[str, Any] = marshal.load(file)
    if setup["namespaces"]:
        _own_view(request["scratch"], request["bounds"]["disk"], setup["kept"])
    proof = os.urandom(16)
    heard, said = os.pipe()
    keeper = os.getpid()
    program = os.fork()
    if program == 0:
        report.close()
        _confine(setup, request, keeper, stdin, stdout, stderr, said)
        return request["code"], proof if request["checked"] else b""
    for fd in (stdin, stdout, stderr, said):
        os.close(fd)
    report.sendall(b"%d\n" % program)
    words, reason = _watch(program, heard, report, request)
    os.kill(program, signal.SIGKILL)  # still a zombie at least, so the number is its own
    with suppress(ProcessLookupError):
        os.killpg(program, signal.SIGKILL)
    status = 0
    while True:
        try:
            ended, its_status, _ = os.wait4(-1, 0)
        except ChildProcessError:
            break
        status = its_status if ended == program else status
    while chunk := os.read(heard, 4096):
        words = (words + chunk)[:64]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report.sendall(
        b"%d %d %d %d %s\n"
        % (
            words[:1] == b"s",
            words == b"s" + proof,
            os.waitstatus_to_exitcode(status),
            1000 * (used.ru_utime + used.ru_stime),
            reason.encode(),
        )
    )
    os._exit(0)


def _own_view(scratch: str, size: int, kept: list[str]) -> None:
    """A mount namespace with this program's own scratch and /dev/shm, `size` bytes together."""

    check(libc.unshare(_NEW_NS), "unshare")
    mount("none", "/", None, _PRIVATE)
    held = [(path, os.open(path, os.O_PATH)) for path in kept]  # what the scratch would cover
    options = f"mode=0755,size={size},nr_inodes={_MAX_FILES}"
    mount("tmpfs", scratch, "tmpfs", _NOSUID_NODEV, options)
    for name, target in (("shm", "/dev/shm"), ("work", scratch)):
        os.mkdir(f"{scratch}/{name}")
        os.chmod(f"{scratch}/{name}", 0o1777)
        mount(f"{scratch}/{name}", target, None, _BIND)
    for path, fd in held:
        if os.path.isdir(fd):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT, 0o644))
        mount(f"/proc/self/fd/{fd}", path, None, _BIND)
        os.close(fd)
    mount("proc", "/proc", "proc", _NOSUID_NODEV | _NOEXEC)


def _watch(
    program: int, heard: int, report: socket.socket, request: dict[str, Any]
) -> tuple[bytes, str]:
    """Until the program ends, breaks a bound, or is no longer wanted: what it said, and why."""
    ended = os.pidfd_open(program)
    poll = select.poll()
    for fd in (ended, heard, report.fileno()):
        poll.register(fd, select.POLLIN)
    words = b""
    due = time.monotonic() + _POLL_SECONDS
    while True:
        ready = {fd for fd, _ in poll.poll(max(0.0, 1000 * (due - time.monotonic())))}
        if heard in ready:
            chunk = os.read(heard, 4096)
            words = (words + chunk)[:64]
            if not chunk:
                poll.unregister(heard)
        if ended in ready:
            return words, ""
        if report.fileno() in ready:
            return words, "unwanted"
        if time.monotonic() >= due:
            before = time.process_time()
            _reap_orphans(program)
            if reason := beyond(request):
                return words, reason
            looked = time.process_time() - before  # at many files, it takes its time
            due = time.monotonic() + max(_POLL_SECONDS, 4 * looked)


def _reap_orphans(program: int) -> None:
    while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if found.si_pid == program:
            return
        os.waitpid(found.si_pid, 0)


# The program


def _confine(
    setup: dict[str, Any],
    request: dict[str, Any],
    keeper: int,
    stdin: int,
    stdout: int,
    stderr: int,
    said: int,
) -> None:
    """Take this process's powers away, one after the other, and tell the keeper that it is done."""
    os.setsid()
    for target, fd in enumerate((stdin, stdout, stderr)):
        os.dup2(fd, target)
    os.dup2(said, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    check(libc.prctl(4, 1, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE: the next file is its own again
    with open("/proc/self/oom_score_adj", "w") as file:  # where memory runs out, this goes first
        file.write("1000")
    drop(setup["uid"], setup["keep_read"])
    libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != keeper:
        os._exit(1)
    os.chdir(request["scratch"])
    os.environ.update(HOME=request["scratch"], TMPDIR=request["scratch"])
    for name, (soft, hard) in request["limits"].items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]  # who started privcode may allow less
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))
    restrict(setup["landlock"], request["scratch"], setup["bpf"])
    os.write(3, b"s")
    if not request["checked"]:
        os.close(3)


def _forget() -> None:
    """Undo what preloading fixed for all: the place of temporary files, numpy's random state."""
    tempfile.tempdir = None
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()


def _run(code: str, proof: bytes) -> NoReturn:
    """Execute `code` as the module `__main__`, then end as an interpreter would."""
    write, leave, pid_of, owner = os.write, os._exit, os.getpid, os.getpid()
    join_threads = threading._shutdown  # type: ignore[attr-defined]
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.argv = ["program.py"]
    status = 1
    try:
        exec(compile(code, "program.py", "exec", dont_inherit=True), main.__dict__)
        status = 0
    except SystemExit as left:
        proof = b""
        status = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
        if status == 1 and left.code != 1:
            print(left.code, file=sys.stderr)
    except BaseException as error:
        proof = b""
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    join_threads()
    if proof and pid_of() == owner:  # a forked child that falls through proves nothing
        write(3, proof)
    atexit._run_exitfuncs()
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        with suppress(BaseException):  # closed, detached or whatever the program put there
            getattr(sys, name).flush()
    leave(status & 0xFF)


_confined = _serve(*map(int, sys.argv[1:]))
_forget()
_run(*_confined)
