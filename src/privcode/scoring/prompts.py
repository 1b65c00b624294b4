"""The prompt for a model, and the program in its answer.

Promises: the prompts are evalplus's and BigCodeBench's, word for word, unless configured otherwise.
Does not: apply a model's own template. The caller does this, and appends `response`.
"""

import re
from typing import Literal

from privcode.languages import canonical_language, languages
from privcode.scoring.formats import format_named
from privcode.scoring.settings import INSTRUCT
from privcode.scoring.tasks import Task
from privcode.syntax.fences import before_end, code_in

Mode = Literal["complete", "instruct"]

RULES: dict[Mode, str] = {
    "complete": "prompt and answer up to the text of an end token and the first new top-level "
    "statement; MBPP: up to a docstring, assert, print or main; MultiPL-E: up to a stop token",
    "instruct": "the answer up to the text of an end token; of it the first fenced block in the "
    "task's language or in none, closed or cut off, else the first block, else the whole",
}
"""How `extract` reads an answer: the words for the record."""


def prompt_for(task: Task, mode: Mode, template: str = INSTRUCT) -> str:
    """The prompt for the model: the task's own, or `template` with {problem} filled in."""
    if mode == "complete":
        return format_named(task.format).head(task)
    problem = task.question.strip() or task.prompt.strip("\n")
    if task.prompt_is_code and not task.question:
        problem = f"```\n{task.prompt.strip()}\n```"
    return in_language(template, task).replace("{problem}", problem)


def in_language(text: str, task: Task) -> str:
    """`text` with the language of the task for {language} and, as in a fence, for {fence}."""
    known = languages().get(canonical_language(task.language) or "")
    title = known.title or known.name if known else task.language
    fence = known.name if known else task.language
    return text.replace("{language}", title).replace("{fence}", fence)


def extract(answer: str, mode: Mode, task: Task, response: str = "") -> str:
    """The whole program in a model's answer, by the rules in `RULES`.

    Args:
        answer: the model's answer.
        mode: as for `prompt_for`.
        task: the task that the model was asked to solve.
        response: the text that the answer was made to begin with. Its last line may open a fence.
    """
    if mode == "instruct":
        opened = response.rstrip("\n").rpartition("\n")[2].startswith("```")
        again = re.match(r"\s*```\w", answer)  # the answer opens a fence of its own
        text = f"```\n{answer}" if opened and not again else answer
        return code_in(text, task.language)[0]
    known = format_named(task.format)
    return known.head(task) + known.cut(task, before_end(answer))
