"""Functional correctness: pass@k on tasks and samples in the benchmarks' own formats.

Promises: every sample runs inside the sandbox and passes only if all its tests were reached; a
task without samples counts as failed and is named; pass@k is the unbiased estimator of the
HumanEval paper (arXiv 2107.03374, equation 1); there is no score where the tasks' own solutions
fail, and each score says what it depends on.
Does not: load a model; `evaluate` is handed a function that generates.
"""

import gzip
import hashlib
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from privcode.config import INSTRUCT
from privcode.errors import UserError
from privcode.execution import Limits, Outcome, choose_sandbox, execute
from privcode.files import Row, write_json, write_jsonl
from privcode.scoring import (
    RULES,
    Format,
    GroundTruth,
    Mode,
    Sample,
    Task,
    Verdict,
    eval_results,
    extract,
    ground_truth,
    limits_for,
    load_tasks,
    program_for,
    prompt_for,
    read_samples,
    unsupported,
    verdict,
    whole,
)
from privcode.scoring.tasks import text
from privcode.syntax.spans import canonical_language, parse


@dataclass(frozen=True)
class Score:
    """Result over tasks: `pass_at[k]` in [0, 1], the mean over all tasks, missing ones as 0.

    `base_pass_at` is the same for the base tests alone, where there are plus tests too.
    `parse_rate` is the share of samples whose program its grammar reads without an error.
    `conditions` is what the figures depend on: format, limits, sandbox, versions, ground truth.
    """

    pass_at: dict[int, float]
    tasks: int
    samples: int
    parse_rate: float
    missing: tuple[str, ...]
    errors: dict[str, int]
    seconds: float
    rows: list[Row] = field(repr=False)
    verdicts: list[Verdict] = field(repr=False)
    conditions: dict[str, Any] = field(repr=False)
    base_pass_at: dict[int, float] | None = None

    def summary(self) -> dict[str, Any]:
        """The score without its rows, as JSON: {"pass@1": …, "tasks": …, …}."""
        base = {f"base pass@{k}": value for k, value in (self.base_pass_at or {}).items()}
        return {f"pass@{k}": value for k, value in self.pass_at.items()} | {
            "tasks": self.tasks,
            "samples": self.samples,
            "parse_rate": self.parse_rate,
            "missing": list(self.missing),
            "errors": self.errors,
            "seconds": round(self.seconds, 3),
            "conditions": self.conditions,
            **base,
        }


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not {n=}, {c=}, {k=}")
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def score(
    tasks: Sequence[Task],
    samples: Iterable[Sample],
    *,
    k: Sequence[int] = (1,),
    prelude: str = "",
    limits: Limits | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    truth: GroundTruth | None = None,
) -> Score:
    """Run every sample against its task.

    Args:
        tasks: all tasks; each counts, with samples or without.
        samples: {task_id, solution} or {task_id, completion}.
        k: pass@k for each of these; every task with samples needs at least max(k) of them.
        prelude: Python text before every program.
        limits: for each program; default: what the tasks' format asks for.
        sandbox: as for `execute`.
        workers: as for `execute`.
        progress: called with 1 for every sample.
        truth: how the tasks' own solutions fare here, if that is known; else they are run first.

    Raises:
        UserError: a bad sample (all are checked before any runs), too few samples, no sandbox, or
            over 2 % of the tasks' own solutions fail.
    """
    numbered = [(f"samples, row {n}", row) for n, row in enumerate(samples, start=1)]
    return _score(tasks, numbered, k, prelude, limits, sandbox, workers, progress, truth)


