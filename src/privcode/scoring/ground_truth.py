"""Whether a benchmark's own solutions pass on this machine. If they do not, a score is void.

Promises:
- `ground_truth` runs these solutions in the same way as any sample.
- If more than 2 % fail, it raises an error with the tasks and what is missing.
- A result is saved with its machine, Python version, tasks and limits, so that the solutions are
  not run again.

Does not:
- Score a benchmark without the tasks that fail. Figures from different machines would then not be
  figures of the same benchmark. To score fewer tasks, name them.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from privcode.errors import UserError
from privcode.execution import Limits, execute
from privcode.files import read_json, write_json
from privcode.privacy.registry import registry
from privcode.scoring.formats import format_named
from privcode.scoring.programs import program_for, unsupported, verdict
from privcode.scoring.tasks import Task

TOLERATED = 0.02


@dataclass(frozen=True)
class GroundTruth:
    """How the benchmark's own solutions do on this machine.

    `checked` counts the tasks with their own solution and those that this machine cannot run.
    `passed` of them pass. `failed` maps the id of a task to the reason.
    """

    passed: int
    checked: int
    failed: dict[str, str]

    def facts(self) -> dict[str, object]:
        """The facts for a score's record. `rate` is None if there was nothing to check."""
        rate = self.passed / self.checked if self.checked else None
        return {"passed": self.passed, "checked": self.checked, "rate": rate, "failed": self.failed}


def ground_truth(
    tasks: Sequence[Task],
    *,
    prelude: str = "",
    limits: Limits,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> GroundTruth:
    """Run the tasks' own solutions, or read the saved result of an earlier run on this machine.

    Args:
        tasks: the tasks. A task without its own solution counts only if this machine cannot run
            it.
        prelude: as for `score`, like the other arguments.
        limits: limits for each program.
        sandbox: as for `execute`.
        workers: as for `execute`.
        progress: called with the number of tasks just done. The numbers add up to all tasks.

    Raises:
        UserError: more than 2 % fail, or there is no sandbox.
    """
    done = progress or (lambda _: None)
    known = [(task, sample) for task in tasks if (sample := task.canonical) is not None]
    failed = {task.task_id: why for task in tasks if (why := unsupported(task, sandbox))}
    note = _note(tasks, prelude, limits, failed)
    if note is not None and (found := _noted(note)):
        done(len(tasks))
        return found
    checked = len({task.task_id for task, _ in known} | set(failed))
    runnable = [(task, sample) for task, sample in known if task.task_id not in failed]
    done(len(tasks) - len(runnable))
    programs = (program_for(task, sample, prelude, task.task_id) for task, sample in runnable)
    outcomes = execute(programs, limits, sandbox=sandbox, workers=workers, progress=progress)
    for (task, _), outcome in zip(runnable, outcomes, strict=True):
        if not (found_here := verdict(task, outcome)).passed:
            failed[task.task_id] = found_here.error or found_here.status
    truth = GroundTruth(checked - len(failed), checked, failed)
    if len(failed) > TOLERATED * checked:
        raise UserError(_refusal(truth))
    if note is not None:
        with suppress(UserError):  # the note only saves time
            write_json(note, asdict(truth), 0o600)
    return truth


def _noted(note: Path) -> GroundTruth | None:
    with suppress(UserError, TypeError):  # there is no note, or it is not what was written
        found = GroundTruth(**read_json(note))
        if type(found.passed) is type(found.checked) is int and isinstance(found.failed, dict):
            return found
    return None


def _refusal(truth: GroundTruth) -> str:
    reasons: dict[str, list[str]] = {}
    for task_id, why in truth.failed.items():
        reasons.setdefault(why, []).append(task_id)
    most = sorted(reasons.items(), key=lambda item: -len(item[1]))[:8]
    shown = "; ".join(
        f"{', '.join(ids[:5])}{f' and {len(ids) - 5} more' if len(ids) > 5 else ''}: {why}"
        for why, ids in most
    )
    rest = "; and others" if len(reasons) > len(most) else ""
    libraries = any(" pip install " in why for why in truth.failed.values())
    remedy = (
        "install these, or take --stdlib-only (in a config, stdlib_only)"
        if libraries
        else "fix this machine or the tasks"
    )
    return (
        f"the tasks' own solutions pass for {truth.passed} of {truth.checked} tasks here, so a "
        f"score would mean little: {shown}{rest}; {remedy}"
    )


def _note(
    tasks: Sequence[Task], prelude: str, limits: Limits, unsupported: dict[str, str]
) -> Path | None:
    formats = {format_named(task.format) for task in tasks}
    if not all(f.program.__module__.startswith("privcode.") for f in formats):
        return None  # another package's, whose judge may change between two runs
    ours = sorted(Path(__file__).parent.glob("[df]*/*.py"))  # drivers and formats
    parts = [
        json.dumps([asdict(task) for task in tasks], sort_keys=True),
        prelude,
        repr(limits),
        json.dumps(unsupported, sort_keys=True),
        f"{platform.node()} {platform.machine()} {platform.python_version()}",
        *(file.read_text(encoding="utf-8") for file in ours),
    ]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    try:
        return registry().parent / "ground-truth" / f"{digest[:32]}.json"
    except UserError:
        return None
