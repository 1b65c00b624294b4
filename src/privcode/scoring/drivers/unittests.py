"""What runs in the sandbox for tasks with a unittest class as test (BigCodeBench).

Promises:
- Every test of the class `TestCases` has run and passed, and none was skipped.
- Neither builtins nor unittest were changed by the time they were needed.
- It uses the standard library only, because it is sent as text.

Does not:
- Withstand a solution that reaches into the frames of its test. The tests patch the solution's
  names, so both are in one module, as in BigCodeBench.
"""

import builtins
import contextlib
import io
import json
import os
import sys
import traceback
import types
import unittest
from typing import Any

_OWNERS = (
    builtins,
    unittest.TestCase,
    unittest.TestSuite,
    unittest.suite.BaseTestSuite,
    unittest.TestResult,
    unittest.TestLoader,
)


class _Result(unittest.TestResult):
    """Keeps the first line of the first error. Unittest keeps whole tracebacks as text."""

    first = ""

    def _note(self, error: Any) -> None:
        if error is not None and not self.first:
            self.first = "".join(traceback.format_exception_only(*error[:2])).splitlines()[0]

    def addError(self, test: Any, err: Any) -> None:
        self._note(err)
        super().addError(test, err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._note(err)
        super().addFailure(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        self._note(err)
        super().addSubTest(test, subtest, err)


def main() -> None:
    """Standard input: {"solution", "test"} as JSON."""
    kept = [(o, name, v) for o in _OWNERS for name, v in vars(o).items() if callable(v)]
    request = json.load(sys.stdin)
    leave, report = os._exit, sys.stderr.write
    os.environ["MPLBACKEND"] = "Agg"
    os.mkdir(".bin")  # some tests start `python`
    os.symlink(sys.executable, ".bin/python")
    os.environ["PATH"] = f"{os.getcwd()}/.bin:{os.environ.get('PATH', '')}"

    def fail(line: str) -> None:
        report(line + "\n")
        leave(1)

    module = types.ModuleType("__test__")
    sys.modules["__test__"] = module
    given: dict[str, Any] = {"__file__": "__test__.py", "sys": sys, "os": os, "environ": os.environ}
    module.__dict__.update(given)
    code = compile(request["solution"] + "\n" + request["test"], "__test__.py", "exec")
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        exec(code, module.__dict__)
        result = _Result()
        suite = unittest.TestLoader().loadTestsFromTestCase(module.__dict__["TestCases"])
        count = suite.countTestCases()
        touched = [name for o, name, v in kept if vars(o).get(name) is not v]
        if not touched:
            suite.run(result)
            touched = [name for o, name, v in kept if vars(o).get(name) is not v]
    if touched:
        fail(f"Tampering: {touched[0]}")
    if result.errors or result.failures:
        fail(result.first)
    if result.testsRun != count or not count or result.skipped or result.unexpectedSuccesses:
        fail("NoVerdict: not every test was run")
