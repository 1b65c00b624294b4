"""`privcode execute`: run every program of a JSON Lines file.

Promises: the output appears whole or not at all, one row per input row, in order, with the
input's other fields kept.
Does not: drop rows; what to keep is for whoever reads the statuses.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from privcode.errors import UserError
from privcode.execution._program import Limits, Program
from privcode.execution._run import execute
from privcode.files import Row, read_jsonl, write_jsonl


def execute_file(
    source: Path,
    destination: Path,
    *,
    limits: Limits | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run the programs of `source`, rows {id, language, code, stdin?, files?: {name: text}}.

    Writes the same rows with status, exit_code, seconds, stdout, stderr and error added.

    Returns:
        {"programs": n, "status": {status: count}, "errors": {error class: count}}

    Raises:
        UserError: a bad row (checked before anything runs), or no sandbox.
    """
    if destination.resolve() == source.resolve():
        raise UserError(f"{destination}: holds the programs; choose another -o")
    number = 0
    for number, row in read_jsonl(source):
        _program(source, number, row)
    if not number:
        raise UserError(f"{source}: holds no programs; give a file with one row each")
    statuses: Counter[str] = Counter()
    errors: Counter[str] = Counter()

    def results() -> Iterator[Row]:
        programs = (_program(source, number, row) for number, row in read_jsonl(source))
        outcomes = execute(programs, limits, sandbox=sandbox, workers=workers, progress=progress)
        for (_, row), outcome in zip(read_jsonl(source), outcomes, strict=True):
            statuses[outcome.status] += 1
            if outcome.error:
                errors[outcome.error] += 1
            yield row | {
                "status": outcome.status,
                "exit_code": outcome.exit_code,
                "seconds": outcome.seconds,
                "stdout": outcome.stdout,
                "stderr": outcome.stderr,
                "error": outcome.error,
            }

    write_jsonl(destination, results())
    return {
        "programs": statuses.total(),
        "status": dict(statuses.most_common()),
        "errors": dict(errors.most_common()),
    }


def _program(source: Path, number: int, row: Row) -> Program:
    row = {"language": "python", "stdin": ""} | row
    for field in ("id", "language", "code", "stdin"):
        value = row.get(field)
        number_as_id = field == "id" and isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, str) and not number_as_id:
            wrong = f"is a {type(value).__name__}" if field in row else "is missing"
            raise UserError(
                f"{source}, row {number}, field {field}: {wrong}; give each row a string"
            )
    files: Any = row.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise UserError(f"{source}, row {number}, field files: give {{name: text}}")
    for name in files:
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"{source}, row {number}, field files: {name!r} is no name of a file beside the "
                "program; give one without .."
            )
    beside = {name: text.encode("utf-8", "surrogatepass") for name, text in files.items()}
    program = (str(row["id"]), row["code"], row["language"], row["stdin"])
    return Program(*program, files=beside)
