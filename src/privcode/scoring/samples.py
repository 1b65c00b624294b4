"""Samples and results in evalplus's formats, so that each tool can check the other.

Promises:
- `read_samples` reads evalplus's three forms.
- `eval_results` makes what `evalplus.evaluate` writes. When `evalplus.evaluate` finds such a file,
  it reads the file and runs nothing.

Does not: judge.
"""

import datetime
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privcode.data.rows import kind_of_file, read_rows
from privcode.errors import UserError
from privcode.fields import json_number
from privcode.files import CODE, Row, read_json, read_jsonl, read_text
from privcode.scoring.format import Verdict
from privcode.scoring.programs import whole
from privcode.scoring.tasks import Task
from privcode.syntax.fences import code_in

Sample = Mapping[str, Any]


def read_samples(path: Path) -> list[tuple[str, Sample]]:
    """(place, {task_id, solution or completion}) for every sample.

    `path` is one of three forms:

    - a file of rows, in any form that `rows.read_rows` reads, but .json;
    - a folder of TASK/N.py, where the names of tasks have _ for / (HumanEval_0/0.py);
    - evalplus's results: a JSON file with "eval". Its verdicts stay in the samples.

    Raises:
        UserError: `path` has none of these forms, or cannot be read.
    """
    if path.is_dir():
        files = sorted(
            path.glob("*/*.py"), key=lambda file: (file.parent.name, len(file.stem), file)
        )
        if not files:
            raise UserError(f"{path}: holds no sample; a folder of samples holds TASK/N.py")
        return [
            (
                str(file),
                {"task_id": file.parent.name.replace("_", "/"), "solution": read_text(file, CODE)},
            )
            for file in files
        ]
    kind = kind_of_file(path)
    if kind != ".json":
        rows = read_rows(str(path)) if kind else read_jsonl(path)
        return [(f"{path}, row {number}", row) for number, row in rows]
    found = read_json(path)
    tasks = found.get("eval") if isinstance(found, dict) else None
    if not isinstance(tasks, dict):
        raise UserError(f"{path}: has no field eval; give evalplus's results, or samples in .jsonl")
    if not all(isinstance(rows, list) for rows in tasks.values()):
        raise UserError(f"{path}, field eval: must hold a list of samples for each task")
    return [
        (f"{path}, {_shown(task_id, number)}, sample {place}", row if isinstance(row, dict) else {})
        for number, (task_id, rows) in enumerate(tasks.items(), start=1)
        for place, row in enumerate(rows)
    ]


def clean(task: Task, sample: Sample) -> Sample:
    """The sample with its code alone, by the rules of `syntax.fences`, without fences around it."""
    kind = "solution" if "solution" in sample else "completion"
    return {**sample, kind: code_in(str(sample[kind]), task.language)[0]}


def eval_results(
    tasks: Mapping[str, Task],
    samples: Sequence[Sample],
    verdicts: Sequence[Verdict],
    pass_at: Mapping[str, Mapping[str, float]],
    digest: str,
) -> dict[str, Any]:
    """The content that `evalplus.evaluate` would write about these samples.

    Args:
        tasks: the tasks by their ids.
        samples: the samples in order.
        verdicts: the verdicts of the samples, in the same order.
        pass_at: {"base": {"pass@1": …}, "plus": {…}}.
        digest: the MD5 of the task file. Evalplus uses it as the version of a benchmark.
    """
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for sample, verdict in zip(samples, verdicts, strict=True):
        task = tasks[sample["task_id"]]
        row: Row = {
            "task_id": task.task_id,
            "solution": _plain(whole(task, sample)),
            "base_status": verdict.base,
            "plus_status": verdict.plus,
        }
        cases = (task.cases.base, task.cases.plus) if task.cases else ((), ())
        for name, inputs, at in zip(("base", "plus"), cases, verdict.failed, strict=True):
            row[f"{name}_fail_tests"] = [] if at is None else [_plain(inputs[at])]
        found[task.task_id].append(row)
    date = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
    return {"date": date, "hash": digest, "eval": dict(found), "pass_at_k": pass_at}


def _shown(task_id: str, number: int) -> str:
    """A task's id if it looks like one. A key in JSON may be any text."""
    return task_id if re.fullmatch(r"[\w/.+-]{1,60}", task_id) else f"task {number}"


def _plain(value: Any) -> Any:
    """A value as strict JSON, which has neither NaN nor half of a surrogate pair."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return json_number(value)
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
