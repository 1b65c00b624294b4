"""The sandboxes, how each is started, and which of them works on this machine.

Promises:
- A sandbox counts as available only after a small program ran inside it here.
- Where none works, `choose_sandbox` raises and says what to install. There is no unprotected mode.

Does not: bound the memory of many processes together (memory is bounded for each of at most
`Limits.processes`). A control group is needed for that.
"""

import ctypes
import functools
import os
import re
import resource
import shutil
import site
import stat
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privcode.execution import _seccomp
from privcode.execution._folder import new_folder

_PARTS = ("_confine.py", "_box.py", "_measure.py", "_inside.py")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_CREATE_RULESET = 444
_POWERS = ("SYS_ADMIN", "SYS_PTRACE")
# For a server whose programs run as another user. The last power lists what they hold open.
_USER_POWERS = ("SETUID", "SETGID", "KILL", "DAC_READ_SEARCH")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp"}
# Threads of a preloaded module would be lost in the programs, so it is asked to start none.
ENVIRONMENT |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
ENVIRONMENT |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# For the server alone: symbols that it has not looked up, each of its forks would look up.
ENVIRONMENT |= {"LD_BIND_NOW": "1"}
"""The environment that a server starts with and its programs inherit."""


@dataclass(frozen=True)
class Launch:
    """How to start a server: a command line and `setup`.

    The numbers of its control socket and of a file with `setup` are added to the command line.
    """

    command: tuple[str, ...]
    setup: dict[str, Any]


@dataclass(frozen=True)
class Sandbox:
    """A way to confine programs.

    `launch(uid, tools)` says how to start a server for them. `tools` are paths that they need in
    addition to the system's and the interpreter's. `namespaces`: a server sees its own processes
    only, and every program gets a scratch and /dev/shm in memory. Without namespaces, its scratch
    is a directory of the machine. `automatic`: "auto" may choose it.
    """

    name: str
    namespaces: bool
    launch: Callable[[int | None, tuple[str, ...]], Launch]
    automatic: bool = True


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where it has none."""
    flags = ctypes.c_uint32(1)  # LANDLOCK_CREATE_RULESET_VERSION
    answer = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), flags)
    return max(int(answer), 0)


@functools.cache
def _interpreter() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(executable, package directories, what else must be readable, besides the system's)."""
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
    """The text of what runs inside, where there is no package to import the parts from."""
    texts = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _PARTS]
    return re.sub(r"^from privcode\..*\n", "", "\n\n".join(texts), flags=re.MULTILINE)


@functools.cache
def _tool(name: str) -> str | None:
    """The path of the first program of that name on the PATH that only root could have put there.

    This program confines others, so one in a folder that others may write to is skipped.
    """
    for above in os.environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which(name, path=above) if os.path.isabs(above) else None
        if found is not None:
            path = Path(found).resolve()
            states = [place.stat() for place in (path, *path.parents)]
            if all(state.st_uid == 0 and not state.st_mode & 0o022 for state in states):
                return str(path)
    return None


def _python(text: str) -> list[str]:
    return [_interpreter()[0], "-I", "-S", "-B", "-X", "utf8", "-c", text]


