"""Functional correctness: pass@k on tasks and samples in HumanEval's file formats.

Promises: every sample runs inside the sandbox and passes only if its last check was reached; a
task without samples counts as failed and is named; pass@k is the unbiased estimator of the
HumanEval paper (arXiv 2107.03374, equation 1).
Does not: load a model; `evaluate` is handed a function that generates.
"""

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from privcode.config import INSTRUCT
from privcode.errors import UserError
from privcode.execution import Limits, Program, execute
from privcode.files import Row, read_jsonl, write_jsonl
from privcode.syntax.spans import parse

Mode = Literal["complete", "instruct"]
Sample = Mapping[str, Any]

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
# A completion continues an indented body: any statement, decorator, comment or fence that starts
# a line is a new top-level one. Closing brackets and quotes may stand there.
_TOP_LEVEL = re.compile(r"\n(?=[A-Za-z_@#`<])")


@dataclass(frozen=True)
class Task:
    """One HumanEval task; `test` defines `check(candidate)`.

    `prompt` is the head of the program (HumanEval) or plain language (then samples and
    `canonical_solution` are whole programs).
    """

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""

    @property
    def prompt_is_code(self) -> bool:
        """Whether a completion is to be appended to the prompt."""
        return re.search(rf"^(def|class) {self.entry_point}\b", self.prompt, re.M) is not None


@dataclass(frozen=True)
class Score:
    """Result over tasks: `pass_at[k]` in [0, 1], the mean over all tasks, missing ones as 0.

    `parse_rate` is the share of samples whose program its grammar reads without an error.
    """

    pass_at: dict[int, float]
    tasks: int
    samples: int
    parse_rate: float
    missing: tuple[str, ...]
    errors: dict[str, int]
    seconds: float
    rows: list[Row] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """The score without its rows, as JSON: {"pass@1": …, "tasks": …, …}."""
        return {f"pass@{k}": value for k, value in self.pass_at.items()} | {
            "tasks": self.tasks,
            "samples": self.samples,
            "parse_rate": self.parse_rate,
            "missing": list(self.missing),
            "errors": self.errors,
            "seconds": round(self.seconds, 3),
        }


def load_tasks(path: Path) -> list[Task]:
    """Read tasks from a .jsonl or .jsonl.gz file.

    Raises:
        UserError: the file cannot be read, holds no task, a field is missing or wrong, or an id
            comes twice.
    """
    tasks: dict[str, Task] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, row {number}"
        for name in ("task_id", "prompt", "entry_point", "test"):
            _text(row, name, where)
        if not row["entry_point"].isidentifier():
            raise UserError(f"{where}, field entry_point: not a Python name; name a function")
        if row["task_id"] in tasks:
            raise UserError(f"{where}, field task_id: comes twice; give each task its own id")
        known = {name: row[name] for name in ("task_id", "prompt", "entry_point", "test")}
        canonical = row.get("canonical_solution")
        tasks[row["task_id"]] = Task(
            **known, canonical_solution=canonical if isinstance(canonical, str) else ""
        )
    if not tasks:
        raise UserError(f"{path}: holds no task; give a file in HumanEval's format")
    return list(tasks.values())


def prompt_for(task: Task, mode: Mode, template: str = INSTRUCT) -> str:
    """What the model is asked: the raw prompt, or `template` with {problem} filled in."""
    if mode == "complete":
        return task.prompt
    problem = task.prompt.strip("\n")
    if task.prompt_is_code:
        problem = f"```python\n{problem}\n```"
    return template.replace("{problem}", problem)


def extract(text: str, mode: Mode, task: Task) -> str:
    """The whole program in a model's answer.

    instruct: the first fenced block, closed or cut off, else the text. complete: the prompt and
    the answer up to the first new top-level statement.
    """
    if mode == "complete":
        return task.prompt + _TOP_LEVEL.split(text, maxsplit=1)[0] + "\n"
    fenced = _FENCE.search(text)
    return fenced[1] if fenced else text


def program_for(task: Task, sample: Sample, prelude: str = "") -> str:
    """Prelude, the sample's program, the task's test and the call of its check.

    `sample` holds `solution`, a whole program, or `completion`, appended to the prompt.
    """
    return "\n".join(
        (prelude, _solution(task, sample), task.test, f"check({task.entry_point})", "")
    )


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
) -> Score:
    """Run every sample against its task.

    Args:
        tasks: all tasks; each counts, with samples or without.
        samples: {task_id, solution} or {task_id, completion}.
        k: pass@k for each of these; every task with samples needs at least max(k) of them.
        prelude: Python text before every program.
        limits: for each program.
        sandbox: as for `execute`.
        workers: as for `execute`.
        progress: called with 1 for every sample.

    Raises:
        UserError: a bad sample (all are checked before any runs), too few samples, no sandbox.
    """
    numbered = [(f"samples, row {n}", row) for n, row in enumerate(samples, start=1)]
    return _score(tasks, numbered, k, prelude, limits, sandbox, workers, progress)


