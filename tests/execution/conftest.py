"""Every sandbox, started by root and by an ordinary user, from a caller with secrets to lose."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import privcode
from privcode.execution import Limits, Outcome, Program

ORDINARY = 23_456
SMALL = Limits(cpu_seconds=1, wall_seconds=8, files_mb=8)
# landlock1: as on Linux 5.13
LAYERS = ("bubblewrap", "namespaces", "landlock", "landlock1", "podman")
_CALLER = """
import json, os, sys
from dataclasses import asdict
sys.path.insert(0, sys.argv[1])
from privcode.execution import Limits, Program, _sandboxes, execute, sandboxes
newest = _sandboxes.landlock_abi()
print(json.dumps([asdict(state) for state in sandboxes()]), flush=True)
for line in sys.stdin:
    ask = json.loads(line)
    programs = [Program(**fields) for fields in ask["programs"]]
    limits = Limits(**ask["limits"])
    _sandboxes.landlock_abi = lambda: 1 if ask["layer"] == "landlock1" else newest
    outcomes = execute(programs, limits, sandbox=ask["layer"].rstrip("1"), workers=ask["workers"])
    print(json.dumps([asdict(outcome) for outcome in outcomes]), flush=True)
"""


def _passable(path: str) -> bool:
    return all(folder.stat().st_mode & 1 for folder in Path(path).resolve().parents)


def _interpreter(uid: int | None) -> str:
    """One that the user can start: this one, or the system's."""
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    if uid is None or _passable(base):
        return sys.executable if uid is None else base
    system = "/usr/bin/python3"
    test = [system, "-c", "import sys; raise SystemExit(sys.version_info < (3, 11))"]
    if not os.path.exists(system) or subprocess.run(test, check=False).returncode:
        pytest.skip("no Python 3.11 that an ordinary user can start")
    return system


class Caller:
    """A process of `user` that calls `execute`, with a secret in every place that has one."""

    def __init__(self, user: str, folder: Path) -> None:
        root = os.geteuid() == 0
        if user == "root" and not root:
            pytest.skip("not root")
        self.uid = ORDINARY if root and user == "ordinary" else None
        self.secret = secrets.token_hex(8)
        self.home, self.scratch = folder / "home", folder / "scratch"
        package = folder / "package" / "privcode"
        source = Path(privcode.__file__).parent
        shutil.copytree(source, package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
        for place in (self.home, self.scratch):
            place.mkdir()
        (self.home / "secret").write_text(self.secret)
        subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
        if self.uid is not None:
            subprocess.run(["chown", "-R", str(self.uid), self.home, self.scratch], check=True)
        kept = (self.home / "secret").open("rb")
        os.set_inheritable(kept.fileno(), True)
        self.process = subprocess.Popen(
            [_interpreter(self.uid), "-c", _CALLER, str(package.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=self.uid,
            group=self.uid,
            extra_groups=[] if self.uid is not None else None,
            close_fds=False,
            cwd=self.home,
            env={
                "API_TOKEN": self.secret,
                "HOME": str(self.home),
                "TMPDIR": str(self.scratch),
                "PATH": os.environ["PATH"],
            },
        )
        kept.close()
        self.states = {state["name"]: state for state in self._answer()}

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the caller did not survive"
        return json.loads(line)

    def ask(self, layer: str, programs: list[Program], limits: Limits) -> list[Outcome]:
        assert self.process.stdin is not None
        wanted = {
            "programs": [asdict(program) for program in programs],
            "limits": asdict(limits),
            "layer": layer,
            "workers": 1,
        }
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return [Outcome(**fields) for fields in self._answer()]


class Box:
    """One layer, used by one caller."""

    def __init__(self, layer: str, caller: Caller) -> None:
        self.layer, self.caller = layer, caller

    def run(self, code: str, limits: Limits = SMALL, **fields: Any) -> Outcome:
        return self.all([code], limits, **fields)[0]

    def all(self, codes: list[str], limits: Limits = SMALL, **fields: Any) -> list[Outcome]:
        """One worker runs them one after the other."""
        programs = [Program(str(number), code, **fields) for number, code in enumerate(codes)]
        return self.caller.ask(self.layer, programs, limits)


@pytest.fixture(scope="session")
def callers() -> Iterator[dict[str, Caller]]:
    known: dict[str, Caller] = {}
    yield known
    for caller in known.values():
        caller.process.kill()
        caller.process.wait()
        shutil.rmtree(caller.home.parent, ignore_errors=True)


def _boxes() -> list[Any]:
    """Every layer and user; what a run here would not take is slow."""
    here = "root" if os.geteuid() == 0 else "ordinary"
    boxes = [(layer, user) for layer in LAYERS for user in ("root", "ordinary")]
    return [
        pytest.param(
            f"{layer}-{user}",
            marks=[] if user == here and layer in ("bubblewrap", "landlock") else pytest.mark.slow,
        )
        for layer, user in boxes
    ]


@pytest.fixture(params=_boxes())
def box(request: pytest.FixtureRequest, callers: dict[str, Caller]) -> Box:
    layer, user = request.param.split("-")
    if user not in callers or callers[user].process.poll() is not None:
        folder = Path(tempfile.mkdtemp(prefix="caller-"))
        folder.chmod(0o755)
        callers[user] = Caller(user, folder)
    state = callers[user].states[layer.rstrip("1")]
    if not state["available"]:
        pytest.skip(f"{layer}: {state['reason']}")
    return Box(layer, callers[user])
