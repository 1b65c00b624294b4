"""HumanEval: the test defines `check(candidate)` (arXiv 2107.03374)."""

import json
import re

from privcode.execution import Program
from privcode.files import Row
from privcode.scoring.format import Format, driver
from privcode.scoring.tasks import Task, function_name, text

# A completion continues an indented body. So a statement, decorator, comment or fence that starts
# a line is a new top-level one. Closing brackets and quotes may start a line.
_TOP_LEVEL = re.compile(r"\n(?=[A-Za-z_@#`<])")


def read(row: Row, where: str) -> Task:
    """One row: task_id, prompt, entry_point, test, and canonical_solution if there is one."""
    task_id, prompt = (text(row, name, where) for name in ("task_id", "prompt"))
    entry_point, test = function_name(row, where), text(row, "test", where)
    canonical = row.get("canonical_solution")
    return Task(
        task_id,
        prompt,
        entry_point,
        test,
        canonical if isinstance(canonical, str) else "",
    )


def asserts(solution: str, test: str, entry_point: str) -> Program:
    """A program whose test runs in the solution's own process and must be reached."""
    request = {"solution": solution, "test": test, "entry_point": entry_point}
    return Program("", driver("asserts"), stdin=json.dumps(request), checked=True)


def cut_at_top_level(task: Task, answer: str) -> str:
    """The completion up to the first new top-level statement."""
    return _TOP_LEVEL.split(answer, maxsplit=1)[0] + "\n"


def _program(task: Task, solution: str, prelude: str) -> Program:
    return asserts(solution, f"{task.test}\ncheck({task.entry_point})\n", task.entry_point)


FORMAT = Format(
    name="humaneval",
    owns=lambda row: "entry_point" in row and "test" in row,
    read=read,
    program=_program,
    cut=cut_at_top_level,
    fields=("task_id", "prompt", "entry_point", "test"),
)
