"""The system-call filter every program loads: a classic BPF program for x86-64 and aarch64.

Promises:
- An allow-list: what is not in `_calls.ALLOWED` is refused. A call that no table names answers
  ENOSYS, however new the kernel. Libraries then work without it.
- No socket that could reach anything (stream pairs stay, asyncio needs them).
- No ptrace or other process's memory, no new namespace or mount, no escape from the process group.
- No extended attribute, kernel keyring, bpf, io_uring, or shared memory that outlives the program.
- Nothing that lets the kernel hold memory that `_measure` cannot count.
- A call refused by name fails with EPERM, so the program sees PermissionError. A few calls
  (`_calls.NOTHING`) do nothing and report success.

Does not: restrict which files are opened. Landlock or bubblewrap does that.
"""

import errno
import os
import platform
import struct

from privcode.execution import _calls

_CLONE, _PRLIMIT, _KILL, _SOCKETPAIR = (56, 220), (302, 261), (62, 129), (53, 199)
_PRCTL, _FCNTL, _IOCTL, _OPEN, _OPENAT = (157, 167), (72, 25), (16, 29), (2, None), (257, 56)
_MMAP, _SETSOCKOPT = (9, 222), (54, 208)

# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}, and CLONE_PARENT, which would leave the family.
_CLONE_FLAGS = 0x7E020000 | 0x8000
_CLONE_FILES, _CLONE_THREAD = 0x400, 0x10000
# PR_{SET,GET}_PDEATHSIG, GET_DUMPABLE, {SET,GET}_NAME, CAPBSET_READ, {SET,GET}_TIMERSLACK,
# {SET,GET}_CHILD_SUBREAPER, {SET,GET}_NO_NEW_PRIVS, {SET,GET}_THP_DISABLE.
_PRCTL_OPTIONS = (1, 2, 3, 15, 16, 23, 29, 30, 36, 37, 38, 39, 41, 42)
# How the judge closes itself to the solution. Where the server has no power over its programs, it
# could not count what a process holds that is closed to it.
_SET_DUMPABLE = (4,)
# F_{DUPFD,GETFD,SETFD,GETFL,SETFL,GETLK,SETLK,SETLKW,GETOWN,GETSIG,GETOWN_EX},
# F_{DUPFD_CLOEXEC,GETPIPE_SZ,ADD_SEALS,GET_SEALS}: no larger pipe, no lease or notice on another's
# file, no lock that outlives its process.
_FCNTL_COMMANDS = (*range(8), 9, 11, 16, 1030, 1032, 1033, 1034)
_FCNTL_SIGNALS = (8, 10, 15)  # F_{SETOWN,SETSIG,SETOWN_EX}
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: a file's flags are the owner's.
_IOCTL_COMMANDS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_IOCTL_SIGNALS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
# SO_{REUSEADDR,KEEPALIVE,LINGER,PASSCRED,RCVTIMEO,SNDTIMEO}: no larger buffer, no filter.
_SOCKET_OPTIONS = (2, 9, 13, 16, 20, 21)
_SHARED_ANONYMOUS = 0x01 | 0x20

_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN, _JUMP = 0x20, 0x54, 0x15, 0x35, 0x06, 0x05
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_EVERY_BIT = 0xFFFFFFFF

_Answer = list[bytes]
"""Instructions that end in a verdict."""


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


_ALLOWED: _Answer = [_op(_RETURN, _ALLOW)]


def _refused(error: int = errno.EPERM) -> _Answer:
    return [_op(_RETURN, _ERRNO | error)]


def _if(argument: int, values: tuple[int, ...], mask: int, yes: _Answer, no: _Answer) -> _Answer:
    """`yes` where the masked argument is among `values`, otherwise `no`."""
    load = [_op(_LOAD, _ARGUMENTS + 8 * argument)]
    load += [] if mask == _EVERY_BIT else [_op(_AND, mask)]
    last = len(values) - 1
    tests = [
        _op(_EQUAL, value, last - i, len(yes) if i == last else 0) for i, value in enumerate(values)
    ]
    return [*load, *tests, *yes, *no]


def _only(argument: int, *values: int, error: int = errno.EPERM, mask: int = _EVERY_BIT) -> _Answer:
    return _if(argument, values, mask, _ALLOWED, _refused(error))


def _never(argument: int, *values: int, mask: int, then: _Answer = _ALLOWED) -> _Answer:
    return _if(argument, values, mask, _refused(), then)


