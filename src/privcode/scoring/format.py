"""What a benchmark's format is: how its rows are read and its solutions judged.

Promises: a solution passes only if its tests were reached and passed. For tests that run in the
solution's own process, the proof is the sandbox's; otherwise it is a judge's word.
Does not: know a benchmark; `formats` has one module for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal

from privcode.execution import Limits, Outcome, Program
from privcode.files import Row
from privcode.scoring.tasks import Task

Status = Literal["pass", "fail", "timeout"]


@dataclass(frozen=True)
class Verdict:
    """How a sample fared.

    `status` and `error` are as an `Outcome`'s. `base` and `plus` are evalplus's words; `plus` is
    None where there are no such tests. `failed` is the place of the first input that failed, of
    each.
    """

    passed: bool
    status: str
    error: str
    base: Status
    plus: Status | None = None
    failed: tuple[int | None, int | None] = (None, None)


def by_exit_code(task: Task, outcome: Outcome) -> Verdict:
    """The verdict where the program's own end tells: for tests in the solution's process."""
    base: Status = "pass" if outcome.status == "ok" else word(outcome.status)
    return Verdict(outcome.status == "ok", outcome.status, outcome.error, base)


def word(status: str) -> Status:
    """Evalplus's word for how a program that did not pass ended."""
    return "timeout" if status == "timeout" else "fail"


def stripped_prompt(task: Task) -> str:
    """The head that a completion is appended to, as evalplus has it."""
    return task.prompt.strip() + "\n" if task.prompt_is_code else task.prompt


@dataclass(frozen=True)
class Format:
    """A benchmark's file format, and how its tasks are judged.

    Attributes:
        name: what `--format` and the config's `format` call it.
        owns: whether a row of a file is in this format; the last format that owns it has it.
        read: a row, and where it stands, to a task. Raises UserError for a wrong field.
        program: a task, a whole solution with the prelude before it, and the prelude, to the
            program that tries the solution.
        cut: where a completion ends: a task and a model's answer to the completion.
        limits: what a program may use. Processor time decides; the wall clock, some twenty times
            that, is for programs that sleep.
        verdict: what the program's outcome says of the solution.
        head: what a completion is appended to.
        plus: whether there are base and plus tests.
        takes_libraries: whether tasks take modules for granted that may not be installed.
        numbered: what is put before an id that is a number in a file of samples.
    """

    name: str
    owns: Callable[[Row], bool]
    read: Callable[[Row, str], Task]
    program: Callable[[Task, str, str], Program]
    cut: Callable[[Task, str], str]
    limits: Limits = field(default_factory=lambda: Limits(wall_seconds=120))
    verdict: Callable[[Task, Outcome], Verdict] = by_exit_code
    head: Callable[[Task], str] = stripped_prompt
    plus: bool = False
    takes_libraries: bool = False
    numbered: str = ""


@cache
def driver(name: str) -> str:
    """The text of a module of `drivers`, with the call that begins it: it runs in the sandbox."""
    source = files("privcode.scoring") / "drivers" / f"{name}.py"
    return source.read_text(encoding="utf-8") + "\n\nmain()\n"
