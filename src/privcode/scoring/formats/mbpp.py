"""MBPP: assertions that call the function (arXiv 2108.07732). Prompts have evalplus's form."""

import ast
import re
from collections.abc import Sequence

from privcode.errors import UserError
from privcode.execution import Program
from privcode.files import Row
from privcode.scoring.format import Format
from privcode.scoring.formats.humaneval import asserts
from privcode.scoring.tasks import UNREADABLE, Task, strings, text

_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
# MBPP's docstring is followed by the whole program. These stops are evalplus's.
_AFTER_PROGRAM = re.compile(r'\n(?="""|assert|if __name__|def main\(|print\(|```)')


def read(row: Row, where: str) -> Task:
    """Also reads the hub's rows: in the full set `text` for `prompt`, and `test_setup_code`."""
    number, tests = row.get("task_id"), strings(row, "test_list", where)
    code = text(row, "code", where)
    words = text(row, "prompt" if "prompt" in row else "text", where)
    if type(number) is not int or not tests:
        raise UserError(f"{where}, field task_id, test_list: must be a number, and assertions")
    setup = text(row, "test_setup_code", where) if row.get("test_setup_code") else ""
    imports = strings(row, "test_imports", where)
    return Task(
        task_id=f"Mbpp/{number}",
        prompt=f'"""\n{words.strip()}\n{tests[0].strip()}\n"""\n',
        entry_point=_called(code, tests, where),
        test="\n".join([*imports, setup, *tests]),
        canonical_solution=code,
        format="mbpp",
    )


def _called(code: str, tests: Sequence[str], where: str) -> str:
    """The function of `code` that the tests call."""
    try:
        walked = list(ast.walk(ast.parse("\n".join(tests))))
        defined = [node.name for node in ast.parse(code).body if isinstance(node, _DEFINITIONS)]
    except UNREADABLE:
        raise UserError(f"{where}, field code, test_list: are not Python") from None
    calls = [node.func for node in walked if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    found = [name for name in defined if name in called]
    if not found:
        raise UserError(f"{where}, field test_list: calls no function that code defines")
    return found[-1]


def cut_after_program(task: Task, answer: str) -> str:
    """The completion up to a docstring, an assertion, a print or a main function."""
    return _AFTER_PROGRAM.split(answer, maxsplit=1)[0] + "\n"


def _program(task: Task, solution: str, prelude: str) -> Program:
    return asserts(solution, task.test, task.entry_point)


FORMAT = Format(
    name="mbpp",
    owns=lambda row: "test_list" in row,
    read=read,
    program=_program,
    cut=cut_after_program,
    fields=("task_id", "text", "code", "test_list"),
    numbered="Mbpp/",
)
