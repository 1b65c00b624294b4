"""What runs inside the sandbox: a server, which forks for every program and supervises it.

The server imports what is to be preloaded once. For each request it makes an empty scratch, forks
the program, watches it, kills and reaps whatever is left, and reports. It is the first process of
its namespace, or the process that adopts orphans.

Promises:
- Nothing of a program runs before every limit and filter is in place. A step that fails ends the
  process first.
- The report comes when everything that the program started is dead.
- A program holds standard input, output and error, and if `checked` the pipe on which it proves its
  end. It holds nothing else.
- A program finds nothing of the programs before it: the server never read their code.

Sent as text to `python -I -S -B -c`, so it imports the standard library only.

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
import stat
import sys
import time
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from privcode.execution._box import enter, mount, unmount
from privcode.execution._confine import Powers, check, libc
from privcode.execution._measure import beyond, used_by_the_dead

_POLL_SECONDS = 0.1
_MAX_FILES = 10_000
_OPEN_MAX, _HOME = os.sysconf("SC_OPEN_MAX"), os.environ["HOME"]
_NOSUID_NODEV, _BIND = 6, 4096
# What programs import most; not threading, which makes every fork walk over all threads.
_COMMON: tuple[str, ...] = ("bisect", "collections", "copy", "datetime", "decimal", "fractions")
_COMMON += ("functools", "hashlib", "heapq", "itertools", "json", "math", "operator", "random")
_COMMON += ("re", "statistics", "string", "typing")
# Kept alive: otherwise a program would free these, and so copy their pages, one by one.
_ALIVE: list[Any] = []
_set_handler = importlib.import_module("_signal").signal  # `signal.signal` itself looks up names


# The server


def _serve(control_fd: int, setup_fd: int) -> tuple[str, bytes]:
    """Answer requests until the other end closes. Returns only in a forked, confined program.

    Returns:
        the code of a Python program, and the proof of its end.
    """
    with open(setup_fd, "rb") as file:
        setup: dict[str, Any] = marshal.load(file)
    control = socket.socket(fileno=control_fd)
    os.umask(0o022)  # the caller's may close a program's own folders to it
    os.environ.pop("LD_BIND_NOW", None)  # for this process alone
    if setup["view"] is not None:
        enter(setup["view"])
    sys.path.extend(setup["path"])
    try:
        for name in (*_COMMON, *setup["preload"]):
            importlib.import_module(name)
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("a module starts threads, which no program would have")
    except BaseException as error:
        control.sendall(f"{type(error).__name__}: {error}".encode()[:500])
        os._exit(1)
    compile("", "program.py", "exec")  # the first call makes a hundred types
    gc.collect()
    gc.freeze()  # a collection in a program would write to, and so copy, every page it looks at
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    check(libc.prctl(4, 0, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE: closed to others of this user
    check(libc.prctl(36, 1, 0, 0, 0), "prctl")  # PR_SET_CHILD_SUBREAPER
    powers = Powers(setup["uid"], setup["keep_read"], setup["landlock"], setup["bpf"])
    kept = [(path, os.open(path, os.O_PATH)) for path in setup["kept"]]
    control.sendall(b"ready")
    while True:
        words, passed, _, _ = socket.recv_fds(control, 65536, 4)
        if not words:
            os._exit(0)
        if len(passed) != 4:  # to stop a program that had already ended
            continue
        request = marshal.loads(words)
        if setup["namespaces"]:
            _make_scratch(request["scratch"], request["bounds"]["disk"], kept)
        proof = os.urandom(16)
        heard, said = os.pipe()
        server = os.getpid()
        program = os.fork()
        if program == 0:
            _ALIVE.extend((setup, control, powers, kept, request))
            code = _confine(powers, request, server, passed, said)
            if request["command"]:
                _become(request["command"], request["environment"])
            return code, proof if request["checked"] else b""
        for fd in (*passed, said):
            os.close(fd)
        control.sendall(b"%d" % program)
        report = _see_to_its_end(program, heard, control, request, proof)
        if request["made"]:
            with open(os.memfd_create("privcode"), "wb") as made:
                most = request["bounds"]["disk"]
                made.write(marshal.dumps(_made(request["scratch"], request["made"], most)))
                made.flush()
                socket.send_fds(control, [report], [made.fileno()])
        else:
            control.sendall(report)
        os.close(heard)
        if setup["namespaces"]:
            for target in ("/dev/shm", request["scratch"], request["scratch"]):
                unmount(target)


def _make_scratch(scratch: str, size: int, kept: list[tuple[str, int]]) -> None:
    """An empty scratch and /dev/shm, `size` bytes together. `kept` is what they would cover."""
    options = f"mode=0755,size={size},nr_inodes={_MAX_FILES}"
    mount("tmpfs", scratch, "tmpfs", _NOSUID_NODEV, options)
    for name, target in (("shm", "/dev/shm"), ("work", scratch)):
        os.mkdir(f"{scratch}/{name}")
        os.chmod(f"{scratch}/{name}", 0o1777)
        mount(f"{scratch}/{name}", target, None, _BIND)
    for path, fd in kept:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.makedirs(path, exist_ok=True)
        else:
            os.close(os.open(path, os.O_CREAT, 0o644))
        mount(f"/proc/self/fd/{fd}", path, None, _BIND)


def _see_to_its_end(
    program: int, heard: int, control: socket.socket, request: dict[str, Any], proof: bytes
) -> bytes:
    """Watch the program, kill and reap whatever is left of it, and report how it ended."""
    before = used_by_the_dead()
    words, reason = _watch(program, heard, control, request, before)
    os.kill(program, signal.SIGKILL)  # still at least a zombie, so the number is its own
    with suppress(ProcessLookupError):
        os.killpg(program, signal.SIGKILL)
    status = 0
    while True:
        try:
            ended, its_status = os.waitpid(-1, 0)
        except ChildProcessError:
            break
        status = its_status if ended == program else status
    while chunk := os.read(heard, 4096):
        words = (words + chunk)[:64]
    return b"%d %d %d %d %s" % (
        words[:1] == b"s",
        words == b"s" + proof,
        os.waitstatus_to_exitcode(status),
        1000 * (used_by_the_dead() - before),
        reason.encode(),
    )


def _watch(
    program: int, heard: int, control: socket.socket, request: dict[str, Any], before: float
) -> tuple[bytes, str]:
    """Wait until the program ends, breaks a bound or is not wanted: what it said, and why."""
    ended = os.pidfd_open(program)
    poll = select.poll()
    for fd in (ended, heard, control.fileno()):
        poll.register(fd, select.POLLIN)
    words = b""
    begin = time.monotonic()
    due = begin + _POLL_SECONDS
    try:
        while True:
            wait = max(0.0, due - time.monotonic()) if words else None
            ready = {fd for fd, _ in poll.poll(None if wait is None else 1000 * wait)}
            if heard in ready:
                chunk = os.read(heard, 4096)
                words = (words + chunk)[:64]
                if not chunk:
                    poll.unregister(heard)
            if ended in ready:
                return words, ""
            if control.fileno() in ready:
                control.recv(1, socket.MSG_PEEK)
                return words, "unwanted"
            if words and time.monotonic() >= due:  # not before the program itself runs
                before_look = time.process_time()
                _reap_orphans(program)
                if reason := beyond(request, before, begin):
                    return words, reason
                looked = time.process_time() - before_look  # with many files, a look takes time
                due = time.monotonic() + max(_POLL_SECONDS, 4 * looked)
    finally:
        os.close(ended)


def _made(scratch: str, name: str, most: int) -> dict[str, bytes]:
    """Files that a compiler left under `name` in the scratch: path in it -> content.

    Nothing runs there any more. Links are not followed, and anything but a plain file is left out.
    Beyond `most` bytes, nothing is read.
    """
    found: dict[str, bytes] = {}
    left = [name]
    while left:
        path = left.pop()
        with suppress(OSError):
            fd = os.open(f"{scratch}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                mode, size = os.fstat(fd).st_mode, os.fstat(fd).st_size
                if stat.S_ISDIR(mode):
                    left += [f"{path}/{below}" for below in os.listdir(fd)]
                elif stat.S_ISREG(mode) and (most := most - size) >= 0:
                    with open(fd, "rb", closefd=False) as file:
                        found[path] = file.read(size)
            finally:
                os.close(fd)
    return found


def _reap_orphans(program: int) -> None:
    while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if found.si_pid == program:
            return
        os.waitpid(found.si_pid, 0)


# The program


def _confine(
    powers: Powers,
    request: dict[str, Any],
    server: int,
    passed: list[int],
    said: int,
) -> str:
    """Take this process's powers away, one after the other, then write the program's files.

    Returns:
        its code, if it is in Python.
    """
    order, stdin, stdout, stderr = passed
    os.setsid()
    for target, fd in enumerate((stdin, stdout, stderr)):
        os.dup2(fd, target)
    _set_handler(signal.SIGINT, signal.default_int_handler)
    code, files = marshal.loads(os.pread(order, os.fstat(order).st_size, 0))
    os.dup2(said, 3, inheritable=False)
    os.closerange(4, _OPEN_MAX)
    check(libc.prctl(4, 1, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE: the next file is its own again
    wanted = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(wanted, b"1000")  # where memory runs out, this goes first
    os.close(wanted)
    powers.drop()
    libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != server:
        os._exit(1)
    os.chdir(request["scratch"])
    if request["scratch"] != _HOME:
        os.environ.update(HOME=request["scratch"], TMPDIR=request["scratch"])
    for name, (soft, hard) in request["limits"].items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]  # whoever started privcode may allow less
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))
    powers.restrict(request["scratch"])
    os.write(3, b"s")
    if not request["checked"]:
        os.close(3)
    for name, content in files.items():
        if folder := os.path.dirname(name):
            os.makedirs(folder, exist_ok=True)
        with open(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o755), "wb") as file:
            file.write(content)
    if files:
        sys.path.insert(0, request["scratch"])
    return str(code)


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Continue as another program, with the signals as it would find them in a shell."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(environment)
    os.execve(command[0], command, os.environ)


def forget() -> None:
    """Undo what preloading fixed for all: the folder of temporary files, numpy's random state."""
    if tempfile := sys.modules.get("tempfile"):
        tempfile.tempdir = None  # type: ignore[attr-defined]
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()


def run(code: str, proof: bytes) -> NoReturn:
    """Execute `code` as the module `__main__`, then end as an interpreter would."""
    write, leave, pid_of, owner = os.write, os._exit, os.getpid, os.getpid()
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
    if threading := sys.modules.get("threading"):
        with suppress(BaseException):
            threading._shutdown()
    if proof and pid_of() == owner:  # a forked child that falls through proves nothing
        write(3, proof)
    atexit._run_exitfuncs()
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        with suppress(BaseException):  # closed, detached or whatever the program put there
            getattr(sys, name).flush()
    leave(status & 0xFF)


_started = _serve(*map(int, sys.argv[1:]))
forget()
run(*_started)
