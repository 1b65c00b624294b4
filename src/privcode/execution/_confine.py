"""How a process inside the sandbox takes its own powers away; the first part of `_inside`.

Promises: what is given up cannot be had again, by the process or by what it starts; a step that
fails raises OSError.
Does not: choose what is to be given up.
"""

import ctypes
import os
import sys
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def drop(uid: int | None, keep_read: bool) -> None:
    """Become the ordinary user `uid`, or stay who one is, without any power.

    `keep_read` keeps the power to pass a closed directory, for a Python below root's home, where
    Landlock still says what may be opened.
    """
    if uid is not None:
        os.setgroups([])
        if keep_read:
            check(libc.prctl(8, 1, 0, 0, 0), "prctl")  # PR_SET_KEEPCAPS
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    check(libc.prctl(47, 4, 0, 0, 0), "prctl")  # PR_CAP_AMBIENT_CLEAR_ALL
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    read_search = 1 << 2 if keep_read else 0
    sets = (ctypes.c_uint32 * 6)(read_search, read_search, read_search, 0, 0, 0)
    check(libc.capset(header, sets), "capset")
    if keep_read:
        check(libc.prctl(47, 2, 2, 0, 0), "prctl")  # PR_CAP_AMBIENT_RAISE
    check(libc.prctl(4, 1, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE


def restrict(landlock: dict[str, Any] | None, scratch: str, bpf: bytes) -> None:
    """Landlock on files, signals and sockets, then seccomp; neither can be undone."""
    check(libc.prctl(38, 1, 0, 0, 0), "prctl")  # PR_SET_NO_NEW_PRIVS
    if landlock is not None:
        _landlock(landlock["readable"], [scratch, "/dev/null"], landlock["abi"])
    filters = ctypes.create_string_buffer(bpf, len(bpf))
    length = (len(bpf) // 8).to_bytes(2, sys.byteorder)
    program = length + bytes(6) + ctypes.addressof(filters).to_bytes(8, sys.byteorder)
    check(libc.prctl(22, 2, program, 0, 0), "seccomp")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _landlock(readable: list[str], writable: list[str], abi: int) -> None:
    read_file, execute, write_file = 1 << 2, 1 << 0, 1 << 1
    every = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):  # refer, truncate, ioctl
        every |= right if abi >= since else 0
    on_file = read_file | execute | write_file | (every & (1 << 14 | 1 << 15))
    network = 3 if abi >= 4 else 0
    scoped = 3 if abi >= 6 else 0
    attribute = (ctypes.c_uint64 * 3)(every, network, scoped)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = check(libc.syscall(444, attribute, ctypes.c_size_t(size), 0), "landlock")

    def allow(path: str, rights: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        if not os.path.isdir(path):
            rights &= on_file
        rule = rights.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        check(libc.syscall(445, ruleset, 1, rule, 0), "landlock")
        os.close(fd)

    for path in readable:
        allow(path, read_file | execute | 1 << 3)
    for path in writable:
        allow(path, every)
    check(libc.syscall(446, ruleset, 0), "landlock")
    os.close(ruleset)
