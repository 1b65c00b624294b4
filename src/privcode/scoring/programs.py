"""From a sample to the program that runs in the sandbox, and from its outcome to a verdict.

Promises: a sample passes only if all its tests were reached and passed. See `format`.
Does not: run anything.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from privcode.execution import Limits, Outcome, Program
from privcode.execution import unsupported as no_tools
from privcode.scoring.format import Verdict
from privcode.scoring.formats import format_named
from privcode.scoring.tasks import Task

Sample = Mapping[str, Any]

_DISTRIBUTIONS = {
    **{"Crypto": "pycryptodome", "Levenshtein": "python-Levenshtein", "PIL": "pillow"},
    **{"bs4": "beautifulsoup4", "cv2": "opencv-python-headless", "dateutil": "python-dateutil"},
    **{"docx": "python-docx", "flask_login": "flask-login", "flask_mail": "flask-mail"},
    **{"flask_restful": "flask-restful", "flask_wtf": "flask-wtf", "mpl_toolkits": "matplotlib"},
    **{"python_http_client": "python-http-client", "requests_mock": "requests-mock"},
    **{"skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"},
}


def limits_for(
    format: str,
    cpu_seconds: float | None = None,
    memory_mb: int | None = None,
    preload: Sequence[str] = (),
) -> Limits:
    """What a program of this format may use. A given figure replaces the format's own figure."""
    own = format_named(format).limits
    cpu = own.cpu_seconds if cpu_seconds is None else cpu_seconds
    return replace(
        own,
        cpu_seconds=cpu,
        wall_seconds=own.wall_seconds * max(1, cpu / own.cpu_seconds),
        memory_mb=own.memory_mb if memory_mb is None else memory_mb,
        preload=tuple(preload),
    )


def whole(task: Task, sample: Sample) -> str:
    """The sample's whole program: its `solution`, or the prompt followed by its `completion`."""
    return str(sample["solution"] if "solution" in sample else task.prompt + sample["completion"])


def program_for(task: Task, sample: Sample, prelude: str = "", id: str = "") -> Program:
    """The program that tests `sample`: solution, tests, and the proof that they were reached.

    Args:
        task: the task that the sample solves.
        sample: {solution} or {completion}.
        prelude: code before the solution, and before the reference.
        id: the program's id.
    """
    code = "\n".join(filter(None, (prelude, whole(task, sample))))
    return replace(format_named(task.format).program(task, code, prelude), id=id)


def verdict(task: Task, outcome: Outcome) -> Verdict:
    """The sample's verdict, from the `outcome` of `program_for(task, …)`."""
    return format_named(task.format).verdict(task, outcome)


def unsupported(task: Task, sandbox: str = "auto") -> str:
    """Why this machine cannot score the task in a sandbox, and what to do. Empty if it can."""
    if reason := no_tools(task.language, sandbox):
        return reason
    names = sorted({_DISTRIBUTIONS.get(name, name) for name in _missing(task)})
    return f"needs {', '.join(names)}: pip install {' '.join(names)}" if names else ""


def _missing(task: Task) -> list[str]:
    """Modules that a task needs and that are not installed."""
    if not format_named(task.format).takes_libraries:
        return []
    return [name for name in task.modules() if not _installed(name)]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # for __main__, which has no spec
        return True
