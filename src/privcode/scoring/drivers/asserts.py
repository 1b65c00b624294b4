"""What runs in the sandbox for tasks with assertions as tests (HumanEval, MBPP).

Promises:
- The test runs in its own namespace, with the builtins as they were before the solution. So a
  solution changes nothing if it redefines `abs` or `check`, or patches a builtin.
- An answer that equals everything it is compared with is refused.
- It uses the standard library only, because it is sent as text.

Does not:
- Withstand a solution that reaches into the frames of its test. Both run in one process. Tasks
  with structured inputs have a separate judge (`judge.py`).
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
    """`function`, with an AssertionError for an answer that equals values it cannot know."""

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
