"""The system-call filter, tried on every call by an interpreter of classic BPF."""

import errno
import platform
import struct

import pytest

from privcode.execution import _seccomp

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Refused or not by an argument, which is 0 here.
BY_ARGUMENT = {
    "clone",
    "socketpair",
    "prctl",
    "prlimit",
    "kill",
    "fcntl",
    "ioctl",
    "open",
    "openat",
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


@pytest.mark.parametrize("machine", sorted(AUDIT))
@pytest.mark.parametrize(
    ("shared", "own_user", "landlock"),
    [(False, True, 0), (True, True, 1), (True, False, 5), (True, False, 6)],
)
def test_what_is_named_is_refused_and_nothing_else(
    monkeypatch, machine, shared, own_user, landlock
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    here = sorted(AUDIT, reverse=True).index(machine)
    program = _seccomp.bpf(shared=shared, own_user=own_user, landlock=landlock)
    named = dict(_seccomp._DENIED) | (_seccomp._SHARED if shared else {})
    if not own_user and landlock < 6:
        named |= _seccomp._SIGNALS
    expected = {numbers[here]: ERRNO | errno.EPERM for numbers in named.values()}
    expected[_seccomp._SCHEDULER[here]] = ERRNO
    expected[_seccomp._CLONE3[here]] = ERRNO | errno.ENOSYS
    if shared and landlock < 3:
        expected[_seccomp._OPENAT2[here]] = ERRNO | errno.ENOSYS
    depends = {getattr(_seccomp, f"_{name.upper()}")[here] for name in BY_ARGUMENT}
    assert len(expected) > 60
    for call in set(range(600)) - depends:
        wanted = expected.get(call, ALLOW)
        assert verdict(program, call, AUDIT[machine]) == wanted, call
    assert verdict(program, 0, 0x40000003) == KILL  # another architecture's numbers
    if machine == "x86_64":
        assert verdict(program, 0x40000000 | 41, AUDIT[machine]) == ERRNO | errno.EPERM


@pytest.mark.parametrize(
    ("call", "allowed", "refused"),
    [
        ("clone", (0x01200011,), (0x10000000,)),  # as fork has it; in a new user namespace
        ("clone", (0,), (0x8000,)),  # CLONE_PARENT
        ("socketpair", (1, 1 | 0o2000000), (1, 2)),  # streams; datagrams
        ("kill", (0,), (1,)),  # its own group
        ("prlimit", (0,), (1,)),  # itself
        ("prctl", (38,), (4,)),  # PR_SET_DUMPABLE
        ("fcntl", (3, 1), (3, 8)),  # F_SETOWN
        ("ioctl", (1, 0x5401), (1, 0x8901)),  # FIOSETOWN
        ("openat", (0, 0, 0o1001), (0, 0, 0o1000)),  # O_TRUNC, to write and to read
    ],
)
@pytest.mark.parametrize("machine", sorted(AUDIT))
def test_what_depends_on_an_argument(monkeypatch, machine, call, allowed, refused):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    number = getattr(_seccomp, f"_{call.upper()}")[sorted(AUDIT, reverse=True).index(machine)]
    program = _seccomp.bpf(shared=True, own_user=False, landlock=1)
    assert verdict(program, number, AUDIT[machine], *allowed) == ALLOW
    assert verdict(program, number, AUDIT[machine], *refused) == ERRNO | errno.EPERM
