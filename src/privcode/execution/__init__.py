"""Model-written programs, run inside a sandbox or not at all.

It is promise 8 of docs/explanation/the-guarantee.md.
"""

from privcode.execution._choice import Availability, choose_sandbox, sandboxes
from privcode.execution._file import execute_file, wrong_names
from privcode.execution._program import Limits, Outcome, Program, Status
from privcode.execution._run import execute
from privcode.execution._sandboxes import Sandbox
from privcode.execution._worker import unsupported

__all__ = [
    "Availability",
    "Limits",
    "Outcome",
    "Program",
    "Sandbox",
    "Status",
    "choose_sandbox",
    "execute",
    "execute_file",
    "sandboxes",
    "unsupported",
    "wrong_names",
]
