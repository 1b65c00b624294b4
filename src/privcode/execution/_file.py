"""`privcode execute`: run every program of a JSON Lines file.

Promises:
- Every row is checked before the first program runs, so a bad row cannot waste a run. The error
  names the first bad row and says how many there are.
- A row with half a surrogate pair, as models write them, is not run. It ends in an error of its
  own, and the other rows are run.
- The output appears whole or not at all: one row per input row, in order, with the other fields of
  the input kept.

Does not:
- Drop rows: whoever reads the statuses decides what to keep.
- Look at ids, which rows may share: an outcome belongs to the row in its place.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

from privcode.errors import UserError
from privcode.execution._languages import parse
from privcode.execution._program import Limits, Outcome, Program
from privcode.execution._run import execute
from privcode.files import HALF, Row, read_jsonl, unwritable, write_jsonl
from privcode.languages import canonical_language, languages
from privcode.outputs import check_output

_FIELDS = ("id", "language", "code", "stdin", "files")


def execute_file(
    source: Path,
    destination: Path,
    *,
    limits: Limits | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] | None = None,
) -> dict[str, Any]:
    """Run the programs of `source`, rows {id, language, code, stdin?, files?: {name: text}}.

    Writes the same rows with status, exit_code, seconds, stdout, stderr and error added. Existing
    fields of these names are replaced.

    Args:
        source: JSON Lines.
        destination: a regular file, or "-" for standard output.
        limits: as for `execute`.
        sandbox: as for `execute`.
        workers: as for `execute`.
        bar: makes a progress bar from a title and a total.

    Returns:
        {"programs": n, "status": {status: count}, "errors": {error class: count}}

    Raises:
        UserError: a bad row (checked before anything runs), no sandbox, or a `destination` that
            cannot be written.
    """
    if os.path.realpath(check_output(destination)) == os.path.realpath(source):
        raise UserError(f"{destination}: holds the programs; choose another -o")
    count = _check(source)
    statuses: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    waiting: deque[Row] = deque()

    def programs() -> Iterator[Program]:
        for number, row in read_jsonl(source):
            waiting.append(row)
            if unwritable(row) != HALF:
                yield _program(source, number, row)

    def results(progress: Callable[[int], None]) -> Iterator[Row]:
        for outcome in execute(
            programs(), limits, sandbox=sandbox, workers=workers, progress=progress
        ):
            yield from not_run(progress)
            yield noted(waiting.popleft(), outcome)
        yield from not_run(progress)

    def not_run(progress: Callable[[int], None]) -> Iterator[Row]:
        """The rows that come next and are not run."""
        while waiting and unwritable(waiting[0]) == HALF:
            progress(1)
            yield noted(waiting.popleft(), Outcome("", "error", None, 0.0, "", "", HALF))

    def noted(row: Row, outcome: Outcome) -> Row:
        statuses[outcome.status] += 1
        if outcome.error:
            errors[outcome.error] += 1
        return row | {
            "status": outcome.status,
            "exit_code": outcome.exit_code,
            "seconds": outcome.seconds,
            "stdout": outcome.stdout,
            "stderr": outcome.stderr,
            "error": outcome.error,
        }

    with bar("execute", count) if bar else nullcontext(lambda done: None) as progress:
        write_jsonl(destination, results(progress))
    return {
        "programs": statuses.total(),
        "status": dict(statuses.most_common()),
        "errors": dict(errors.most_common()),
    }


def _check(source: Path) -> int:
    """The number of rows, after a check that all are good."""
    count = bad = 0
    first: UserError | None = None
    for number, row in read_jsonl(source):
        count += 1
        if unwritable(row) == HALF:
            continue
        try:
            _program(source, number, row)
        except UserError as error:
            first, bad = first or error, bad + 1
    if first:
        more = f" (and {bad - 1} more bad rows; nothing was run)" if bad > 1 else ""
        raise UserError(f"{first}{more}")
    if not count:
        raise UserError(f"{source}: holds no programs; give a file with one row each")
    return count


def _program(source: Path, number: int, row: Row) -> Program:
    where = f"{source}, row {number}"
    for field, value in row.items():
        if wrong := unwritable([field, value]):
            known = f"field {field}" if field in _FIELDS else "a field that execute keeps"
            raise UserError(f"{where}, {known}: {wrong}; correct it or leave it out")
    row = {"language": "python", "stdin": ""} | row
    for field in _FIELDS[:-1]:
        value = row.get(field)
        number_as_id = field == "id" and isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, str) and not number_as_id:
            wrong = f"is a {type(value).__name__}" if field in row else "is missing"
            raise UserError(f"{where}, field {field}: {wrong}; give each row a string")
    files: Any = row.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise UserError(f"{where}, field files: give {{name: text}}")
    if files and (wrong := wrong_names(files, row["language"], row["code"])):
        raise UserError(f"{where}, field files: {wrong}")
    beside = {name: text.encode() for name, text in files.items()}
    program = (str(row["id"]), row["code"], row["language"], row["stdin"])
    return Program(*program, files=beside)


def wrong_names(names: Iterable[str], language: str, code: str = "") -> str:
    """Why files of these names cannot lie next to a program, and what to do. Empty if they can."""
    names = list(names)
    for number, name in enumerate(names, start=1):
        path = PurePosixPath(name)
        shown = f"name {number} of {len(names)}"  # not the name, which may be text of a record
        plain = path.parts and name == str(path) and not path.is_absolute() and "\0" not in name
        if not plain or ".." in path.parts:
            return f"{shown} is not a plain file name; give one like data/words.txt, without .."
        if len(name.encode()) > 1000 or any(len(part.encode()) > 255 for part in path.parts):
            return f"{shown} is too long; shorten it"
        if set(names) & {str(folder) for folder in path.parents}:
            return f"{shown} is in a folder with the same name as another file; rename one"
        if {name, path.parts[0]} & _own_names(language, code):
            return f"{shown} is that of the program itself or of its compiled file; rename it"
    return ""


def _own_names(language: str, code: str) -> set[str]:
    """The names of a program's own file, and of what it is compiled to."""
    known = canonical_language(language)
    if known is None or (found := languages()[known].commands) is None:
        return {"program.py"} if known == "python" else set()
    source = found.source.format(**found.named(found.complete(code), parse))
    return {source, found.made or source}
