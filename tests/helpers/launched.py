"""Several processes of one run, started by torchrun as a user would start them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _environment() -> dict[str, str]:
    """That of the processes, which are scripts and import this folder as this test run does."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def command(ranks: int, *program: str | Path) -> list[str]:
    """The command that starts `ranks` processes: a script, or "-m" and a module; and arguments."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [sys.executable, "-m", *launcher, *map(str, program)]


def torchrun(ranks: int, *program: str | Path) -> subprocess.CompletedProcess[str]:
    """What the processes ended with, and what they said."""
    return subprocess.run(
        command(ranks, *program),
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
        timeout=600,
    )


def started(ranks: int, folder: Path, *program: str | Path) -> subprocess.Popen[str]:
    """The launcher, which works in `folder`. What is said to either stream is in its stdout."""
    return subprocess.Popen(
        command(ranks, *program),
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(launcher: subprocess.Popen[str], rank: str) -> None:
    """End one of the processes at once."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(next(int(child) for child in children if _rank_of(int(child)) == rank), signal.SIGKILL)


def _rank_of(process: int) -> str | None:
    """The rank of a process, as its environment says."""
    said = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((v[5:].decode() for v in said if v.startswith(b"RANK=")), None)
