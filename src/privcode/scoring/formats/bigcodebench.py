"""BigCodeBench: unit tests in a class `TestCases`, and libraries (arXiv 2406.15877)."""

import json

from privcode.execution import Limits, Program
from privcode.files import Row
from privcode.scoring.format import Format, driver
from privcode.scoring.formats.humaneval import cut_at_top_level
from privcode.scoring.tasks import Task, function_name, text


def _read(row: Row, where: str) -> Task:
    """One row has two prompts: for complete and for instruct mode. "Hard" is a separate file."""
    return Task(
        task_id=text(row, "task_id", where),
        prompt=text(row, "complete_prompt", where),
        entry_point=function_name(row, where),
        test=text(row, "test", where),
        canonical_solution=text(row, "canonical_solution", where),
        question=text(row, "instruct_prompt", where),
        head=text(row, "code_prompt", where),
        format="bigcodebench",
    )


def _program(task: Task, solution: str, prelude: str) -> Program:
    head = f"{task.head.rstrip()}\n    pass\n"  # BigCodeBench's default
    request = {"solution": f"{head}\n{solution}", "test": task.test}
    return Program("", driver("unittests"), stdin=json.dumps(request), checked=True)


FORMAT = Format(
    name="bigcodebench",
    owns=lambda row: "complete_prompt" in row,
    read=_read,
    program=_program,
    cut=cut_at_top_level,
    limits=Limits(cpu_seconds=60, wall_seconds=720, memory_mb=4096, output_kb=1024, open_files=256),
    takes_libraries=True,
    fields=("complete_prompt", "code_prompt", "test"),
)
