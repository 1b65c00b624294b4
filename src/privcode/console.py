"""What the person at the terminal sees.

Promises:
- Results go to stdout (one JSON document with --json), everything else to stderr.
- Where stderr is no terminal, it is a log. No figure about private records goes there
  (`say_private`). No progress bar goes there, because its times reveal how long reading and
  training took.
- Characters that the terminal cannot show are written in letters that it can.
- A reader that went away, or a stream that is closed, causes no traceback.

Does not: notice a terminal that is itself recorded (`script`, a screen share).
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import ROUND_UP, Context, Decimal
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from privcode import launcher
from privcode.outputs import standard_output

FIRST = launcher.rank() == 0  # under torchrun, only the first rank prints

_PLAIN = str.maketrans(
    {"ε": "epsilon", "δ": "delta", "τ": "tau", "∞": "infinity", "─": "-", "–": "-", "…": "..."}
)


class _Stderr:
    """Standard error. Once it cannot be written, messages are lost, and work continues."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        return self._or_lose(lambda: sys.stderr.write(text))

    def flush(self) -> None:
        self._or_lose(sys.stderr.flush)

    def _or_lose(self, use: Callable[[], int | None]) -> int:
        try:
            return use() or 0
        except OSError:  # a full disk behind it, or a reader that is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            return 0


stderr = Console(file=cast(IO[str], _Stderr()), highlight=False, quiet=not FIRST)


def say(text: str, *, from_any: bool = False) -> None:
    """One line to the person. Of several processes only the first prints, or `from_any`."""
    to = Console(file=stderr.file, highlight=False) if from_any else stderr
    to.print(text, soft_wrap=True, markup=False)


def at_terminal() -> bool:
    """Whether stderr is a terminal, which a person watches, and not a log."""
    try:
        return bool(stderr.file.isatty())  # not rich's own answer, which FORCE_COLOR changes
    except ValueError:  # closed
        return False


NOT_SHOWN = "Figures about the private data are shown only at a terminal, and this is not one."


def say_private(figures: Callable[[], str]) -> None:
    """Show the owner figures that were computed from private records, at a terminal only.

    Elsewhere `figures` is not called, and a constant line replaces them. Whether that line appears
    must not depend on the data either. So make this call every time, even if there may be nothing
    to say.

    Args:
        figures: makes the text; nothing is shown where it is empty.
    """
    if not at_terminal():
        say(NOT_SHOWN)
    elif text := figures():
        say(text)


def answer(facts: dict[str, Any], as_json: bool, text: str, *, aside: bool = False) -> None:
    """The result of a command: `facts` as JSON, or `text`.

    `aside`: write to stderr, because standard output holds something else.
    """
    if not FIRST:
        return
    if as_json:
        text = json.dumps(facts, ensure_ascii=False, allow_nan=False)
        if not _fits(text):
            text = json.dumps(facts, allow_nan=False)
    if aside:
        say(text)
        return
    if not _fits(text):
        known = sys.stdout.encoding
        text = text.translate(_PLAIN).encode(known, "replace").decode(known)
    with standard_output():
        print(text, flush=True)


def _fits(text: str) -> bool:
    """Whether standard output can show `text`."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def open_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    Otherwise the next file that is opened takes the number of one of them, and text for the
    terminal is written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as we run)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # for what typer prints, which has no other way


def epsilon_text(epsilon: float, digits: int = 4) -> str:
    """ε to `digits` digits, rounded up: the shown figure is what is promised."""
    if math.isinf(epsilon):
        return "∞"
    shown = Context(prec=digits, rounding=ROUND_UP).create_decimal(Decimal(epsilon))
    return f"{float(shown):.{digits}g}"


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
    """A progress bar at a terminal, nothing elsewhere. Yields a function to call with increments.

    Without `counted`, it shows a share only: the number of private records is itself private.
    """
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn() if counted else TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=stderr, disable=not at_terminal()) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.advance(task, done)
