"""`privcode compare`: run the arms of a comparison as processes of their own, and join the figures.

Promises: each arm is an ordinary run in OUT/ARM, resumed where it was when called again; no arm
outlives this process; the table is computed from the runs' own files.
Does not: decide what an arm is (`stages.compare` does).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from privcode import results
from privcode.config import Config, dump_config
from privcode.console import progress_bar, say
from privcode.errors import UserError
from privcode.files import read_json, write_json, write_text
from privcode.run import Run, stages_of
from privcode.stages.compare import arms, row, table

_PR_SET_PDEATHSIG = 1


def compare(config: Config, out: Path) -> dict[str, Any]:
    """Run every arm and write OUT/compare.json: {"arms": rows, "table": rows joined over seeds}.

    Raises:
        UserError: an arm failed; its last line says why.
    """
    chosen = arms(config)
    for name, arm in chosen.items():
        path = out / f"{name}.yaml"
        text = dump_config(arm)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{path}: belongs to a comparison with other settings; choose another --out"
            )
        write_text(path, text)
    threads = max(1, (os.cpu_count() or 1) // config.compare.parallel)
    waiting, running = list(chosen), dict[str, subprocess.Popen[bytes]]()
    finished = 0
    total = sum(len(stages_of(arm)) for arm in chosen.values())
    try:
        with progress_bar("compare", total) as progress:
            while waiting or running:
                while waiting and len(running) < config.compare.parallel:
                    name = waiting.pop(0)
                    running[name] = _start(out, name, threads)
                time.sleep(0.5)
                for name, process in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        if process.returncode:
                            raise UserError(f"arm {name}: {_last_line(out / f'{name}.log')}")
                        say(f"compare: {name} done")
                done = sum(map(len, (_done(out, name) for name in chosen)))
                progress(done - finished)
                finished = done
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    rows = []
    for name, arm in chosen.items():
        run = Run.open(out / name)
        rows.append(row(name, arm, results.evaluation(run), results.leaks(run)))
        run.close()
    result = {"arms": rows, "table": table(rows)}
    write_json(out / "compare.json", result)
    return result


def _done(out: Path, name: str) -> dict[str, Any]:
    path = out / name / "manifest.json"
    stages: dict[str, Any] = read_json(path)["stages"] if path.exists() else {}
    return stages


def _start(out: Path, name: str, threads: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "privcode", "run", str(out / f"{name}.yaml")]
    with (out / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--out", str(out / name), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            preexec_fn=_die_with_parent,
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("privcode: ") if lines else "ended without a word"
