"""`privcode score`: score a file of samples against a benchmark's own file.

Promises:
- A bad row is refused before anything runs.
- Results are written in two forms: one row for each sample, and evalplus's form. Each file is
  written whole or not at all.

Does not: judge. `evaluation.score` does.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from privcode.errors import UserError
from privcode.files import read_bytes, write_json, write_jsonl
from privcode.outputs import check_output
from privcode.scoring import (
    Sample,
    Verdict,
    eval_results,
    format_named,
    ground_truth,
    limits_for,
    load_tasks,
    read_samples,
)
from privcode.scoring.evaluation import check_samples, score
from privcode.scoring.loading import without_libraries
from privcode.scoring.samples import clean as cleaned_sample


def score_files(
    tasks_path: str | Path,
    samples_path: Path,
    output_path: Path | None = None,
    *,
    format: str | None = None,
    stdlib_only: bool = False,
    k: Sequence[int] = (1,),
    prelude: str = "",
    clean: bool = False,
    cpu_seconds: float | None = None,
    memory_mb: int | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] | None = None,
) -> dict[str, Any]:
    """`privcode score`: score a file of samples and write the results.

    `output_path` gets one row {task_id, passed, status, error, seconds} for each sample. Its
    default is the samples' path with `_results.jsonl` appended. Evalplus's form of the results
    goes to SAMPLES_eval_results.json next to the samples (for a folder: into it, as
    eval_results.json).

    Args:
        tasks_path: as for `load_tasks`, like `format`.
        samples_path: as for `read_samples`.
        output_path: the file for the rows.
        format: the format of the tasks.
        stdlib_only: score only the Python tasks that need nothing to be installed. Samples of
            other tasks are passed over.
        k: as for `score`, like `prelude`, `sandbox` and `workers`.
        prelude: Python text before every program.
        clean: score the code in each sample; see `samples.clean`.
        cpu_seconds: processor time of each program. Default: the limit of the format.
        memory_mb: memory of each program with all its processes. Default: the limit of the format.
        sandbox: as for `execute`.
        workers: as for `execute`.
        bar: makes a progress bar from a title and a total.

    Returns:
        {"pass@1": …, "tasks": …, "samples": …, "parse_rate": …, "missing": […], "errors": {…},
        "seconds": …, "conditions": {…}, "results": […]}. "base pass@1" is added for formats with
        plus tests. "agreement" is added if the samples carry verdicts (evalplus's results).
        "unclean" is the number of failed samples with fences or the text of an end token.

    Raises:
        UserError: the same as for `load_tasks`, `read_samples` and `score`. Names the file, the
            row and the field.
    """
    rows = output_path or Path(f"{samples_path}_results.jsonl")
    theirs = (
        samples_path / "eval_results.json"
        if samples_path.is_dir()
        else Path(f"{samples_path.with_suffix('')}_eval_results.json")
    )
    given = {os.path.realpath(tasks_path), os.path.realpath(samples_path)}
    for output in (rows, theirs):
        if os.path.realpath(check_output(output)) in given:
            raise UserError(f"{output}: holds the tasks or the samples; choose another -o")
    tasks = load_tasks(tasks_path, format)
    numbered = read_samples(samples_path)
    if not numbered:
        raise UserError(f"{samples_path}: holds no sample; give a file with one row each")
    if before := format_named(tasks[0].format).numbered:
        numbered = [(where, _named(sample, before)) for where, sample in numbered]
    if stdlib_only:
        everything = {task.task_id for task in tasks}
        tasks = without_libraries(tasks, tasks_path)
        others = everything - {task.task_id for task in tasks}
        numbered = [(where, row) for where, row in numbered if row.get("task_id") not in others]
    limits = limits_for(tasks[0].format, cpu_seconds, memory_mb)
    check_samples(tasks, numbered, k)
    by_id = {task.task_id: task for task in tasks}
    cleaned = [cleaned_sample(by_id[sample["task_id"]], sample) for _, sample in numbered]
    samples = cleaned if clean else [sample for _, sample in numbered]
    bar = bar or (lambda title, total: nullcontext(lambda done: None))
    with bar("ground truth", len(tasks)) as progress:
        truth = ground_truth(
            tasks,
            prelude=prelude,
            limits=limits,
            sandbox=sandbox,
            workers=workers,
            progress=progress,
        )
    with bar("score", len(numbered)) as progress:
        result = score(
            tasks,
            samples,
            k=k,
            prelude=prelude,
            limits=limits,
            sandbox=sandbox,
            workers=workers,
            progress=progress,
            truth=truth,
        )
    write_jsonl(rows, result.rows)
    pass_at = {
        name: {f"pass@{size}": value for size, value in figures.items()}
        for name, figures in (
            ("base", result.base_pass_at or result.pass_at),
            ("plus", result.pass_at if result.base_pass_at else {}),
        )
        if figures
    }
    write_json(theirs, eval_results(by_id, samples, result.verdicts, pass_at, _digest(tasks_path)))
    facts = result.summary() | {"results": [str(rows), str(theirs)]}
    facts["conditions"]["clean"] = clean
    facts["unclean"] = sum(
        not found.passed and one != other
        for found, one, other in zip(result.verdicts, samples, cleaned, strict=True)
    )
    return facts | _agreement(numbered, result.verdicts)


def _named(sample: Sample, before: str) -> Sample:
    number = sample.get("task_id")
    return {**sample, "task_id": f"{before}{number}"} if isinstance(number, int) else sample


def _digest(source: str | Path) -> str:
    """MD5 of a task file's unpacked text: evalplus's name for a version of a benchmark."""
    path = Path(source)
    if not path.is_file():
        return ""
    return hashlib.md5(read_bytes(path), usedforsecurity=False).hexdigest()


def _agreement(
    numbered: Sequence[tuple[str, Sample]], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """How many of the verdicts that came with the samples are the same as ours."""
    told = [
        (where, (sample["base_status"], sample.get("plus_status")), (found.base, found.plus))
        for (where, sample), found in zip(numbered, verdicts, strict=True)
        if sample.get("base_status") is not None
    ]
    if not told:
        return {}

    def passed(statuses: tuple[str, str | None]) -> tuple[bool, bool]:
        return statuses[0] == "pass", statuses[1] in ("pass", None)

    differ = [
        {"sample": where, "theirs": list(theirs), "ours": list(ours)}
        for where, theirs, ours in told
        if passed(theirs) != passed(ours)
    ]
    return {"agreement": {"same": len(told) - len(differ), "of": len(told), "differ": differ}}
