"""Which sandbox is used: the strongest that runs a trial program on this machine.

Promises: a sandbox is offered only if a program ran in it here; otherwise there is a reason and a
remedy.
"""

import functools
import shutil
import sys
from dataclasses import dataclass

from privcode.errors import UserError
from privcode.execution import _sandboxes, _seccomp
from privcode.execution._program import Limits
from privcode.execution._sandboxes import Sandbox
from privcode.execution._server import SandboxFailure, Server, Task


@dataclass(frozen=True)
class Availability:
    """One line of `privcode doctor`: `reason` says why not and what to do, or is empty."""

    name: str
    available: bool
    reason: str


@functools.cache
def _why_not(sandbox: Sandbox) -> str:
    """Empty if a program runs inside `sandbox` here, otherwise the reason and the remedy."""
    if sys.platform != "linux":
        return "needs Linux; run in a Linux container or virtual machine"
    if not _seccomp.supported():
        return "has no system-call filter for this processor; use x86-64 or aarch64"
    for name, tool in (("bubblewrap", "bwrap"), ("podman", "podman")):
        if sandbox.name == name and _sandboxes._tool(tool) is None:
            found = shutil.which(tool)
            how = (
                f"is {found}, which users other than root could change"
                if found
                else "is not installed"
            )
            return f"{tool} {how}; run `apt install {name}`"
    if sandbox.name == "landlock" and _sandboxes.landlock_abi() == 0:
        return "this kernel has no Landlock; use Linux 5.13 or newer with Landlock enabled"
    code = "import os\nif os.fork() == 0: os._exit(0)\nos.wait()"
    server = Server(sandbox, (), slot=255)
    try:
        outcome, _ = server.do(Task("probe", Limits(), code, checked=True))
    except SandboxFailure as failure:
        remedy = "allow user namespaces, as docs/reference/sandbox.md says, or use another"
        return f"does not start here ({failure}); {remedy}"
    finally:
        server.close()
    return "" if outcome.status == "ok" else f"a trial program failed ({outcome.error})"


def sandboxes() -> list[Availability]:
    """Every sandbox, strongest first, and whether it works on this machine."""
    return [Availability(s.name, not _why_not(s), _why_not(s)) for s in _sandboxes.SANDBOXES]


def choose_sandbox(name: str = "auto") -> Sandbox:
    """The sandbox called `name`. For "auto", the strongest that works and needs no engine.

    Raises:
        UserError: no such sandbox, or none works here; the message says what to install.
    """
    wanted = [s for s in _sandboxes.SANDBOXES if name == s.name or (name == "auto" and s.automatic)]
    if not wanted:
        known = ", ".join(["auto", *(s.name for s in _sandboxes.SANDBOXES)])
        raise UserError(f"sandbox: there is none called {name!r}; choose one of {known}")
    for sandbox in wanted:
        if not _why_not(sandbox):
            return sandbox
    reasons = "; ".join(f"{s.name}: {_why_not(s)}" for s in wanted)
    raise UserError(f"sandbox: model-written code cannot be confined on this machine; {reasons}")
