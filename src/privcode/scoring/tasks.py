"""Tasks, read from the files that their benchmarks publish.

Promises: a file's format is known from its fields, or named; every task of a file is read, or the
row and field that cannot be are named; nothing of a task is rewritten but MBPP's prompts, which
evalplus's format is given.
Does not: run anything, or fetch what is not asked for (`OWNER/NAME:SPLIT` is a name on the hub).
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from privcode.data.rows import read_rows
from privcode.errors import UserError
from privcode.files import Row, unwritable
from privcode.languages import canonical_language
from privcode.scoring.settings import TaskFormat

Format = TaskFormat
FORMATS: tuple[Format, ...] = get_args(Format)
_MOST_DEPTH = 100


@dataclass(frozen=True)
class Cases:
    """Structured tests: argument lists as the file has them (JSON), base and plus."""

    base: Sequence[Any]
    plus: Sequence[Any]
    atol: float


@dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    `prompt` is what a completion is appended to, or plain language (then samples and
    `canonical_solution` are whole programs). `test` is code: it defines `check(candidate)`
    (HumanEval), asserts (MBPP), defines `TestCases` (BigCodeBench), or is what follows the
    solution (MultiPL-E). `cases` are there for HumanEval+ and MBPP+ alone.
    """

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""
    format: Format = "humaneval"
    language: str = "python"
    question: str = ""
    """What an instructed model is asked, where the benchmark has a wording of its own."""
    head: str = ""
    """BigCodeBench: imports and signature, put before every solution."""
    stop: tuple[str, ...] = ()
    """MultiPL-E: where a completion ends."""
    cases: Cases | None = None

    @property
    def prompt_is_code(self) -> bool:
        """Whether a completion is to be appended to the prompt."""
        if self.format not in ("humaneval", "humaneval+"):
            return True
        return re.search(rf"^(def|class) {self.entry_point}\b", self.prompt, re.M) is not None

    @property
    def canonical(self) -> dict[str, str] | None:
        """The benchmark's own solution as a sample, if it has one."""
        if not self.canonical_solution:
            return None
        kind = "completion" if self.prompt_is_code else "solution"
        return {"task_id": self.task_id, kind: self.canonical_solution}

    def modules(self) -> set[str]:
        """Top-level modules that a Python task's test and own solution import."""
        own = f"{self.head.rstrip()}\n    pass\n" if self.head else ""
        own = own or (self.prompt if self.prompt_is_code else "")
        found: set[str] = set()
        for text in (own + self.canonical_solution, self.test):
            try:
                tree = ast.parse(text)
            except _UNREADABLE:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
        return found

    def missing(self) -> list[str]:
        """Modules that a BigCodeBench task takes for granted and that are not installed."""
        if self.format != "bigcodebench":
            return []
        return sorted(name for name in self.modules() if not _installed(name))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # of __main__, which has none
        return True


def load_tasks(
    source: str | Path, format: Format | None = None, *, stdlib_only: bool = False
) -> list[Task]:
    """Read a benchmark's tasks from a file (.jsonl, .json, each also .gz, .parquet) or the hub.

    Args:
        source: a path, or OWNER/NAME:SPLIT on the hub.
        format: one of `FORMATS`; default: by the fields of the first row.
        stdlib_only: leave out Python tasks that need more than the standard library.

    Raises:
        UserError: the file cannot be read, holds no task, a field is missing or wrong, or an id
            comes twice.
    """
    tasks: dict[str, Task] = {}
    known = format
    for number, row in read_rows(str(source)):
        where = f"{source}, row {number}"
        known = known or _detect(row)
        task = _READERS[known](row, where)
        _check_inputs(task, where)
        if task.format != "multipl" and not task.entry_point.isidentifier():
            raise UserError(f"{where}, field entry_point: not a Python name; name a function")
        if task.task_id in tasks:
            raise UserError(f"{where}, field task_id: comes twice; give each task its own id")
        tasks[task.task_id] = task
    found = list(tasks.values())
    return without_libraries(found, source) if stdlib_only else found


def _check_inputs(task: Task, where: str) -> None:
    """Refuse structured inputs that `phases` cannot make arguments of, or that nest too deeply."""
    if task.cases is None:
        return
    from privcode.scoring.inputs import phases

    try:
        pending: list[tuple[int, Any]] = [(0, inputs) for _, inputs in phases(task)]
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        raise UserError(
            f"{where}, field base_input, plus_input: are not what this task's function takes; take "
            "the file as its owners publish it"
        ) from None
    while pending:
        depth, value = pending.pop()
        if depth > _MOST_DEPTH:
            raise UserError(f"{where}, field base_input, plus_input: are nested too deeply")
        if isinstance(value, (list, tuple, dict)):
            items = value.values() if isinstance(value, dict) else value
            pending.extend((depth + 1, item) for item in items)