def score_files(
    tasks_path: str | Path,
    samples_path: Path,
    output_path: Path | None = None,
    *,
    format: Format | None = None,
    stdlib_only: bool = False,
    k: Sequence[int] = (1,),
    prelude: str = "",
    cpu_seconds: float | None = None,
    memory_mb: int | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] | None = None,
) -> dict[str, Any]:
    """`privcode score`: score a samples file and write what came of it.

    One row {task_id, passed, status, error, seconds} for each sample goes to `output_path`, by
    default the samples' path with `_results.jsonl` appended; evalplus's form of the same beside
    the samples, as SAMPLES_eval_results.json.

    Args:
        tasks_path: as for `load_tasks`, and so are `format` and `stdlib_only`.
        samples_path: as for `read_samples`.
        output_path: for the rows.
        format: of the tasks.
        stdlib_only: of the tasks, those that need nothing to be installed; samples of others are
            passed over.
        k: as for `score`, and so are `prelude`, `sandbox` and `workers`.
        prelude: Python text before every program.
        cpu_seconds: of each program; default: what the format asks for, and so for memory.
        memory_mb: of each process.
        sandbox: as for `execute`.
        workers: as for `execute`.
        bar: makes a progress bar of a title and a total.

    Returns:
        {"pass@1": …, "tasks": …, "samples": …, "parse_rate": …, "missing": […], "errors": {…},
        "seconds": …, "conditions": {…}, "results": […]}; where there are plus tests "base pass@1"
        too; where the samples carry verdicts (evalplus's results) also "agreement".

    Raises:
        UserError: as `load_tasks`, `read_samples` and `score`, naming file, row and field.
    """
    tasks = load_tasks(tasks_path, format, stdlib_only=stdlib_only)
    numbered = read_samples(samples_path)
    if tasks[0].format == "mbpp":  # MBPP's own ids are numbers
        numbered = [(where, _named(sample)) for where, sample in numbered]
    if stdlib_only:
        everything = {task.task_id for task in load_tasks(tasks_path, format)}
        chosen = {task.task_id for task in tasks}
        others = everything - chosen
        numbered = [(where, row) for where, row in numbered if row.get("task_id") not in others]
    limits = limits_for(tasks[0].format, cpu_seconds, memory_mb)
    _check(tasks, numbered, k)
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
        result = _score(tasks, numbered, k, prelude, limits, sandbox, workers, progress, truth)
    rows = output_path or Path(f"{samples_path}_results.jsonl")
    theirs = (
        samples_path / "eval_results.json"
        if samples_path.is_dir()
        else Path(f"{samples_path.with_suffix('')}_eval_results.json")
    )
    write_jsonl(rows, result.rows)
    samples = [sample for _, sample in numbered]
    pass_at = {
        name: {f"pass@{size}": value for size, value in figures.items()}
        for name, figures in (
            ("base", result.base_pass_at or result.pass_at),
            ("plus", result.pass_at if result.base_pass_at else {}),
        )
        if figures
    }
    by_id = {task.task_id: task for task in tasks}
    write_json(theirs, eval_results(by_id, samples, result.verdicts, pass_at, _digest(tasks_path)))
    facts = result.summary() | {"results": [str(rows), str(theirs)]}
    return facts | _agreement(numbered, result.verdicts)


def evaluate(
    generate: Callable[[list[str]], list[list[str]]],
    tasks: Sequence[Task],
    *,
    mode: Mode = "instruct",
    template: str = INSTRUCT,
    response: str = "",
    k: Sequence[int] = (1,),
    prelude: str = "",
    limits: Limits | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    truth: GroundTruth | None = None,
) -> tuple[list[dict[str, str]], Score]:
    """Generate answers for all tasks and score them.

    Args:
        generate: prompts -> for each prompt, in order, its answers.
        tasks: what to solve.
        mode: how the model is asked and its answers are read.
        template: for instruct mode, with {problem}.
        response: for instruct mode, what `generate` makes the answers begin with, and leaves out.
        k: as for `score`, and so are the arguments after it.
        prelude: Python text before every program.
        limits: for each program.
        sandbox: as for `execute`.
        workers: as for `execute`.
        progress: called with 1 for every sample scored.
        truth: how the tasks' own solutions fare here, if that is known.

    Returns:
        The samples {task_id, solution}, ready for a samples file, and their score.
    """
    answers = generate([prompt_for(task, mode, template) for task in tasks])
    samples = [
        {"task_id": task.task_id, "solution": extract(text, mode, task, response)}
        for task, texts in zip(tasks, answers, strict=True)
        for text in texts
    ]
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
    asked = {"prompt": template, "response": response} if mode == "instruct" else {}
    conditions = result.conditions | {"mode": mode, "extraction": RULES[mode], **asked}
    return samples, replace(result, conditions=conditions)


def _check(tasks: Sequence[Task], numbered: Sequence[tuple[str, Sample]], k: Sequence[int]) -> None:
    """Refuse bad samples, and too few of them, before anything runs."""
    known = {task.task_id for task in tasks}
    for where, sample in numbered:
        if text(sample, "task_id", where) not in known:
            raise UserError(f"{where}, field task_id: no such task; take the ids of the tasks file")
        text(sample, "solution" if "solution" in sample else "completion", where)
    for task_id, count in Counter(str(sample["task_id"]) for _, sample in numbered).items():
        if count < max(k) or min(k) < 1:
            raise UserError(
                f"pass@{max(k)} needs k from 1 to the number of samples; task {task_id} has {count}"
            )


