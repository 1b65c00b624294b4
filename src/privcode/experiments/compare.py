"""`privcode compare`: run each arm of a comparison in its own process, and join the figures.

Promises:
- Each arm is an ordinary run in OUT/ARM. Called again, it resumes where it was.
- When an arm ends, its row is kept in OUT/rows, and the table and the page are written again. An
  arm with a row is not run again, also when its run is gone.
- Stages that arms have in common are done once.
- An arm's process stays on this machine, because an arm may read private records. On a cluster its
  stages synthesize, validate and evaluate send their work there, as those of any run.
- No arm outlives this process.
- A row is computed from the files of its run and from public files, and the table from the rows.
  Figures against private records are in OUT/private alone, unless the data are public.

Does not: decide what an arm is (`pipeline.arms` does).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from privcode.cluster import engine
from privcode.config import Config, dump_config, load_config
from privcode.console import at_terminal, progress_bar, say
from privcode.errors import NothingLeft, UserError
from privcode.experiments import drawing, page, plots
from privcode.experiments.rows import keep_row, kept_row
from privcode.experiments.synthesised import figures_of
from privcode.files import private_folder, read_json, settle, write_bytes, write_json, write_text
from privcode.machine import cores
from privcode.pipeline import results, scale
from privcode.pipeline.arms import Arm, arms, row, table
from privcode.pipeline.methods import stages_of
from privcode.pipeline.preflight import refuse_early
from privcode.pipeline.run import Run

_PR_SET_PDEATHSIG = 1


def compare(config: Config, out: Path) -> dict[str, Any]:
    """Run every arm that has no row yet. Write OUT/results.json, table.md, pictures, report.html.

    They are written again after each arm.

    Returns:
        {"rows": one for each arm, see `pipeline.arms.row`; "table": the rows joined over seeds;
        "missing": names of the arms that have not run yet, none when this returns; "seconds": the
        time of all stages of all arms, each stage counted once}. "seconds" is None if the data are
        private, because then the time to read them is private too.

    Raises:
        UserError: an arm failed, and the arm's last line says why. A kept row cannot be used.
    """
    chosen = arms(config)
    kept = {name: row for name, arm in chosen.items() if (row := kept_row(out, name, arm))}
    todo = {name: arm for name, arm in chosen.items() if name not in kept}
    takeovers = {
        name: (arm.donor, arm.taken)
        for name, arm in todo.items()
        if arm.donor and (arm.donor in todo or set(arm.taken) <= set(done_in(out / arm.donor)))
    }
    configs = {name: arm.config for name, arm in todo.items()}
    waiting: list[str] = []

    def ended(name: str) -> None:
        waiting.append(name)
        for each, arm in todo.items():
            if each in waiting and arm.donor in (None, *kept):  # a donor may end later
                waiting.remove(each)
                row, seconds = _row(out, each, arm, kept, config.prompts.public_file)
                keep_row(out, each, arm, row, seconds)
                kept[each] = {"row": row, "seconds": seconds}
        _show(_facts(chosen, kept), config.compare.published, out)
        settle(out)

    with engine(config.scale):  # one connection for all
        for name in {arm.method: name for name, arm in todo.items()}.values():
            done = done_in(out / name)
            stages = [stage for stage in stages_of(configs[name]) if stage not in done]
            refuse_early(configs[name], stages)  # before another arm spends hours
            scale.check(configs[name], stages)
    parallel, logs = config.compare.parallel, out / "private"
    run_all("compare", configs, out, logs, parallel, takeovers=takeovers, ended=ended)
    facts = _facts(chosen, kept)
    _show(facts, config.compare.published, out)
    settle(out)
    return facts


def _row(
    out: Path,
    name: str,
    arm: Arm,
    kept: Mapping[str, Mapping[str, Any]],
    declared: str | None,
) -> tuple[dict[str, Any], float | None]:
    """The row of an arm that has ended, and what its own stages took, from the files of its run.

    An arm whose stages are its donor's has the donor's junior, and the junior's score. `declared`
    is the comparison's own file of public prompts: its arms may write theirs.
    """
    mine = done_in(out / name)
    theirs = done_in(out / arm.donor) if arm.donor else {}
    shared = [stage for stage in arm.taken if mine[stage] == theirs.get(stage)]
    with Run.open(out / name) as run:
        found = results.evaluation(run)
        taken = run.seconds()
        funnel, leaks = results.funnel(run), results.leaks(run)
        by_place = results.leaks_by_place(run)
        made = figures_of(run, out / "private" / f"{name}.json", declared)
    public = arm.config.data.public
    figures = row(
        arm,
        evaluation={task: models[arm.config.method] for task, models in found.items()},
        junior={task: models["junior"] for task, models in found.items() if "junior" in models},
        kept=funnel["accepted"] if funnel else None,
        leaks=leaks and leaks["places"]["anywhere"],
        seconds=round(sum(taken.values()), 1) if public else None,
        by_place=by_place,
        synthesised=made,
    )
    if arm.donor and len(shared) == len(arm.taken):
        scores = ("junior_pass@1", "junior_parse_rate")
        figures |= {score: kept[arm.donor]["row"][score] for score in scores}
    own = sum(took for stage, took in taken.items() if stage not in shared)
    return figures, round(own, 1) if public else None


def _facts(chosen: Mapping[str, Arm], kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """results.json, from the rows that there are, in the order of the arms."""
    found = [kept[name] for name in chosen if name in kept]
    rows = [one["row"] for one in found]
    seconds = [one["seconds"] for one in found]
    return {
        "rows": rows,
        "table": table(rows),
        "missing": [name for name in chosen if name not in kept],
        "seconds": None if None in seconds else round(sum(seconds), 1),
    }


def _show(facts: Mapping[str, Any], published: Sequence[Mapping[str, Any]], out: Path) -> None:
    write_json(out / "results.json", facts)
    pictures = plots.pictures(facts)
    shown = page.page(facts, published, out.resolve().name, pictures)
    write_text(out / "report.html", shown)
    write_text(out / "table.md", page.markdown(facts, published))
    for picture in pictures:
        write_bytes(out / f"{picture.name}.png", drawing.png(picture.figure))


def run_all(
    title: str,
    chosen: Mapping[str, Config],
    out: Path,
    logs: Path,
    parallel: int,
    *,
    counted: bool = True,
    may_leave_nothing: bool = False,
    takeovers: Mapping[str, tuple[str, Sequence[str]]] = MappingProxyType({}),
    ended: Callable[[str], object] = lambda name: None,
) -> None:
    """Run every config of `chosen` in OUT/NAME, `parallel` at a time, each in its own process.

    Args:
        title: title of the progress bar.
        chosen: name -> config.
        out: folder of the runs and their configs.
        logs: folder of the logs. Only the owner may see them, because they show how long reading
            the data took.
        parallel: runs at a time, each on its share of the cores.
        counted: False hides how many runs there are.
        may_leave_nothing: whether a run may end in `NothingLeft`.
        takeovers: name -> (the run that it takes its first stages from, the names of these
            stages). It waits until they are done.
        ended: called with the name of a run that ended well.

    Raises:
        UserError: a run failed. The run's last line says why.
    """
    for name, config in chosen.items():
        keep(out / f"{name}.yaml", config)
    private_folder(logs)
    threads = max(1, cores() // parallel)
    waiting, running = list(chosen), dict[str, subprocess.Popen[bytes]]()
    finished = 0
    total = sum(len(stages_of(config)) for config in chosen.values())
    try:
        with progress_bar(title, total, counted=counted) as progress:
            while waiting or running:
                for name in [name for name in waiting if _ready(out, takeovers.get(name))]:
                    if len(running) == parallel:
                        break
                    waiting.remove(name)
                    if name in takeovers:
                        donor, stages = takeovers[name]
                        _take_over(out / donor, chosen[name], out / name, stages)
                    running[name] = _start(out, logs, name, threads)
                time.sleep(0.5)
                for name, process in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        if not process.returncode:
                            ended(name)
                        elif not may_leave_nothing or process.returncode != NothingLeft.exit_code:
                            which = f"arm {name}" if counted else "a trial"
                            raise UserError(f"{which}: {_last_line(logs / f'{name}.log')}")
                        if counted and at_terminal():  # the order in which they end is private
                            say(f"{title}: {name} done")
                done = sum(len(done_in(out / name)) for name in chosen)
                progress(done - finished)
                finished = done
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        settle(out)


def keep(path: Path, config: Config) -> None:
    """Write a config, once. Only where its work is done may change.

    Raises:
        UserError: another config is already there.
    """
    text = dump_config(config)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        before = load_config(path).model_copy(update={"scale": config.scale})
        if dump_config(before) != text:
            raise UserError(f"{path}: has other settings; choose another --out")
    write_text(path, text)


def done_in(run: Path) -> dict[str, Any]:
    """The stages that are done in the directory of a run: name -> facts."""
    path = run / "manifest.json"
    stages: dict[str, Any] = read_json(path)["stages"] if path.exists() else {}
    return stages


def _ready(out: Path, takeover: tuple[str, Sequence[str]] | None) -> bool:
    return takeover is None or set(takeover[1]) <= set(done_in(out / takeover[0]))


def _take_over(donor: Path, config: Config, out: Path, stages: Sequence[str]) -> None:
    with Run(config, out) as run:
        run.take_over(donor, stages)


def _start(out: Path, logs: Path, name: str, threads: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "privcode", "run", str(out / f"{name}.yaml")]
    with (logs / f"{name}.log").open("wb") as log:
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
    return lines[-1].removeprefix("privcode: ") if lines else "ended without a message"
