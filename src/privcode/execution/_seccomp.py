"""The system-call filter every program loads: a classic BPF program for x86-64 and aarch64.

Promises: no socket that could reach anything (stream pairs stay, asyncio needs them), no ptrace
or other process's memory, no new namespace or mount, no escape from the process group, no kernel
keyring, bpf, io_uring or shared memory that outlives the program. A refused call fails with EPERM,
so the program sees PermissionError; one (`_SCHEDULER`) does nothing and says that it worked.
Does not: restrict which files are opened; Landlock or bubblewrap does that.
"""

import errno
import os
import platform
import struct

# name: (x86-64, aarch64); None where the architecture has no such call
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
# Where the machine's own file system is seen: Landlock leaves a file's metadata alone, and who
# watches it; and a deleted file in a socket's queue could not be counted.
_SHARED: dict[str, tuple[int | None, int | None]] = {
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
}
# Signals outside the own group, where neither a namespace, nor a user id, nor Landlock stops them.
_SIGNALS: dict[str, tuple[int | None, int | None]] = {
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
# Says that it worked, and did nothing: Mono writes to standard output where it fails.
_SCHEDULER = (144, 119)
_CLONE3, _OPENAT2 = (435, 435), (437, 437)
_CLONE, _PRLIMIT, _KILL, _SOCKETPAIR = (56, 220), (302, 261), (62, 129), (53, 199)
_PRCTL, _FCNTL, _IOCTL, _OPEN, _OPENAT = (157, 167), (72, 25), (16, 29), (2, None), (257, 56)

# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}, and CLONE_PARENT, which would leave the family.
_CLONE_FLAGS = 0x7E020000 | 0x8000
_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN, _JUMP = 0x20, 0x54, 0x15, 0x35, 0x06, 0x05
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_EVERY_BIT = 0xFFFFFFFF


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _refuse(error: int = errno.EPERM) -> bytes:
    return _op(_RETURN, _ERRNO | error)


def _refuse_all(numbers: list[int]) -> list[bytes]:
    """Refuse these calls, in ascending order. A search by halves: the kernel tries the filter on
    every call there is whenever a program loads it."""
    if len(numbers) <= 4:
        last = len(numbers) - 1
        return [_op(_EQUAL, n, last - i, i == last) for i, n in enumerate(numbers)] + [_refuse()]
    middle = len(numbers) // 2
    below, above = _refuse_all(numbers[:middle]), _refuse_all(numbers[middle:])
    skip = _op(_AT_LEAST, numbers[middle], len(below) + 1, 0)
    return [skip, *below, _op(_JUMP, len(above)), *above]


def _by_argument(
    number: int | None, argument: int, values: tuple[int, ...], *, allow: bool, mask: int
) -> list[bytes]:
    """For one call: allow, or refuse, where the masked argument is among `values` alone."""
    if number is None:
        return []
    body = [_op(_LOAD, _ARGUMENTS + 8 * argument), _op(_AND, mask)]
    body += [_op(_EQUAL, value, len(values) - i, 0) for i, value in enumerate(values)]
    ends = [_refuse(), _op(_RETURN, _ALLOW)]
    body += ends if allow else reversed(ends)
    return [_op(_EQUAL, number, 0, len(body)), *body]


def supported() -> bool:
    """Whether this machine's architecture has a filter."""
    return platform.machine() in ("x86_64", "aarch64")


def bpf(*, shared: bool, own_user: bool, landlock: int) -> bytes:
    """The filter as an array of `struct sock_filter`, 8 bytes each.

    Args:
        shared: the program sees the machine's own files and processes, no namespace's.
        own_user: its user, or its namespace, owns nothing else.
        landlock: its version, where it is what confines the program's files and signals.
    """
    here = ("x86_64", "aarch64").index(platform.machine())
    signals = own_user or landlock >= 6
    denied = _DENIED | (_SHARED if shared else {}) | ({} if signals else _SIGNALS)
    program = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, _AUDIT_ARCH[here], 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NR),
    ]
    if here == 0:  # the x32 calls have numbers of their own
        program += [_op(_AT_LEAST, 0x40000000, 0, 1), _refuse()]
    numbers = (call[here] for call in denied.values())
    program += _refuse_all(sorted(number for number in numbers if number is not None))
    program += [_op(_EQUAL, _SCHEDULER[here], 0, 1), _refuse(0)]
    # clone3 hides its flags behind a pointer; ENOSYS makes libc fall back to clone.
    program += [_op(_EQUAL, _CLONE3[here], 0, 1), _refuse(errno.ENOSYS)]

    def only(numbers: tuple[int | None, int | None], argument: int, *values: int) -> None:
        program.extend(_by_argument(numbers[here], argument, values, allow=True, mask=_EVERY_BIT))

    def never(numbers: tuple[int | None, int | None], argument: int, *values: int) -> None:
        program.extend(_by_argument(numbers[here], argument, values, allow=False, mask=_EVERY_BIT))

    program += _by_argument(_CLONE[here], 0, (0,), allow=True, mask=_CLONE_FLAGS)
    # A datagram socket of a pair can still send to any address: stream pairs only.
    program += _by_argument(_SOCKETPAIR[here], 1, (1,), allow=True, mask=0xF)
    if shared:  # PR_SET_DUMPABLE: closed to its server's eyes, it could hold deleted files
        never(_PRCTL, 0, 4)
    only(_PRLIMIT, 0, 0)  # its own
    if not signals:
        only(_KILL, 0, 0)  # its own group
        never(_FCNTL, 1, 8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: who is sent a signal
        never(_IOCTL, 1, 0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
    if shared and landlock < 3:  # it lets files be cut short that are opened to read, or to nothing
        flags = os.O_TRUNC | os.O_ACCMODE
        cut = (os.O_TRUNC | os.O_RDONLY, os.O_TRUNC | os.O_ACCMODE)
        program += _by_argument(_OPEN[here], 1, cut, allow=False, mask=flags)
        program += _by_argument(_OPENAT[here], 2, cut, allow=False, mask=flags)
        program += [_op(_EQUAL, _OPENAT2[here], 0, 1), _refuse(errno.ENOSYS)]
    return b"".join([*program, _op(_RETURN, _ALLOW)])
