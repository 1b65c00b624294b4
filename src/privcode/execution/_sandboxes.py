"""The two sandboxes, how each is started, and which of them works on this machine.

Promises: a sandbox counts as available only after a small program ran inside it here; where
none works, `choose_sandbox` raises and says what to install. There is no unprotected mode.
Does not: bound the memory of many processes together (memory is bounded for each of at most
`Limits.processes`); a control group is needed for that.
"""

import ctypes
import functools
import os
import shutil
import site
import stat
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privcode.errors import UserError
from privcode.execution import _seccomp

_INSIDE = Path(__file__).with_name("_inside.py")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/zero", "/dev/random", "/dev/urandom")
_CREATE_RULESET = 444


@dataclass(frozen=True)
class Launch:
    """How to start one confined interpreter: a command line and what it is told about itself."""

    command: tuple[str, ...]
    request: dict[str, Any]
    bpf: bytes | None  # for bubblewrap, which loads the filter itself


@dataclass(frozen=True)
class Sandbox:
    """A way to confine a program: `launch(scratch, size, uid)` says how to start one."""

    name: str
    scratch_on_disk: bool  # False: a sized tmpfs that nobody else sees
    launch: Callable[[Path, int, int | None], Launch]


@dataclass(frozen=True)
class Availability:
    """One line of `privcode doctor`: `reason` says why not and what to do, or is empty."""

    name: str
    available: bool
    reason: str


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where it has none."""
    flags = ctypes.c_uint32(1)  # LANDLOCK_CREATE_RULESET_VERSION
    answer = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), flags)
    return max(int(answer), 0)


@functools.cache
def _interpreter() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(executable, package directories, what must be readable beyond the system's own)."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    packages = tuple(folder for folder in folders if os.path.isdir(folder))
    base = str(Path(sys.base_prefix) / "lib")
    wanted = [executable, base, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    readable: list[str] = []
    for path in [*wanted, *packages]:
        known = any(Path(path).is_relative_to(above) for above in [*_SYSTEM, *readable])
        if os.path.exists(path) and not known:
            readable.append(path)
    return executable, packages, tuple(readable)


@functools.cache
def _inside() -> str:
    return _INSIDE.read_text(encoding="utf-8")


def _python() -> list[str]:
    return [_interpreter()[0], "-I", "-S", "-B", "-X", "utf8", "-c", _inside()]


def _open_to_all(path: str) -> bool:
    """Whether another user can pass every directory above `path`."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in Path(path).parents)


def _landlock(scratch: Path, size: int, uid: int | None) -> Launch:
    _, packages, extra = _interpreter()
    abi = landlock_abi()
    return Launch(
        command=tuple(_python()),
        request={
            "uid": uid,
            "keep_read": uid is not None and not all(map(_open_to_all, extra)),
            "parent": os.getpid(),
            "path": list(packages),
            "landlock": {
                "readable": [*_SYSTEM, *_SYSTEM_FILES, *_DEVICES, *extra],
                "writable": [str(scratch), "/dev/null"],
                "abi": abi,
                "bpf": _seccomp.bpf(metadata=uid is not None, signals=uid is not None or abi >= 6),
            },
        },
        bpf=None,
    )


def _bubblewrap(scratch: Path, size: int, uid: int | None) -> Launch:
    _, packages, extra = _interpreter()
    command = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if uid is None:
        command += ["--unshare-user"]
    else:  # `_inside` gives these up when it becomes the ordinary user
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    tmpfs = ["--perms", "1777", "--size", str(size), "--tmpfs"]
    command += [*tmpfs, str(scratch)]  # first: a Python below /tmp is bound on top of it
    for path in _SYSTEM:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    above = {str(folder) for path in extra for folder in Path(path).parents}
    for folder in sorted(
        above - {"/", str(scratch)}
    ):  # bwrap would make them passable by root alone
        command += ["--perms", "0755", "--dir", folder]
    for path in (*_SYSTEM_FILES, *extra):
        command += ["--ro-bind-try", path, path]
    command += ["--proc", "/proc", "--dev", "/dev"]
    command += [*tmpfs, "/dev/shm"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(scratch), "--"]
    return Launch(
        command=(*command, *_python()),
        request={"uid": uid, "keep_read": False, "path": list(packages), "landlock": None},
        bpf=_seccomp.bpf(metadata=True, signals=True),
    )


_SANDBOXES = (
    Sandbox("bubblewrap", scratch_on_disk=False, launch=_bubblewrap),
    Sandbox("landlock", scratch_on_disk=True, launch=_landlock),
)


@functools.cache
def _why_not(sandbox: Sandbox) -> str:
    """Empty if a program runs inside `sandbox` here, else the reason and the mend."""
    from privcode.execution._run import Limits, Program, SandboxFailure, run_one

    if sys.platform != "linux":
        return "needs Linux; run in a Linux container or virtual machine"
    if not _seccomp.supported():
        return "has no system-call filter for this processor; use x86-64 or aarch64"
    if sandbox.name == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed; run `apt install bubblewrap`"
    if sandbox.name == "landlock" and landlock_abi() == 0:
        return "this kernel has no Landlock; use Linux 5.13 or newer with Landlock enabled"
    probe = Program("probe", "import os\nif os.fork() == 0: os._exit(0)\nos.wait()", checked=True)
    try:
        outcome = run_one(probe, Limits(), sandbox, slot=63)
    except SandboxFailure as failure:
        return f"does not start here ({failure}); allow user namespaces, or use the other sandbox"
    return "" if outcome.status == "ok" else f"a trial program failed ({outcome.error})"


def sandboxes() -> list[Availability]:
    """Every sandbox, strongest first, and whether it works on this machine."""
    return [Availability(s.name, not _why_not(s), _why_not(s)) for s in _SANDBOXES]


def choose_sandbox(name: str = "auto") -> Sandbox:
    """The sandbox called `name`, or the strongest that works for "auto".

    Raises:
        UserError: no such sandbox, or none works here; the message says what to install.
    """
    wanted = [s for s in _SANDBOXES if name in ("auto", s.name)]
    if not wanted:
        known = ", ".join(["auto", *(s.name for s in _SANDBOXES)])
        raise UserError(f"sandbox: there is none called {name!r}; choose one of {known}")
    for sandbox in wanted:
        if not _why_not(sandbox):
            return sandbox
    reasons = "; ".join(f"{s.name}: {_why_not(s)}" for s in wanted)
    raise UserError(f"sandbox: model-written code cannot be confined on this machine; {reasons}")
