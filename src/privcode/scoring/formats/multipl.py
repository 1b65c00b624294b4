"""MultiPL-E: HumanEval and MBPP in other languages. The exit code decides (arXiv 2208.08227)."""

from privcode.execution import Program
from privcode.files import Row
from privcode.languages import canonical_language
from privcode.scoring.format import Format
from privcode.scoring.formats._joining import joined
from privcode.scoring.formats.humaneval import asserts
from privcode.scoring.tasks import Task, strings, text


def _read(row: Row, where: str) -> Task:
    name = text(row, "language", where)
    return Task(
        task_id=text(row, "name" if "name" in row else "task_id", where),
        prompt=text(row, "prompt", where),
        entry_point="",
        test=text(row, "tests", where),
        format="multipl",
        language=canonical_language(name) or name,
        stop=tuple(strings(row, "stop_tokens", where)),
    )


def _cut(task: Task, answer: str) -> str:
    ends = [at for token in task.stop if (at := answer.find(token)) >= 0]
    return answer[: min(ends, default=len(answer))]


def _program(task: Task, solution: str, prelude: str) -> Program:
    if task.language == "python":
        return asserts(solution, task.test, task.entry_point)
    return Program("", joined(task.language, task.prompt, solution, task.test), task.language)


FORMAT = Format(
    name="multipl",
    owns=lambda row: "tests" in row and "language" in row,
    read=_read,
    program=_program,
    cut=_cut,
    head=lambda task: task.prompt,
    fields=("name", "language", "prompt", "tests"),
)
