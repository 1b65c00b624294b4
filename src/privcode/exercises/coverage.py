"""What of the exercise world a set of prompts and programs covers.

Promises: an operation counts where a program has its expression, a wording where a prompt has it.
Does not: run a program, or judge whether it is right.
"""

import ast
import re
from collections.abc import Iterable
from functools import cache

from privcode.exercises.operations import (
    NUMBER_FILTERS,
    NUMBER_MAPS,
    REDUCERS,
    WORD_FILTERS,
    WORD_MAPS,
)
from privcode.exercises.styles import HOUSE

_TABLES = {"x": (NUMBER_FILTERS, NUMBER_MAPS), "w": (WORD_FILTERS, WORD_MAPS)}
_RECORDS = {
    "above": r"r\['\w+'\] > \d+",
    "below": r"r\['\w+'\] < \d+",
    "product": r"r\['\w+'\] \* r\['\w+'\]",
    "field": r"r\['\w+'\]",
}
_SENTENCES = (
    r"(?:^|: )given (?:a list of|the list|the records|\w+,).*, then ",
    r"(?:^|: )from (?:a list of|the list|the records|\w+,).* and ",
    r"(?:^|: )take (?:a list of|the list|the records|\w+\.).*, and finally ",
)


def operations() -> set[str]:
    """Names of all that a program of the house can do with a list."""
    return {f"{one}:{name}" for one, name, _ in _expressions()} | {
        f"reducer:{name}" for name in HOUSE.reducers
    }


def wordings() -> set[str]:
    """All that a prompt of the house can say: sentences, and phrases of operations."""
    return {pattern.pattern for pattern in _wordings()}


def operations_in(code: str) -> set[str]:
    """Those of `operations` that a program has; none of a program that does not parse."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found, methods = set(), {method: name for name, method in HOUSE.reducers.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in methods:
            found.add(f"reducer:{methods[node.attr]}")
        if isinstance(node, ast.Lambda) and len(node.args.args) == 1:
            element, text = node.args.args[0].arg, ast.unparse(node.body)
            for one, name, pattern in _expressions():
                if one == element and pattern.fullmatch(text):
                    found.add(f"{one}:{name}")
                    break
    return found


def wordings_in(prompt: str) -> set[str]:
    """Those of `wordings` that a prompt has."""
    return {one.pattern for one in _wordings() if one.search(prompt.lower())}


def coverage(prompts: Iterable[str], programs: Iterable[str]) -> dict[str, float]:
    """The shares {"operations", "wordings"} that occur in at least one program, or prompt."""
    done = set[str]().union(*map(operations_in, programs))
    said = set[str]().union(*map(wordings_in, prompts))
    return {
        "operations": len(done) / len(operations()),
        "wordings": len(said) / len(wordings()),
    }


@cache
def _expressions() -> list[tuple[str, str, re.Pattern[str]]]:
    """(element, operation, pattern). The first that fits an expression is what it is."""
    found = [
        (element, name, _open(operation.expression, element))
        for element, tables in _TABLES.items()
        for table in tables
        for name, operation in table.items()
    ]
    return found + [("r", name, re.compile(text)) for name, text in _RECORDS.items()]


@cache
def _wordings() -> list[re.Pattern[str]]:
    tables = [table for tables in _TABLES.values() for table in tables]
    phrases = [p for table in tables for operation in table.values() for p in operation.phrases]
    phrases += [phrase for name in HOUSE.reducers for phrase in REDUCERS[name].phrases]
    return [
        *map(re.compile, _SENTENCES),
        *dict.fromkeys(_open(phrase.lower(), "", whole=True) for phrase in phrases),
    ]


def _open(template: str, element: str, *, whole: bool = False) -> re.Pattern[str]:
    """A pattern for what a template says with any parameters."""
    text = re.escape(template.replace("{v}", element))
    for name in "kabcns":
        text = text.replace(rf"\{{{name}\}}", r"(?:-?\d+|[^\s'\d])")
    return re.compile(rf"(?<!\w){text}(?!\w)" if whole else text)
