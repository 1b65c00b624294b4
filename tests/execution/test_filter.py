"""The system-call filter, tried on every call by an interpreter of classic BPF."""

import errno
import platform
import re
import struct
from errno import EPERM
from pathlib import Path

import pytest

from privcode.execution import _calls, _seccomp

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ENOSYS = ERRNO | errno.ENOSYS
NEWEST = 470  # file_setattr, 469, is the newest of Linux 6.18
# Refused or not by an argument, which is 0 here.
BY_ARGUMENT = ("clone", "socketpair", "prctl", "prlimit", "kill", "fcntl", "ioctl", "open")
BY_ARGUMENT += ("openat", "mmap", "setsockopt")
# Numbers that both architectures share, of calls that programs do without.
NEW = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "statmount": 457,
    "listmount": 458,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "openat2": 437,
    "clone3": 435,
    "quotactl_fd": 443,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "process_mrelease": 448,
}


def verdict(program: bytes, call: int, architecture: int, *arguments: int) -> int:
    data = struct.pack("=IIQ6Q", call, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = list(struct.iter_unpack("=HBBI", program))
    value = at = 0
    while True:
        code, yes, no, k = lines[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            value &= k
        elif code == 0x05:
            at += k
        elif code in (0x15, 0x35):
            at += yes if (value == k if code == 0x15 else value >= k) else no
        else:
            raise AssertionError(f"no such instruction: {code:#x}")


MACHINES = pytest.mark.parametrize("machine", sorted(AUDIT))
VARIANTS = pytest.mark.parametrize(
    ("shared", "own_user", "landlock"),
    [(False, True, 0), (True, True, 1), (True, False, 5), (True, False, 6)],
)


@MACHINES
@VARIANTS
def test_what_is_allowed_by_name_is_allowed_and_nothing_else(
    monkeypatch, machine, shared, own_user, landlock
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    here = sorted(AUDIT, reverse=True).index(machine)
    program = _seccomp.bpf(shared=shared, own_user=own_user, landlock=landlock)
    expected = {numbers[here]: ALLOW for numbers in _calls.ALLOWED.values()}
    refused = [_calls.DENIED] + [_calls.SHARED] * shared
    if not own_user and landlock < 6:
        refused.append(_calls.SIGNALS)
    for calls in refused:
        expected |= {numbers[here]: ERRNO | errno.EPERM for numbers in calls.values()}
    for calls, answer in (
        (_calls.ATTRIBUTES, errno.EOPNOTSUPP),
        (_calls.SPLICES, errno.EINVAL),
        (_calls.NOTHING, 0),
    ):
        expected |= {numbers[here]: ERRNO | answer for numbers in calls.values()}
    depends = {getattr(_seccomp, f"_{name.upper()}")[here] for name in BY_ARGUMENT}
    for call in set(range(NEWEST + 100)) - depends:
        assert verdict(program, call, AUDIT[machine]) == expected.get(call, ENOSYS), call
    for call in (1 << 20, 0x40000000 | 41, 0x7FFFFFFF, 0xFFFFFFFF):  # the second is an x32 call
        assert verdict(program, call, AUDIT[machine]) == ENOSYS
    for other in (0x40000003, 0x40000028, *AUDIT.values()):  # another architecture's numbers
        if other != AUDIT[machine]:
            assert verdict(program, 0, other) == KILL


@MACHINES
@VARIANTS
def test_newer_calls_do_not_exist(monkeypatch, machine, shared, own_user, landlock):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    program = _seccomp.bpf(shared=shared, own_user=own_user, landlock=landlock)
    for name, number in NEW.items():
        assert verdict(program, number, AUDIT[machine]) == ENOSYS, name


@pytest.mark.parametrize(
    ("header", "here"),
    [("x86_64-linux-gnu/asm/unistd_64.h", 0), ("asm-generic/unistd.h", 1)],
)
def test_the_numbers_are_the_kernels(header, here):
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"no {path}; apt install linux-libc-dev")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())
    known = {name: int(number) for name, number in found}
    if here == 1:  # on 64 bits by other names
        known |= {"newfstatat": known.pop("fstatat")}
    tables = (_calls.ALLOWED, _calls.DENIED, _calls.SHARED, _calls.SIGNALS, _calls.ATTRIBUTES)
    for table in (*tables, _calls.SPLICES, _calls.NOTHING):
        for name, numbers in table.items():
            assert known.get(name) == numbers[here], name


@pytest.mark.parametrize(
    ("call", "allowed", "refused", "error"),
    [
        ("clone", (0x01200011,), (0x10000000,), EPERM),  # as fork has it; in a new user namespace
        ("clone", (0,), (0x8000,), EPERM),  # CLONE_PARENT
        ("clone", (0x3D0F00,), (0x3D0B00,), EPERM),  # a thread; one with files of its own
        ("socketpair", (1, 1 | 0o2000000), (1, 2), EPERM),  # streams; datagrams
        ("kill", (0,), (1,), EPERM),  # its own group
        ("prlimit", (0,), (1,), EPERM),  # itself
        ("prctl", (38,), (4,), EPERM),  # PR_SET_DUMPABLE
        ("prctl", (15,), (22,), EPERM),  # PR_SET_SECCOMP
        ("fcntl", (3, 1), (3, 8), EPERM),  # F_SETOWN
        ("fcntl", (3, 1030), (3, 1031), EPERM),  # F_SETPIPE_SZ
        ("fcntl", (3, 6), (3, 37), EPERM),  # F_OFD_SETLK
        ("fcntl", (3, 4), (3, 1024), EPERM),  # F_SETLEASE
        ("ioctl", (1, 0x5401), (1, 0x8901), errno.ENOTTY),  # FIOSETOWN
        ("ioctl", (1, 0x541B), (1, 0x40086602), errno.ENOTTY),  # FS_IOC_SETFLAGS
        ("ioctl", (1, 0x5421), (1, 0x401C5820), errno.ENOTTY),  # FS_IOC_FSSETXATTR
        ("ioctl", (1, 0x5421), (1, 0x80086601), errno.ENOTTY),  # FS_IOC_GETFLAGS
        ("setsockopt", (3, 1, 9), (3, 1, 7), EPERM),  # SO_SNDBUF
        ("setsockopt", (3, 1, 2), (3, 1, 26), EPERM),  # SO_ATTACH_FILTER
        ("setsockopt", (3, 1, 2), (3, 0, 2), EPERM),  # another level
        ("mmap", (0, 0, 3, 0x22), (0, 0, 3, 0x21), EPERM),  # anonymous, private; shared
        ("mmap", (0, 0, 3, 0x1), (0, 0, 3, 0x23), EPERM),  # MAP_SHARED_VALIDATE
        ("openat", (0, 0, 0o1001), (0, 0, 0o1000), EPERM),  # O_TRUNC, to write and to read
    ],
)
@MACHINES
def test_what_depends_on_an_argument(monkeypatch, machine, call, allowed, refused, error):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    number = getattr(_seccomp, f"_{call.upper()}")[sorted(AUDIT, reverse=True).index(machine)]
    program = _seccomp.bpf(shared=True, own_user=False, landlock=1)
    assert verdict(program, number, AUDIT[machine], *allowed) == ALLOW
    assert verdict(program, number, AUDIT[machine], *refused) == ERRNO | error
