"""Functional correctness: pass@k on tasks and samples in the benchmarks' own formats.

Promises:
- Every sample runs inside the sandbox. It passes only if all its tests were reached and passed.
- A task without samples counts as failed, and the score names it.
- pass@k is the unbiased estimator of the HumanEval paper (arXiv 2107.03374, equation 1).
- There is no score where more than 2 % of the tasks' own solutions fail.
- Each score states what it depends on.

Does not:
- Load a model: the caller of `evaluate` passes a function that generates.
"""

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

from privcode.errors import UserError
from privcode.execution import Limits, Outcome, choose_sandbox, execute
from privcode.files import HALF, Row, unwritable
from privcode.languages import canonical_language
from privcode.scoring import (
    RULES,
    GroundTruth,
    Mode,
    Sample,
    Task,
    Verdict,
    extract,
    format_named,
    ground_truth,
    limits_for,
    program_for,
    prompt_for,
    unsupported,
    verdict,
    whole,
)
from privcode.scoring.format import Status
from privcode.scoring.settings import INSTRUCT
from privcode.scoring.tasks import text
from privcode.syntax.spans import parse

Execute = Callable[..., Iterator[Outcome]]
"""What `execute` does, with its arguments."""


@dataclass(frozen=True)
class Score:
    """The result over all tasks.

    `pass_at[k]` is in [0, 1]. It is the mean over all tasks, where a task without samples counts
    as 0. `base_pass_at` is the same figure for the base tests alone, for formats that also have
    plus tests. `parse_rate` is the share of samples that the language's grammar parses without an
    error. `conditions` holds what the figures depend on: format, limits, sandbox, versions and
    ground truth.
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
    """Chance that k of n samples, c of them right, include a right one: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not {n=}, {c=}, {k=}")
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def check_samples(
    tasks: Sequence[Task], numbered: Sequence[tuple[str, Sample]], k: Sequence[int]
) -> None:
    """Refuse bad samples, and too few samples for a task, before anything runs.

    Raises:
        UserError: names the sample's place, which is the first item of each pair in `numbered`.
    """
    known = {task.task_id for task in tasks}
    for where, sample in numbered:
        if text(sample, "task_id", where) not in known:
            raise UserError(f"{where}, field task_id: no such task; use the ids in the tasks file")
        kind = "solution" if "solution" in sample else "completion"
        half = isinstance(sample.get(kind), str) and unwritable(sample[kind]) == HALF
        if not half:  # such a sample fails, and the others count
            text(sample, kind, where)
        for name in ("base_status", "plus_status"):
            if sample.get(name) is not None:
                text(sample, name, where)
    for task_id, count in Counter(str(sample["task_id"]) for _, sample in numbered).items():
        if count < max(k) or min(k) < 1:
            raise UserError(
                f"pass@{max(k)} needs k from 1 to the number of samples; task {task_id} has {count}"
            )


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
    run: Execute = execute,
) -> Score:
    """Run every sample against its task.

    Args:
        tasks: all tasks. Each one counts, with or without samples.
        samples: {task_id, solution} or {task_id, completion}.
        k: the values of k in pass@k. Every task with samples needs at least max(k) of them.
        prelude: Python text before every program.
        limits: limits for each program. Default: the limits of the tasks' format.
        sandbox: as for `execute`.
        workers: as for `execute`.
        progress: called with 1 for every sample.
        truth: how the tasks' own solutions do on this machine, if known. Otherwise they are run
            first.
        run: runs the samples' programs: `execute`, or what does the same elsewhere.

    Raises:
        UserError: a sample is bad (all samples are checked before any runs), a task has too few
            samples, there is no sandbox, or more than 2 % of the tasks' own solutions fail.
    """
    begin = time.monotonic()
    numbered = [(f"samples, row {n}", row) for n, row in enumerate(samples, start=1)]
    check_samples(tasks, numbered, k)
    by_id = {task.task_id: task for task in tasks}
    counts = Counter(str(sample["task_id"]) for _, sample in numbered)
    kind = tasks[0].format if tasks else "humaneval"
    limits = limits or limits_for(kind)
    truth = truth or ground_truth(
        tasks, prelude=prelude, limits=limits, sandbox=sandbox, workers=workers
    )
    given = [sample for _, sample in numbered]
    judged = _judged(by_id, given, prelude, limits, sandbox, workers, progress, run)
    verdicts: list[Verdict] = []
    rows: list[Row] = []
    parsed = 0
    for sample, (found, seconds) in zip(given, judged, strict=True):
        task = by_id[sample["task_id"]]
        parsed += not _broken(sample) and _parses(whole(task, sample), task.language)
        verdicts.append(found)
        rows.append(
            {
                "task_id": task.task_id,
                "passed": found.passed,
                "status": found.status,
                "error": found.error,
                "seconds": seconds,
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

    has_plus = format_named(kind).plus
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
    run: Execute = execute,
) -> tuple[list[dict[str, str]], Score]:
    """Generate answers for all tasks and score them.

    Args:
        generate: takes prompts and returns, for each prompt in order, its answers.
        tasks: the tasks to solve.
        mode: how the model is asked and how its answers are read.
        template: the instruction in instruct mode, with {problem}.
        response: in instruct mode, the text that `generate` makes every answer begin with. The
            answers that `generate` returns do not contain it.
        k: as for `score`, like the arguments after it.
        prelude: Python text before every program.
        limits: limits for each program.
        sandbox: as for `execute`.
        workers: as for `execute`.
        progress: called with 1 for every sample scored.
        truth: how the tasks' own solutions do on this machine, if known.
        run: as for `score`.

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
        run=run,
    )
    asked = {"prompt": template, "response": response} if mode == "instruct" else {}
    conditions = result.conditions | {"mode": mode, "extraction": RULES[mode], **asked}
    return samples, replace(result, conditions=conditions)


def _judged(
    by_id: Mapping[str, Task],
    samples: Sequence[Sample],
    prelude: str,
    limits: Limits,
    sandbox: str,
    workers: int | None,
    progress: Callable[[int], None] | None,
    run: Execute,
) -> Iterator[tuple[Verdict, float]]:
    """Each sample's verdict and seconds. What this machine cannot run gets `unsupported`."""
    asked = {sample["task_id"] for sample in samples}
    why = {task_id: unsupported(by_id[task_id], sandbox) for task_id in asked}
    programs = (
        program_for(by_id[sample["task_id"]], sample, prelude, str(number))
        for number, sample in enumerate(samples)
        if not why[sample["task_id"]] and not _broken(sample)
    )
    ran = run(programs, limits, sandbox=sandbox, workers=workers, progress=progress)
    for sample in samples:
        if reason := why[sample["task_id"]]:
            if progress is not None:
                progress(1)
            yield Verdict(False, "unsupported", reason, "fail"), 0.0
        elif _broken(sample):
            if progress is not None:
                progress(1)
            plus: Status | None = (
                "fail" if format_named(by_id[sample["task_id"]].format).plus else None
            )
            yield Verdict(False, "error", HALF, "fail", plus), 0.0
        else:
            outcome = next(ran)
            yield verdict(by_id[sample["task_id"]], outcome), outcome.seconds


def _broken(sample: Sample) -> bool:
    return unwritable(sample.get("solution", sample.get("completion"))) == HALF


def _parses(code: str, language: str) -> bool:
    return (
        canonical_language(language) is not None and not parse(code, language).root_node.has_error
    )
