"""From a sample to the program that runs in the sandbox, and from its outcome to a verdict.

Promises: a sample passes only if all its tests were reached and passed: the sandbox's proof for
tests in the solution's own process, the judge's word where there is a judge (HumanEval+, MBPP+).
Does not: run anything.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from privcode.execution import Limits, Outcome, Program
from privcode.execution import unsupported as no_tools
from privcode.scoring._judge import encode
from privcode.scoring.inputs import comparison, phases
from privcode.scoring.tasks import Format, Task

Sample = Mapping[str, Any]
Status = Literal["pass", "fail", "timeout"]

# Processor time decides; the wall clock, some twenty times that, is for programs that sleep.
_LIMITS: dict[Format, Limits] = {
    **dict.fromkeys(("humaneval", "mbpp", "multipl"), Limits(wall_seconds=120)),
    # Thirty seconds for the solution, and as many for the reference that runs beside it: that of
    # Mbpp/599 takes half of them. That of Mbpp/255 takes over 2 GB.
    **dict.fromkeys(
        ("humaneval+", "mbpp+"), Limits(cpu_seconds=60, wall_seconds=1440, memory_mb=4096)
    ),
    "bigcodebench": Limits(
        cpu_seconds=60, wall_seconds=720, memory_mb=4096, output_kb=1024, open_files=256
    ),
}
_DISTRIBUTIONS = {
    **{"Crypto": "pycryptodome", "Levenshtein": "python-Levenshtein", "PIL": "pillow"},
    **{"bs4": "beautifulsoup4", "cv2": "opencv-python-headless", "dateutil": "python-dateutil"},
    **{"docx": "python-docx", "flask_login": "flask-login", "flask_mail": "flask-mail"},
    **{"flask_restful": "flask-restful", "flask_wtf": "flask-wtf", "mpl_toolkits": "matplotlib"},
    **{"python_http_client": "python-http-client", "requests_mock": "requests-mock"},
    **{"skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"},
}


def limits_for(
    format: Format,
    cpu_seconds: float | None = None,
    memory_mb: int | None = None,
    preload: Sequence[str] = (),
) -> Limits:
    """What a program of this format may use; a figure that is given replaces the format's own."""
    own = _LIMITS[format]
    cpu = own.cpu_seconds if cpu_seconds is None else cpu_seconds
    return replace(
        own,
        cpu_seconds=cpu,
        wall_seconds=own.wall_seconds * max(1, cpu / own.cpu_seconds),
        memory_mb=own.memory_mb if memory_mb is None else memory_mb,
        preload=tuple(preload),
    )


@dataclass(frozen=True)
class Verdict:
    """How a sample fared.

    `status` and `error` are as an `Outcome`'s. `base` and `plus` are evalplus's words; `plus` is
    None where there are no such tests. `failed` is the place of the first input that failed, of
    each.
    """

    passed: bool
    status: str
    error: str
    base: Status
    plus: Status | None = None
    failed: tuple[int | None, int | None] = (None, None)


def whole(task: Task, sample: Sample) -> str:
    """The sample's whole program: its `solution`, or its `completion` behind the prompt."""
    return str(sample["solution"] if "solution" in sample else task.prompt + sample["completion"])


def program_for(task: Task, sample: Sample, prelude: str = "", id: str = "") -> Program:
    """The program that tries `sample`: solution, tests, and the proof that they were reached.

    Args:
        task: what it is a sample of.
        sample: {solution} or {completion}.
        prelude: code put before the solution, and before the reference.
        id: the program's.
    """
    code = "\n".join(filter(None, (prelude, whole(task, sample))))
    if task.cases is not None:
        given = {
            "solution": code,
            "entry_point": task.entry_point,
            "how": comparison(task),
            "phases": phases(task),
        }
        reference = "\n".join(filter(None, (prelude, task.prompt + task.canonical_solution)))
        stdin = _sized(given) + _sized({"reference": reference})
        return Program(id, _driver("_judge"), stdin=stdin, checked=True)
    if task.format == "bigcodebench":
        head = f"{task.head.rstrip()}\n    pass\n"  # as BigCodeBench does by default
        request = {"solution": f"{head}\n{code}", "test": task.test}
        return Program(id, _driver("_unittests"), stdin=json.dumps(request), checked=True)
    if task.language != "python":
        return Program(id, f"{code}\n{task.test}", task.language)
    call = f"\ncheck({task.entry_point})\n" if task.format == "humaneval" else ""
    request = {"solution": code, "test": task.test + call, "entry_point": task.entry_point}
    return Program(id, _driver("_asserts"), stdin=json.dumps(request), checked=True)


def verdict(task: Task, outcome: Outcome) -> Verdict:
    """What `outcome`, of `program_for(task, …)`, says of the sample."""
    if task.cases is None:
        base: Status = "pass" if outcome.status == "ok" else _word(outcome.status)
        return Verdict(outcome.status == "ok", outcome.status, outcome.error, base)
    said = _said(task, outcome.stdout) if outcome.status == "ok" else None
    if said is None:  # no word from the judge
        word = _word(outcome.status)
        ended = "error" if outcome.status == "ok" else outcome.status
        return Verdict(False, ended, outcome.error or "NoVerdict", word, word)
    (base, at, error), (plus, at_plus, error_plus) = said
    error = error or error_plus
    status = "ok" if base == plus == "pass" else "error" if "fail" in (base, plus) else "timeout"
    return Verdict(status == "ok", status, error, base, plus, (at, at_plus))


_Said = tuple[Status, int | None, str]


def _said(task: Task, stdout: str) -> tuple[_Said, _Said] | None:
    """What the judge says of base and plus tests; None where it is not the judge who speaks."""
    assert task.cases is not None
    try:
        found = json.loads(stdout)
        said = [tuple(found[name]) for name in ("base", "plus")]
        for (word, at, error), inputs in zip(said, (task.cases.base, task.cases.plus), strict=True):
            known = word in get_args(Status) and isinstance(error, str)
            if not known or not (at is None or (type(at) is int and 0 <= at < len(inputs))):
                return None
        base, plus = ((word, at, _clean(error)) for word, at, error in said)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return base, plus


def _clean(text: str) -> str:
    """Without half surrogate pairs, which a class may have in its name and no file can hold."""
    return text.encode(errors="replace").decode()


def unsupported(task: Task, sandbox: str = "auto") -> str:
    """Why this machine cannot score the task's samples in a sandbox and what to do, or nothing."""
    if reason := no_tools(task.language, sandbox):
        return reason
    names = sorted({_DISTRIBUTIONS.get(name, name) for name in task.missing()})
    return f"needs {', '.join(names)}: pip install {' '.join(names)}" if names else ""


def _word(status: str) -> Status:
    return "timeout" if status == "timeout" else "fail"


def _sized(content: object) -> str:
    data = json.dumps(encode(content))
    return f"{len(data):016x}{data}"


@functools.cache
def _driver(name: str) -> str:
    """The text of a module that runs inside the sandbox, with the call that begins it."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return f"{text}\n\nmain()\n"
