"""HumanEval+ and MBPP+: structured inputs, judged against the reference (arXiv 2305.01210)."""

import json
from collections.abc import Callable
from typing import Any, get_args

from privcode.errors import UserError
from privcode.execution import Limits, Outcome, Program
from privcode.files import Row
from privcode.scoring.drivers.judge import encode
from privcode.scoring.format import Format, Status, Verdict, driver, word
from privcode.scoring.formats._arguments import comparison, phases
from privcode.scoring.formats.humaneval import cut_at_top_level
from privcode.scoring.formats.mbpp import cut_after_program
from privcode.scoring.tasks import Cases, Task, function_name, text

_MOST_DEPTH = 100
# Thirty seconds for the solution, and thirty for the reference that runs next to it. The reference
# of Mbpp/599 takes half of them. The reference of Mbpp/255 takes over 2 GB.
_LIMITS = Limits(cpu_seconds=60, wall_seconds=1440, memory_mb=4096)


def _reader(format: str) -> Callable[[Row, str], Task]:
    def read(row: Row, where: str) -> Task:
        task_id, prompt = (text(row, name, where) for name in ("task_id", "prompt"))
        entry_point = function_name(row, where)
        canonical = text(row, "canonical_solution", where)
        base, plus, atol = (row.get(name) for name in ("base_input", "plus_input", "atol"))
        if not isinstance(base, list) or not isinstance(plus, (list, dict)):
            raise UserError(f"{where}, field base_input, plus_input: must be lists of arguments")
        if not all(isinstance(given, list) for given in (*base, *plus)):
            raise UserError(f"{where}, field base_input, plus_input: must be lists of arguments")
        if isinstance(atol, bool) or not isinstance(atol, (int, float)) or not 0 <= atol < 1e300:
            raise UserError(f"{where}, field atol: must be a number, and not below 0")
        task = Task(
            task_id,
            prompt,
            entry_point,
            "",
            canonical,
            format=format,
            cases=Cases(base, list(plus), atol),  # Mbpp/793 has {} for no inputs
        )
        _refuse_strange(task, where)
        return task

    return read


def _refuse_strange(task: Task, where: str) -> None:
    """Refuse structured inputs that `phases` cannot convert, or that are nested too deeply."""
    try:
        pending: list[tuple[int, Any]] = [(0, inputs) for _, inputs in phases(task)]
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        raise UserError(
            f"{where}, field base_input, plus_input: do not fit this task's function; use the "
            "file as its owners publish it"
        ) from None
    while pending:
        depth, value = pending.pop()
        if depth > _MOST_DEPTH:
            raise UserError(f"{where}, field base_input, plus_input: are nested too deeply")
        if isinstance(value, (list, tuple, dict)):
            items = value.values() if isinstance(value, dict) else value
            pending.extend((depth + 1, item) for item in items)


def _program(task: Task, solution: str, prelude: str) -> Program:
    given = {
        "solution": solution,
        "entry_point": task.entry_point,
        "how": comparison(task),
        "phases": phases(task),
    }
    reference = "\n".join(filter(None, (prelude, task.prompt + task.canonical_solution)))
    stdin = _sized(given) + _sized({"reference": reference})
    return Program("", driver("judge"), stdin=stdin, checked=True)


def _sized(content: object) -> str:
    data = json.dumps(encode(content))
    return f"{len(data):016x}{data}"


def _verdict(task: Task, outcome: Outcome) -> Verdict:
    said = _said(task, outcome.stdout) if outcome.status == "ok" else None
    if said is None:  # the judge gave no verdict
        ended = "error" if outcome.status == "ok" else outcome.status
        found = word(outcome.status)
        return Verdict(False, ended, outcome.error or "NoVerdict", found, found)
    (base, at, error), (plus, at_plus, error_plus) = said
    error = error or error_plus
    status = "ok" if base == plus == "pass" else "error" if "fail" in (base, plus) else "timeout"
    return Verdict(status == "ok", status, error, base, plus, (at, at_plus))


_Said = tuple[Status, int | None, str]


def _said(task: Task, stdout: str) -> tuple[_Said, _Said] | None:
    """The judge's verdict on base and plus tests. None if the output is not a judge's."""
    assert task.cases is not None
    try:
        found = json.loads(stdout)
        said = [tuple(found[name]) for name in ("base", "plus")]
        for (spoken, at, error), inputs in zip(
            said, (task.cases.base, task.cases.plus), strict=True
        ):
            known = spoken in get_args(Status) and isinstance(error, str)
            if not known or not (at is None or (type(at) is int and 0 <= at < len(inputs))):
                return None
        base, plus = ((spoken, at, _clean(error)) for spoken, at, error in said)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return base, plus


def _clean(text: str) -> str:
    """The text without half surrogate pairs. A class name may have them, and no file can."""
    return text.encode(errors="replace").decode()


def _has_inputs(row: Row) -> bool:
    return "base_input" in row and "plus_input" in row


HUMANEVAL_PLUS = Format(
    name="humaneval+",
    owns=lambda row: _has_inputs(row) and "test" in row,
    read=_reader("humaneval+"),
    program=_program,
    cut=cut_at_top_level,
    limits=_LIMITS,
    verdict=_verdict,
    plus=True,
    fields=("test", "base_input", "plus_input"),
)
MBPP_PLUS = Format(
    name="mbpp+",
    owns=lambda row: _has_inputs(row) and "test" not in row,
    read=_reader("mbpp+"),
    program=_program,
    cut=cut_after_program,
    limits=_LIMITS,
    verdict=_verdict,
    plus=True,
    fields=("base_input", "plus_input"),
)
