"""What is run, within which bounds, and how it ended: the values of `privcode.execution`.

Promises:
- Plain frozen values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "error", "timeout", "memory", "output", "blocked", "unsupported"]


@dataclass(frozen=True)
class Program:
    """One program.

    `checked` asks for proof that the last statement of a Python program was reached. In other
    languages, exit code 0 is the only evidence. `files` lie next to the program: name -> content.
    Python imports modules from there.
    """

    id: str
    code: str
    language: str = "python"
    stdin: str = ""
    checked: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Bounds for one program, and what is imported before it starts.

    Processor time and memory bound each process at once. They bound all processes together at the
    next look, ten times a second. Wall time stops while the program is ready but has no core, for
    up to ten times the limit. `preload` names modules that every program finds already imported, at
    no cost of its own. The most imported modules of the standard library are preloaded too. The
    memory of preloaded modules counts as the program's.
    """

    cpu_seconds: float = 5
    wall_seconds: float = 30
    memory_mb: int = 1024
    output_kb: int = 64
    processes: int = 32
    files_mb: int = 64
    open_files: int = 64
    preload: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `stdout` and `stderr` are the last few kB, `seconds` is wall time."""

    id: str
    status: Status
    exit_code: int | None
    seconds: float
    stdout: str
    stderr: str
    error: str
