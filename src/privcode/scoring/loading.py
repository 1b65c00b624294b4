"""Tasks, read from the files that their benchmarks publish.

Promises:
- A file's format is found from its fields, unless the caller names the format.
- Every task of a file is read. Otherwise the error names the row and the field.

Does not:
- Run anything.
- Fetch what is not asked for. `OWNER/NAME:SPLIT` is a name on the hub.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from privcode.data.rows import read_rows
from privcode.errors import UserError
from privcode.scoring.formats import format_named, format_of, formats
from privcode.scoring.tasks import Task

_STDLIB = sys.stdlib_module_names | {"__future__"}


def load_tasks(
    source: str | Path, format: str | None = None, *, stdlib_only: bool = False
) -> list[Task]:
    """Read a benchmark's tasks from a file (.jsonl, .json, each also .gz, .parquet) or the hub.

    Args:
        source: a path, or OWNER/NAME:SPLIT on the hub.
        format: the name of one of `formats`. Default: found from the fields of the first row.
        stdlib_only: leave out all tasks but the Python tasks that need only the standard library.

    Raises:
        UserError: the file cannot be read, holds no task, has a missing or wrong field, or has
            the same id twice; with `stdlib_only`, no task is left.
    """
    tasks: dict[str, Task] = {}
    known = None if format is None else format_named(format)
    for number, row in read_rows(str(source)):
        where = f"{source}, row {number}"
        known = known or format_of(row)
        try:
            task = known.read(row, where)
        except UserError as error:
            if format is None and number == 1 and not known.owns(row):
                raise UserError(f"{where}: {_no_format()}") from error
            raise
        if task.task_id in tasks:
            raise UserError(f"{where}, field task_id: comes twice; give each task its own id")
        tasks[task.task_id] = task
    found = list(tasks.values())
    return without_libraries(found, source) if stdlib_only else found


def _no_format() -> str:
    needed = (f"{f.name} ({', '.join(f.fields)})" for f in formats().values() if f.fields)
    return f"has the fields of no known format; the formats and what they need: {', '.join(needed)}"


def without_libraries(tasks: Sequence[Task], source: str | Path) -> list[Task]:
    """The Python tasks of `source` that need only the standard library.

    Raises:
        UserError: there is no such task.
    """
    found = [t for t in tasks if t.language == "python" and t.modules() <= _STDLIB]
    if not found:
        raise UserError(f"{source}: no task needs only the standard library; leave out stdlib_only")
    return found
