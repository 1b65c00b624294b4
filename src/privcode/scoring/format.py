"""What a benchmark's format is: how its rows are read and how its solutions are judged.

Promises:
- A solution passes only if its tests were reached and passed. For tests in the solution's own
  process, the sandbox proves this. Otherwise a judge in a separate process states it.

Does not:
- Know any benchmark: `formats` has one module for each.
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
    """The result of one sample.

    `status` and `error` are the same as in an `Outcome`. `base` and `plus` are evalplus's words
    for the base tests and the plus tests. `plus` is None for a format without plus tests.
    `failed` holds the index of the first input that failed, for the base and for the plus tests.
    """

    passed: bool
    status: str
    error: str
    base: Status
    plus: Status | None = None
    failed: tuple[int | None, int | None] = (None, None)


def by_exit_code(task: Task, outcome: Outcome) -> Verdict:
    """The verdict by the program's exit code, for tests that run in the solution's process."""
    base: Status = "pass" if outcome.status == "ok" else word(outcome.status)
    return Verdict(outcome.status == "ok", outcome.status, outcome.error, base)


def word(status: str) -> Status:
    """Evalplus's word for the end of a program that did not pass."""
    return "timeout" if status == "timeout" else "fail"


def stripped_prompt(task: Task) -> str:
    """The text that a completion is appended to, as in evalplus."""
    return task.prompt.strip() + "\n" if task.prompt_is_code else task.prompt


@dataclass(frozen=True)
class Format:
    """A benchmark's file format, and how its tasks are judged.

    Attributes:
        name: the format's name in `--format` and in the config's `format`.
        owns: whether a row of a file is in this format. If several formats own a row, the last
            one reads it.
        read: makes a task from a row and the row's place. Raises UserError for a wrong field.
        program: makes the program that tests a solution. Takes the task, the whole solution with
            the prelude before it, and the prelude.
        cut: takes a task and a model's answer, and returns the completion: the answer up to its
            end.
        limits: what a program may use. The limit on processor time decides. The limit on the wall
            clock is 12 to 24 times as long, and stops programs that sleep.
        verdict: makes the solution's verdict from the program's outcome.
        head: the text that a completion is appended to.
        plus: whether there are both base and plus tests.
        takes_libraries: whether tasks use modules that may not be installed.
        fields: the fields that a row needs, for the error about a file in no known format.
        numbered: the prefix that turns a numeric id in a file of samples into a task id.
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
    fields: tuple[str, ...] = ()
    numbered: str = ""


@cache
def driver(name: str) -> str:
    """The text of a module of `drivers`, with the call that starts it. It runs in the sandbox."""
    source = files("privcode.scoring") / "drivers" / f"{name}.py"
    return source.read_text(encoding="utf-8") + "\n\nmain()\n"
