"""What runs first inside the sandbox: takes its own powers away, then runs one program.

Promises: nothing of the program is executed before every limit and filter is in place; a step
that fails ends the process before the program starts. Sent as text to `python -I -S -B -c`, so
it imports the standard library only.
Does not: supervise; the launching process counts, times and kills.
"""

import marshal
import os
import resource
import sys
from types import ModuleType
from typing import Any


def _drop(uid: int, keep_read: bool) -> None:
    """Become an ordinary user; `keep_read` keeps the power to pass a closed directory.

    The last is for a Python below root's home, where Landlock still says what may be opened.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    prctl = libc.prctl
    os.setgroups([])
    if keep_read:
        prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if keep_read:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        read_search = 1 << 2
        sets = (ctypes.c_uint32 * 6)(read_search, read_search, read_search, 0, 0, 0)
        if libc.capset(header, sets) or prctl(47, 2, 2, 0, 0):  # PR_CAP_AMBIENT_RAISE
            raise OSError(ctypes.get_errno(), "capset")


def _restrict(readable: list[str], writable: list[str], abi: int, bpf: bytes) -> None:
    """Landlock on files, signals and sockets, then seccomp; neither can be undone."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "landlock or seccomp")
        return result

    read_file, execute, write_file = 1 << 2, 1 << 0, 1 << 1
    every = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):  # refer, truncate, ioctl
        every |= right if abi >= since else 0
    on_file = read_file | execute | write_file | (every & (1 << 14 | 1 << 15))
    network = 3 if abi >= 4 else 0
    scoped = 3 if abi >= 6 else 0
    attribute = (ctypes.c_uint64 * 3)(every, network, scoped)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = check(libc.syscall(444, attribute, ctypes.c_size_t(size), 0))

    def allow(path: str, rights: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        if not os.path.isdir(path):
            rights &= on_file
        rule = rights.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        check(libc.syscall(445, ruleset, 1, rule, 0))
        os.close(fd)

    for path in readable:
        allow(path, read_file | execute | 1 << 3)
    for path in writable:
        allow(path, every)
    check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    check(libc.syscall(446, ruleset, 0))
    os.close(ruleset)
    filters = ctypes.create_string_buffer(bpf, len(bpf))
    length = (len(bpf) // 8).to_bytes(2, sys.byteorder)
    program = length + bytes(6) + ctypes.addressof(filters).to_bytes(8, sys.byteorder)
    check(libc.prctl(22, 2, program, 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _die_with(parent: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != parent:
        os._exit(1)


def _run(code: str, name: str) -> None:
    """Execute `code` as the module `__main__`; an uncaught exception ends the process with 1."""
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    try:
        exec(compile(code, name, "exec", dont_inherit=True), main.__dict__)
    except Exception as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


def _join_threads() -> None:
    threading = sys.modules.get("threading")
    if threading is not None:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()


def _main(request_fd: int, report_fd: int, nonce_fd: int) -> None:
    with open(request_fd, "rb") as file:
        request: dict[str, Any] = marshal.load(file)
    if request["uid"] is not None:
        _drop(request["uid"], request["keep_read"])
    if request["landlock"] is not None:
        _die_with(request["parent"])
    for name, (soft, hard) in request["limits"].items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]  # who started privcode may allow less
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))
    if request["landlock"] is not None:
        _restrict(**request["landlock"])
    sys.path.extend(request["path"])
    sys.argv = ["program.py"]
    os.write(report_fd, b"started\n")
    if not request["checked"]:
        os.close(report_fd)
        os.close(nonce_fd)
        _run(request["code"], "program.py")
    else:
        os.set_inheritable(report_fd, False)
        os.set_inheritable(nonce_fd, False)
        owner = os.getpid()
        _run(request["code"], "program.py")
        _join_threads()
        if os.getpid() == owner:  # a forked child that falls through proves nothing
            os.write(report_fd, os.read(nonce_fd, 64))


_main(*map(int, sys.argv[1:]))
