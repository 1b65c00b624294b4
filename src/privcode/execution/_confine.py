"""How a process inside the sandbox gives up its own powers. The first part of `_inside`.

Promises:
- What is given up cannot be regained, by the process or by what it starts.
- A step that fails raises OSError.

Does not: choose what to give up.
"""

import ctypes
import os
import struct
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
for _name in ("capset", "prctl", "syscall"):
    getattr(libc, _name)  # looked up here once, not in every fork


def check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


class Powers:
    """What a process will give up, prepared where it is cheap: once, before the forks.

    Args:
        uid: the ordinary user to become; None to keep the present user.
        keep_read: keep the power to pass a closed directory, for a Python below root's home.
            Landlock still decides what may be opened.
        landlock: its version as "abi", and "readable" paths; None to leave it out.
        bpf: the system-call filter.
    """

    def __init__(
        self, uid: int | None, keep_read: bool, landlock: dict[str, Any] | None, bpf: bytes
    ) -> None:
        self.uid, self.keep_read, self.landlock = uid, keep_read, landlock
        kept = 1 << 2 if keep_read else 0  # CAP_DAC_READ_SEARCH
        self._header = struct.pack("=2I", 0x20080522, 0)
        self._sets = struct.pack("=6I", kept, kept, kept, 0, 0, 0)
        self._filters = ctypes.create_string_buffer(bpf, len(bpf))
        self._program = struct.pack("=H6xQ", len(bpf) // 8, ctypes.addressof(self._filters))
        if landlock is not None:
            abi = landlock["abi"]
            self._every, self._on_file = _rights(abi)
            network, scoped = 3 if abi >= 4 else 0, 3 if abi >= 6 else 0
            self._attribute = struct.pack("=3Q", self._every, network, scoped)
            self._size = ctypes.c_size_t(24 if abi >= 6 else 16 if abi >= 4 else 8)

    def drop(self) -> None:
        """Become an ordinary user without any power."""
        if self.uid is not None:
            os.setgroups([])
            if self.keep_read:
                check(libc.prctl(8, 1, 0, 0, 0), "prctl")  # PR_SET_KEEPCAPS
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        check(libc.prctl(47, 4, 0, 0, 0), "prctl")  # PR_CAP_AMBIENT_CLEAR_ALL
        check(libc.capset(self._header, self._sets), "capset")
        if self.keep_read:
            check(libc.prctl(47, 2, 2, 0, 0), "prctl")  # PR_CAP_AMBIENT_RAISE
        check(libc.prctl(4, 1, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE

    def restrict(self, scratch: str) -> None:
        """Landlock on files, signals and sockets, then seccomp. Neither can be undone."""
        check(libc.prctl(38, 1, 0, 0, 0), "prctl")  # PR_SET_NO_NEW_PRIVS
        if self.landlock is not None:
            ruleset = check(libc.syscall(444, self._attribute, self._size, 0), "landlock")
            for path in self.landlock["readable"]:
                self._allow(ruleset, path, 1 << 0 | 1 << 2 | 1 << 3)  # execute, read file, read dir
            for path in (scratch, "/dev/null"):
                self._allow(ruleset, path, self._every)
            check(libc.syscall(446, ruleset, 0), "landlock")
            os.close(ruleset)
        check(libc.prctl(22, 2, self._program, 0, 0), "seccomp")  # PR_SET_SECCOMP, filter

    def _allow(self, ruleset: int, path: str, rights: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        if not os.path.isdir(path):
            rights &= self._on_file
        check(libc.syscall(445, ruleset, 1, struct.pack("=Qi", rights, fd), 0), "landlock")
        os.close(fd)


def _rights(abi: int) -> tuple[int, int]:
    """All rights that this version of Landlock can restrict, and those that concern files."""
    every = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):  # refer, truncate, ioctl
        every |= right if abi >= since else 0
    return every, every & (1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15)