def score_files(
    tasks_path: Path,
    samples_path: Path,
    output_path: Path | None = None,
    *,
    k: Sequence[int] = (1,),
    prelude: str = "",
    limits: Limits | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """`privcode score`: score a samples file and write one result row per sample.

    The rows {task_id, passed, status, error, seconds} go to `output_path`, by default the
    samples' path with `_results.jsonl` appended.

    Returns:
        {"pass@1": …, "tasks": …, "samples": …, "parse_rate": …, "missing": […], "errors": {…},
        "seconds": …}

    Raises:
        UserError: as `load_tasks` and `score`, naming file, row and field.
    """
    tasks = load_tasks(tasks_path)
    numbered = [(f"{samples_path}, row {number}", row) for number, row in read_jsonl(samples_path)]
    result = _score(tasks, numbered, k, prelude, limits, sandbox, workers, progress)
    write_jsonl(output_path or Path(f"{samples_path}_results.jsonl"), result.rows)
    return result.summary()


def evaluate(
    generate: Callable[[list[str]], list[list[str]]],
    tasks: Sequence[Task],
    *,
    mode: Mode = "instruct",
    template: str = INSTRUCT,
    k: Sequence[int] = (1,),
    prelude: str = "",
    limits: Limits | None = None,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[dict[str, str]], Score]:
    """Generate answers for all tasks and score them.

    Args:
        generate: prompts -> for each prompt, in order, its answers.
        tasks: what to solve.
        mode: how the model is asked and its answers are read.
        template: for instruct mode, with {problem}.
        k: as for `score`, and so are the arguments after it.
        prelude: Python text before every program.
        limits: for each program.
        sandbox: as for `execute`.
        workers: as for `execute`.
        progress: called with 1 for every sample scored.

    Returns:
        The samples {task_id, solution}, ready for a samples file, and their score.
    """
    answers = generate([prompt_for(task, mode, template) for task in tasks])
    samples = [
        {"task_id": task.task_id, "solution": extract(text, mode, task)}
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
    )
    return samples, result


def _score(
    tasks: Sequence[Task],
    numbered: Sequence[tuple[str, Sample]],
    k: Sequence[int],
    prelude: str,
    limits: Limits | None,
    sandbox: str,
    workers: int | None,
    progress: Callable[[int], None] | None,
) -> Score:
    begin = time.monotonic()
    by_id = {task.task_id: task for task in tasks}
    for where, sample in numbered:
        if _text(sample, "task_id", where) not in by_id:
            raise UserError(f"{where}, field task_id: no such task; take the ids of the tasks file")
        _text(sample, "solution" if "solution" in sample else "completion", where)
    counts = Counter(str(sample["task_id"]) for _, sample in numbered)
    for task_id, count in counts.items():
        if count < max(k) or min(k) < 1:
            raise UserError(
                f"pass@{max(k)} needs k from 1 to the number of samples; task {task_id} has {count}"
            )

    def programs() -> Iterator[Program]:
        for number, (_, sample) in enumerate(numbered):
            code = program_for(by_id[sample["task_id"]], sample, prelude)
            yield Program(str(number), code, checked=True)

    right: defaultdict[str, int] = defaultdict(int)
    errors: Counter[str] = Counter()
    rows: list[Row] = []
    parsed = 0
    outcomes = execute(programs(), limits, sandbox=sandbox, workers=workers, progress=progress)
    for (_, sample), outcome in zip(numbered, outcomes, strict=True):
        passed = outcome.status == "ok"
        parsed += not parse(
            _solution(by_id[sample["task_id"]], sample), "python"
        ).root_node.has_error
        right[sample["task_id"]] += passed
        if not passed:
            errors[outcome.error or outcome.status] += 1
        rows.append(
            {
                "task_id": sample["task_id"],
                "passed": passed,
                "status": outcome.status,
                "error": outcome.error,
                "seconds": outcome.seconds,
            }
        )

    def mean(size: int) -> float:
        found = (pass_at_k(count, right[task_id], size) for task_id, count in counts.items())
        return sum(found) / len(by_id) if by_id else 0.0

    return Score(
        pass_at={size: mean(size) for size in k},
        tasks=len(by_id),
        samples=len(rows),
        parse_rate=parsed / len(rows) if rows else 0.0,
        missing=tuple(task_id for task_id in by_id if task_id not in counts),
        errors=dict(errors.most_common()),
        seconds=time.monotonic() - begin,
        rows=rows,
    )


def _solution(task: Task, sample: Sample) -> str:
    return str(sample["solution"] if "solution" in sample else task.prompt + sample["completion"])


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        wrong = f"is a {type(value).__name__}" if name in row else "is missing"
        raise UserError(f"{where}, field {name}: {wrong}; it must be a string")
    return value
