"""What the person at the terminal sees.

Promises: results go to stdout (one JSON document with --json), everything else to stderr.
Does not: show anything computed from private records but progress, public figures, and on stderr
what `init` and `plan` tell the owner, which they call private.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

FIRST = int(os.environ.get("RANK") or 0) == 0  # under torchrun only the first rank speaks
stderr = Console(stderr=True, highlight=False, quiet=not FIRST)


def say(text: str) -> None:
    """One line to the person."""
    stderr.print(text, soft_wrap=True, markup=False)


def say_private(text: str) -> None:
    """One line to the owner at a terminal; it goes into no file and no pipe."""
    if stderr.is_terminal:
        say(text)


def answer(facts: dict[str, Any], as_json: bool, text: str) -> None:
    """The result of a command: `facts` as JSON, or `text`."""
    if FIRST:
        print(json.dumps(facts, ensure_ascii=False, allow_nan=False) if as_json else text)
    sys.stdout.flush()


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text: columns as wide as their widest cell."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    text.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in text)


@contextmanager
def progress_bar(
    title: str, total: int, *, counted: bool = True
) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields a function to call with increments.

    Without `counted` it shows a share only: the number of private records is itself private.
    """
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn() if counted else TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=stderr) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.advance(task, done)
