"""What the person at the terminal sees.

Promises: results go to stdout (one JSON document with --json), everything else to stderr.
Does not: show anything computed from private records but progress and public figures.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

stderr = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line to the person."""
    stderr.print(text, soft_wrap=True, markup=False)


def answer(facts: dict[str, Any], as_json: bool, text: str) -> None:
    """The result of a command: `facts` as JSON, or `text`."""
    print(json.dumps(facts, ensure_ascii=False, allow_nan=False) if as_json else text)
    sys.stdout.flush()


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields a function to call with increments."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=stderr) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.advance(task, done)