def without_libraries(tasks: Sequence[Task], source: str | Path) -> list[Task]:
    """The Python tasks of `source` that need no more than the standard library.

    Raises:
        UserError: there is none.
    """
    found = [t for t in tasks if t.language == "python" and t.modules() <= _STDLIB]
    if not found:
        raise UserError(f"{source}: no task needs the standard library alone; score them all")
    return found


def format_named(name: str | None) -> Format | None:
    """The format of this name; None, for "by the fields", stays None.

    Raises:
        UserError: there is none.
    """
    for format in FORMATS:
        if format == name:
            return format
    if name is not None:
        raise UserError(f"format {name}: unknown; choose one of {', '.join(FORMATS)}")
    return None


_STDLIB = sys.stdlib_module_names | {"__future__"}


def _detect(row: Row) -> Format:
    if "complete_prompt" in row:
        return "bigcodebench"
    if "base_input" in row and "plus_input" in row:
        return "humaneval+" if "test" in row else "mbpp+"
    if "tests" in row and "language" in row:
        return "multipl"
    return "mbpp" if "test_list" in row else "humaneval"


def text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be a string.

    Raises:
        UserError: it is missing, or something else.
    """
    value = row.get(name)
    if not isinstance(value, str):
        wrong = f"is a {type(value).__name__}" if name in row else "is missing"
        raise UserError(f"{where}, field {name}: {wrong}; it must be a string")
    if wrong := unwritable(value):
        raise UserError(f"{where}, field {name}: {wrong}; remove it")
    return value


def _strings(row: Row, name: str, where: str) -> list[str]:
    value = row.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where}, field {name}: must be a list of strings")
    if wrong := unwritable(value):
        raise UserError(f"{where}, field {name}: {wrong}; remove it")
    return value


def _humaneval(row: Row, where: str) -> Task:
    names = ("task_id", "prompt", "entry_point", "test")
    known: Row = {name: text(row, name, where) for name in names}
    canonical = row.get("canonical_solution")
    return Task(**known, canonical_solution=canonical if isinstance(canonical, str) else "")


def _plus(format: Format) -> Callable[[Row, str], Task]:
    def read(row: Row, where: str) -> Task:
        names = ("task_id", "prompt", "entry_point", "canonical_solution")
        known: Row = {name: text(row, name, where) for name in names}
        base, plus, atol = (row.get(name) for name in ("base_input", "plus_input", "atol"))
        if not isinstance(base, list) or not isinstance(plus, (list, dict)):
            raise UserError(f"{where}, field base_input, plus_input: must be lists of arguments")
        if not all(isinstance(given, list) for given in (*base, *plus)):
            raise UserError(f"{where}, field base_input, plus_input: must be lists of arguments")
        if isinstance(atol, bool) or not isinstance(atol, (int, float)) or not 0 <= atol < 1e300:
            raise UserError(f"{where}, field atol: must be a number, and not below 0")
        # Mbpp/793 has {} for no inputs.
        return Task(**known, test="", format=format, cases=Cases(base, list(plus), atol))

    return read


def _mbpp(row: Row, where: str) -> Task:
    """Also the rows of the hub: `text` for `prompt` and `test_setup_code` in the full set."""
    number, tests = row.get("task_id"), _strings(row, "test_list", where)
    code = text(row, "code", where)
    words = text(row, "prompt" if "prompt" in row else "text", where)
    if type(number) is not int or not tests:
        raise UserError(f"{where}, field task_id, test_list: must be a number, and assertions")
    setup = text(row, "test_setup_code", where) if row.get("test_setup_code") else ""
    imports = _strings(row, "test_imports", where)
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
    except _UNREADABLE:
        raise UserError(f"{where}, field code, test_list: are not Python") from None
    calls = [node.func for node in walked if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    found = [name for name in defined if name in called]
    if not found:
        raise UserError(f"{where}, field test_list: calls no function that code defines")
    return found[-1]


_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what `ast` raises
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def _bigcodebench(row: Row, where: str) -> Task:
    """Complete and instruct are two prompts of one row; "hard" is a file of its own."""
    names = ("task_id", "entry_point", "test", "canonical_solution")
    known: Row = {name: text(row, name, where) for name in names}
    return Task(
        **known,
        prompt=text(row, "complete_prompt", where),
        question=text(row, "instruct_prompt", where),
        head=text(row, "code_prompt", where),
        format="bigcodebench",
    )


def _multipl(row: Row, where: str) -> Task:
    """MultiPL-E: `tests` follow the solution, whose exit code is the verdict."""
    name = text(row, "language", where)
    return Task(
        task_id=text(row, "name" if "name" in row else "task_id", where),
        prompt=text(row, "prompt", where),
        entry_point="",
        test=text(row, "tests", where),
        format="multipl",
        language=canonical_language(name) or name,
        stop=tuple(_strings(row, "stop_tokens", where)),
    )


_READERS: dict[Format, Callable[[Row, str], Task]] = {
    "humaneval": _humaneval,
    "humaneval+": _plus("humaneval+"),
    "mbpp": _mbpp,
    "mbpp+": _plus("mbpp+"),
    "bigcodebench": _bigcodebench,
    "multipl": _multipl,
}