def _search(answers: list[tuple[int, _Answer]]) -> list[bytes]:
    """The answer to the call's number: each entry holds from its number to the next one's.

    A binary search: whenever a program loads the filter, the kernel tries it on every system call.
    """
    if len(answers) == 1:
        return answers[0][1]
    middle = len(answers) // 2
    below, above = _search(answers[:middle]), _search(answers[middle:])
    if len(below) <= 255:
        return [_op(_AT_LEAST, answers[middle][0], len(below), 0), *below, *above]
    far = [_op(_AT_LEAST, answers[middle][0], 0, 1), _op(_JUMP, len(below))]
    return [*far, *below, *above]


def supported() -> bool:
    """Whether this machine's architecture has a filter."""
    return platform.machine() in ("x86_64", "aarch64")


def bpf(*, shared: bool, own_user: bool, landlock: int) -> bytes:
    """The filter as an array of `struct sock_filter`, 8 bytes each.

    Args:
        shared: the program sees the machine's own files and processes, not a namespace's.
        own_user: its user, or its namespace, owns nothing else.
        landlock: its version, where Landlock confines the program's files and signals.
    """
    here = ("x86_64", "aarch64").index(platform.machine())
    signals = own_user or landlock >= 6
    answers: dict[int, _Answer] = {}

    def answer(calls: dict[str, _calls.Numbers], what: _Answer) -> None:
        answers.update({n[here]: what for n in calls.values() if n[here] is not None})  # type: ignore[misc]

    answer(_calls.ALLOWED, _ALLOWED)
    answer(_calls.DENIED, _refused())
    answer(_calls.SHARED if shared else {}, _refused())
    answer({} if signals else _calls.SIGNALS, _refused())
    answer(_calls.ATTRIBUTES, _refused(errno.EOPNOTSUPP))
    answer(_calls.SPLICES, _refused(errno.EINVAL))
    answer(_calls.NOTHING, _refused(0))
    # A thread with a file table of its own could hold files that its process does not show.
    thread = _never(0, _CLONE_THREAD, mask=_CLONE_THREAD | _CLONE_FILES)
    fcntl = (*_FCNTL_COMMANDS, *(_FCNTL_SIGNALS if signals else ()))
    ioctl = (*_IOCTL_COMMANDS, *(_IOCTL_SIGNALS if signals else ()))
    # The program has the socket's other end, too. Only sockets have level 1 (SOL_SOCKET).
    option = _only(2, *_SOCKET_OPTIONS)
    by_argument: dict[_calls.Numbers, _Answer] = {
        _CLONE: _if(0, (0,), _CLONE_FLAGS, thread, _refused()),
        # A datagram socket of a pair can still send to any address: stream pairs only.
        _SOCKETPAIR: _only(1, 1, mask=0xF),
        _SETSOCKOPT: _if(1, (1,), _EVERY_BIT, option, _refused()),
        _PRCTL: _only(0, *_PRCTL_OPTIONS, *(() if shared else _SET_DUMPABLE)),
        _PRLIMIT: _only(0, 0),  # its own limits
        _FCNTL: _only(1, *fcntl),
        _IOCTL: _only(1, *ioctl, error=errno.ENOTTY),
        # Pages that no process maps any more, and no file system bounds.
        _MMAP: _never(3, _SHARED_ANONYMOUS, mask=_SHARED_ANONYMOUS),
    }
    if not signals:
        by_argument[_KILL] = _only(0, 0)  # its own group
    if shared and landlock < 3:  # it lets O_TRUNC cut files opened to read, or for no access
        flags = os.O_TRUNC | os.O_ACCMODE
        cut = (os.O_TRUNC | os.O_RDONLY, os.O_TRUNC | os.O_ACCMODE)
        by_argument |= {_OPEN: _never(1, *cut, mask=flags), _OPENAT: _never(2, *cut, mask=flags)}
    for numbers, what in by_argument.items():
        answer({"": numbers}, what)
    unknown = _refused(errno.ENOSYS)
    runs: list[tuple[int, _Answer]] = []
    for call in range(max(answers) + 2):  # the last one's answer is that of all above
        what = answers.get(call, unknown)
        if not runs or runs[-1][1] != what:
            runs.append((call, what))
    program = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, _AUDIT_ARCH[here], 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NR),
        *_search(runs),
    ]
    return b"".join(program)