def _open_to_all(path: str) -> bool:
    """Whether another user can pass every directory above `path`."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in Path(path).parents)


def _landlock(uid: int | None, tools: tuple[str, ...]) -> Launch:
    _, packages, extra = _interpreter()
    extra += tools
    abi = landlock_abi()
    return Launch(
        command=tuple(_python(_inside())),
        setup={
            "path": list(packages),
            "uid": uid,
            "keep_read": uid is not None and not all(map(_open_to_all, extra)),
            "namespaces": False,
            "view": None,
            "kept": [],
            "landlock": {"readable": [*_SYSTEM, *_SYSTEM_FILES, *_DEVICES, *extra], "abi": abi},
            "bpf": _seccomp.bpf(shared=True, own_user=uid is not None, landlock=abi),
        },
    )


def _view(extra: tuple[str, ...]) -> dict[str, list[Any]]:
    """What of the machine is visible inside, in addition to the system. See `_box.enter`."""
    links = [(path, os.readlink(path)) for path in _SYSTEM if os.path.islink(path)]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        links.append((f"/dev/{name}", f"/proc/self/fd/{number}"))
    folders = [path for path in _SYSTEM if os.path.isdir(path) and not os.path.islink(path)]
    return {
        "readable": [*folders, *_SYSTEM_FILES, *extra],
        "links": [*links, ("/dev/fd", "/proc/self/fd")],
        "devices": list(_DEVICES),
    }


def _namespaces(uid: int | None, tools: tuple[str, ...]) -> Launch:
    _, packages, extra = _interpreter()
    extra += tools
    return Launch(
        command=tuple(_python(_inside())),
        setup={
            "path": list(packages),
            "uid": uid,
            "keep_read": False,
            "namespaces": True,
            "view": _view(extra),
            "kept": [path for path in extra if Path(path).is_relative_to("/tmp")],
            "landlock": None,
            "bpf": _seccomp.bpf(shared=False, own_user=True, landlock=0),
        },
    )


def _bubblewrap(uid: int | None, tools: tuple[str, ...]) -> Launch:
    plain = _namespaces(uid, tools)
    view = plain.setup["view"]
    command = [
        _tool("bwrap") or "bwrap",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
    ]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--as-pid-1"]  # no program can end it, and it reaps the orphans
    # For the server; `_confine` gives all of it up before a program starts.
    for power in (*_POWERS, *(_USER_POWERS if uid is not None else ())):
        command += ["--cap-add", f"CAP_{power}"]
    if uid is None:
        command += ["--unshare-user"]
    above = {str(folder) for path in view["readable"] for folder in Path(path).parents} - {"/"}
    # otherwise bwrap would let only root pass them
    for folder in sorted(above | {"/tmp", "/dev", "/dev/shm"}):
        command += ["--perms", "0755", "--dir", folder]
    for path, target in view["links"]:
        command += ["--symlink", target, path]
    for path in view["readable"]:
        command += ["--ro-bind-try", path, path]
    for path in view["devices"]:
        command += ["--dev-bind-try", path, path]
    command += ["--proc", "/proc", "--remount-ro", "/", "--chdir", "/", "--"]
    return Launch((*command, *plain.command), plain.setup | {"view": None})


# podman passes on only the descriptors from 3 on.
_AS_THREE_AND_FOUR = """
import fcntl, os, sys
os.environ["HOME"], *command, first, second = sys.argv[1:]
for target, fd in enumerate([fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in (first, second)], 3):
    os.dup2(fd, target)
os.execvp(command[0], [*command, "3", "4"])
"""


@functools.cache
def _empty_root() -> str:
    """A directory for containers to mount things in, until this process ends.

    Made once, by the trial of `_choice`, before servers start side by side.
    """
    made = str(new_folder("root"))
    os.chmod(made, 0o755)  # it is / to the programs' user
    os.mkdir(f"{made}/tmp")
    for path, target in _view(())["links"]:
        if not path.startswith("/dev/"):
            os.symlink(target, made + path)
    return made


def _podman(uid: int | None, tools: tuple[str, ...]) -> Launch:
    """The namespaces, made inside a container that sees the same and has no network."""
    plain = _namespaces(uid, tools)
    command = [
        _tool("podman") or "podman",
        "run",
        "--rm",
        "--quiet",
        "--log-driver=none",
        "--preserve-fds=2",
    ]
    command += ["--network=none", "--read-only", "--read-only-tmpfs=false", "--systemd=false"]
    command += ["--no-hosts", "--passwd=false", "--hostname=sandbox", "--http-proxy=false"]
    command += ["--unsetenv-all", *(f"--env={name}={ENVIRONMENT[name]}" for name in ENVIRONMENT)]
    # For the server, as with bubblewrap. A new /proc can be mounted only where the old hides
    # nothing.
    allowed = ("seccomp=unconfined", "apparmor=unconfined", "label=disable", "unmask=ALL")
    command += ["--cap-drop=ALL", *(f"--security-opt={what}" for what in allowed)]
    command += [f"--cap-add={power}" for power in (*_POWERS, *_USER_POWERS)]
    for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        most = resource.getrlimit(kind)[1]
        command += [f"--ulimit={name}={most if 0 <= most < 1 << 15 else 1 << 15}"]
    for path in filter(os.path.exists, plain.setup["view"]["readable"]):
        command += [f"--mount=type=bind,src={path},dst={path},ro,bind-nonrecursive"]
    if uid is None:
        command += ["--userns=keep-id"]  # no program is root
    command += ["--workdir=/", "--rootfs", _empty_root()]
    start = [*_python(_AS_THREE_AND_FOUR), os.path.expanduser("~")]
    return Launch((*start, *command, *plain.command), plain.setup)


SANDBOXES = (
    Sandbox("bubblewrap", namespaces=True, launch=_bubblewrap),
    Sandbox("namespaces", namespaces=True, launch=_namespaces),
    Sandbox("landlock", namespaces=False, launch=_landlock),
    Sandbox("podman", namespaces=True, launch=_podman, automatic=False),
)