def _score(
    tasks: Sequence[Task],
    numbered: Sequence[tuple[str, Sample]],
    k: Sequence[int],
    prelude: str,
    limits: Limits | None,
    sandbox: str,
    workers: int | None,
    progress: Callable[[int], None] | None,
    truth: GroundTruth | None,
) -> Score:
    begin = time.monotonic()
    _check(tasks, numbered, k)
    by_id = {task.task_id: task for task in tasks}
    counts = Counter(str(sample["task_id"]) for _, sample in numbered)
    kind: Format = tasks[0].format if tasks else "humaneval"
    limits = limits or limits_for(kind)
    truth = truth or ground_truth(
        tasks, prelude=prelude, limits=limits, sandbox=sandbox, workers=workers
    )
    outcomes = _outcomes(
        by_id, [s for _, s in numbered], prelude, limits, sandbox, workers, progress
    )
    verdicts: list[Verdict] = []
    rows: list[Row] = []
    parsed = 0
    for (_, sample), outcome in zip(numbered, outcomes, strict=True):
        task = by_id[sample["task_id"]]
        found = verdict(task, outcome)
        parsed += _parses(whole(task, sample), task.language)
        verdicts.append(found)
        rows.append(
            {
                "task_id": task.task_id,
                "passed": found.passed,
                "status": found.status,
                "error": found.error,
                "seconds": outcome.seconds,
            }
            | ({"base": found.base, "plus": found.plus} if found.plus else {})
        )

    def means(right: Counter[str]) -> dict[int, float]:
        def mean(size: int) -> float:
            rates = (pass_at_k(count, right[task_id], size) for task_id, count in counts.items())
            return sum(rates) / len(by_id) if by_id else 0.0

        return {size: mean(size) for size in k}

    def count(passed: Callable[[Verdict], bool]) -> Counter[str]:
        pairs = zip(rows, verdicts, strict=True)
        return Counter(row["task_id"] for row, found in pairs if passed(found))

    has_plus = kind in ("humaneval+", "mbpp+")
    wrong = Counter(row["error"] or row["status"] for row in rows if not row["passed"])
    return Score(
        pass_at=means(count(lambda found: found.passed)),
        tasks=len(by_id),
        samples=len(rows),
        parse_rate=parsed / len(rows) if rows else 0.0,
        missing=tuple(task_id for task_id in by_id if task_id not in counts),
        errors=dict(wrong.most_common()),
        seconds=time.monotonic() - begin,
        rows=rows,
        verdicts=verdicts,
        conditions={
            "format": kind,
            "limits": asdict(limits),
            "sandbox": choose_sandbox(sandbox).name,
            "versions": {"privcode": version("privcode"), "python": platform.python_version()},
            "ground_truth": truth.facts(),
        },
        base_pass_at=means(count(lambda found: found.base == "pass")) if has_plus else None,
    )


def _outcomes(
    by_id: Mapping[str, Task],
    samples: Sequence[Sample],
    prelude: str,
    limits: Limits,
    sandbox: str,
    workers: int | None,
    progress: Callable[[int], None] | None,
) -> Iterator[Outcome]:
    """How each sample's program ended; those that this machine cannot run are `unsupported`."""
    why = {task_id: unsupported(by_id[task_id]) for task_id in {s["task_id"] for s in samples}}
    programs = (
        program_for(by_id[sample["task_id"]], sample, prelude, str(number))
        for number, sample in enumerate(samples)
        if not why[sample["task_id"]]
    )
    ran = execute(programs, limits, sandbox=sandbox, workers=workers, progress=progress)
    for number, sample in enumerate(samples):
        if reason := why[sample["task_id"]]:
            if progress is not None:
                progress(1)
            yield Outcome(str(number), "unsupported", None, 0.0, "", "", reason)
        else:
            yield next(ran)


def _parses(code: str, language: str) -> bool:
    return (
        canonical_language(language) is not None and not parse(code, language).root_node.has_error
    )


def _named(sample: Sample) -> Sample:
    number = sample.get("task_id")
    return {**sample, "task_id": f"Mbpp/{number}"} if isinstance(number, int) else sample


def _digest(source: str | Path) -> str:
    """MD5 of a task file's text, unpacked: what evalplus knows a version of a benchmark by."""
    path = Path(source)
    if not path.is_file():
        return ""
    content = path.read_bytes()
    return hashlib.md5(
        gzip.decompress(content) if path.suffix == ".gz" else content, usedforsecurity=False
    ).hexdigest()


def _agreement(
    numbered: Sequence[tuple[str, Sample]], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """How far verdicts that came with the samples are ours."""
    told = [
        (where, (sample["base_status"], sample.get("plus_status")), (found.base, found.plus))
        for (where, sample), found in zip(numbered, verdicts, strict=True)
        if "base_status" in sample
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
