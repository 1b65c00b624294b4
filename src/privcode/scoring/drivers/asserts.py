"""What runs in the sandbox for tasks whose test is assertions (HumanEval, MBPP).

Promises: the test runs with the builtins as they were before the solution, in names of its own, so
redefining `abs` or `check`, or patching a builtin, changes nothing; an answer that equals whatever
it is compared with is refused. Standard library only: it is sent as text.
Does not: withstand a solution that reaches into the frames of its test: both are one process.
Tasks with structured inputs have a judge of their own (`_judge`).
"""

import builtins
import functools
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any


def _honest(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, but an answer that equals things it cannot know is an AssertionError."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        answer = function(*arguments, **named)
        number = int.from_bytes(os.urandom(8), "big")
        for probe in (number, str(number), float(number), [number], (number,), {number}, object()):
            try:
                agrees = (answer == probe) is True
            except Exception:
                agrees = False
            if agrees and answer is not probe:
                raise AssertionError("the answer equals whatever it is compared with")
        return answer

    return call


def main() -> None:
    """Standard input: {"solution", "test", "entry_point" or ""} as JSON."""
    kept = dict(vars(builtins))
    request = json.load(sys.stdin)
    entry = request["entry_point"]
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    exec(compile(request["solution"], "solution.py", "exec", dont_inherit=True), module.__dict__)
    own = vars(module).items()
    names = {name: value for name, value in own if name not in kept or name == entry}
    names |= {"__name__": "test", "__builtins__": kept}
    if entry and entry not in names:
        raise NameError(f"name {entry!r} is not defined")
    if entry and not isinstance(names[entry], type):
        names[entry] = _honest(names[entry])
    exec(compile(request["test"], "test.py", "exec", dont_inherit=True), names)
