"""What bubblewrap does, where it is not installed: new namespaces and a root of their own.

Promises:
- After `enter`, this process sees the system's programs, the interpreter's packages and a few
  harmless devices. It sees nothing else of the machine, and can write to none of it.
- There is no network, and no process but its own and its descendants.
- A step that fails raises OSError.

Does not: give up the powers that it was started with, or that a user namespace gave. The server
needs them, and `_confine` takes them from the programs.

It is the second part of `_inside`, which calls `enter` in namespaces that bubblewrap did not make.
"""

import ctypes
import os
from typing import Any

from privcode.execution._confine import check, libc

# CLONE_NEW{NS,CGROUP,UTS,IPC,PID,NET}, and CLONE_NEWUSER for an ordinary user
_NEW, _NEW_USER = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000,
    1 << 28,
)
_REC_BIND, _REC_PRIVATE = 4096 | 16384, 1 << 18 | 16384
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _RECURSIVE, _READ_ONLY, _NOSUID = 442, 0x8000, 1, 2


def enter(view: dict[str, Any]) -> None:
    """Continue as the first process of new namespaces. The old process waits, and exits with it.

    Args:
        view: "readable", paths to show; "links", (path, target) pairs; "devices", paths.
    """
    uid, gid = os.geteuid(), os.getegid()
    check(libc.unshare(_NEW | (_NEW_USER if uid else 0)), "unshare")
    if uid:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    first = os.fork()
    if first:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)
    check(libc.prctl(1, 9, 0, 0, 0), "prctl")  # PR_SET_PDEATHSIG, SIGKILL
    mount("none", "/", None, _REC_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", 2, "mode=0755")
    os.mkdir("/tmp/.old")
    check(libc.syscall(_PIVOT_ROOT[os.uname().machine], b"/tmp", b"/tmp/.old"), "pivot_root")
    os.chdir("/")
    for folder in ("/tmp", "/proc", "/dev/shm"):
        os.makedirs(folder)
    for path, target in view["links"]:
        os.symlink(target, path)
    for path in (*view["readable"], *view["devices"]):
        old = f"/.old{path}"
        if os.path.isdir(old):
            os.makedirs(path, exist_ok=True)
        elif os.path.exists(old):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT, 0o644))
        else:
            continue
        mount(old, path, None, _REC_BIND)
    mount("proc", "/proc", "proc", 14)
    unmount("/.old")
    os.rmdir("/.old")
    _set_attributes("/", _RECURSIVE, _READ_ONLY | _NOSUID, 0)
    _set_attributes("/proc", 0, 0, _READ_ONLY)  # a program writes its oom_score_adj there


def _set_attributes(path: str, flags: int, on: int, off: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(on, off, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    done = libc.syscall(_MOUNT_SETATTR, -100, path.encode(), flags, attributes, size)
    check(done, f"mount_setattr {path}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """A mount, as in `mount(2)`."""
    words = [None if x is None else x.encode() for x in (source, target, kind)]
    check(libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def unmount(target: str) -> None:
    """Hide the mount at once. It is gone when its last file is closed."""
    check(libc.umount2(target.encode(), 2), f"umount {target}")
