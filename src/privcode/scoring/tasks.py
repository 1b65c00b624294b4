"""A task of a benchmark, and functions that read a field of the benchmark's file.

Does not: know any benchmark. `formats` has one module for each.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privcode.errors import UserError
from privcode.files import Row, unwritable

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast` raises for text that is not Python."""


@dataclass(frozen=True)
class Cases:
    """Structured tests: the base and plus lists of arguments, as they are in the file (JSON)."""

    base: Sequence[Any]
    plus: Sequence[Any]
    atol: float


@dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    `prompt` is the text that a completion is appended to, or plain language. If it is plain
    language, samples and `canonical_solution` are whole programs.

    `test` is code. It defines `check(candidate)` (HumanEval), asserts (MBPP), defines `TestCases`
    (BigCodeBench), or follows the solution (MultiPL-E). Only HumanEval+ and MBPP+ have `cases`.
    """

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""
    format: str = "humaneval"
    language: str = "python"
    question: str = ""
    """The prompt for an instructed model, where the benchmark has its own wording."""
    head: str = ""
    """BigCodeBench: imports and signature, put before every solution."""
    stop: tuple[str, ...] = ()
    """MultiPL-E: the texts at which a completion ends."""
    cases: Cases | None = None
    words: bool = False
    """Whether the prompt is plain language, so that a sample is a whole program."""

    @property
    def prompt_is_code(self) -> bool:
        """Whether a completion is appended to the prompt. HumanEval prompts may be plain words."""
        if self.format not in ("humaneval", "humaneval+"):
            return not self.words
        return re.search(rf"^(def|class) {self.entry_point}\b", self.prompt, re.M) is not None

    @property
    def canonical(self) -> dict[str, str] | None:
        """The benchmark's own solution as a sample, if there is one."""
        if not self.canonical_solution:
            return None
        kind = "completion" if self.prompt_is_code else "solution"
        return {"task_id": self.task_id, kind: self.canonical_solution}

    def modules(self) -> set[str]:
        """The top-level modules that the test and the own solution of a Python task import."""
        own = f"{self.head.rstrip()}\n    pass\n" if self.head else ""
        own = own or (self.prompt if self.prompt_is_code else "")
        found: set[str] = set()
        for text in (own + self.canonical_solution, self.test):
            try:
                tree = ast.parse(text)
            except UNREADABLE:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
        return found


def text(row: Mapping[str, Any], name: str, where: str) -> str:
    """The value of a field that must be a string.

    Raises:
        UserError: the field is missing or not a string.
    """
    value = row.get(name)
    if not isinstance(value, str):
        wrong = f"is a {type(value).__name__}" if name in row else "is missing"
        raise UserError(f"{where}, field {name}: {wrong}; it must be a string")
    if wrong := unwritable(value):
        raise UserError(f"{where}, field {name}: {wrong}; remove it")
    return value


def strings(row: Row, name: str, where: str) -> list[str]:
    """The value of a field that must be a list of strings. Empty if the field is missing.

    Raises:
        UserError: the field is not a list of strings.
    """
    value = row.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where}, field {name}: must be a list of strings")
    if wrong := unwritable(value):
        raise UserError(f"{where}, field {name}: {wrong}; remove it")
    return value


def function_name(row: Row, where: str) -> str:
    """The field entry_point: the name of the function that the tests call.

    Raises:
        UserError: the field is missing, or not a Python name.
    """
    name = text(row, "entry_point", where)
    if not name.isidentifier():
        raise UserError(f"{where}, field entry_point: not a Python name; name a function")
    return name
