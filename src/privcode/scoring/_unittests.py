"""What runs in the sandbox for tasks whose test is a unittest class (BigCodeBench).

Promises: every test of the class `TestCases` has run and passed, none was skipped, and neither
builtins nor unittest were changed by the time they were needed. Standard library only: it is sent
as text.
Does not: withstand a solution that reaches into the frames of its test: the tests patch the
solution's own names, so both are one module, as in BigCodeBench.
"""

import builtins
import contextlib
import io
import json
import os
import sys
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


def main() -> None:
    """Standard input: {"solution", "test"} as JSON."""
    kept = [(o, name, v) for o in _OWNERS for name, v in vars(o).items() if callable(v)]
    request = json.load(sys.stdin)
    leave, report = os._exit, sys.stderr.write
    os.environ["MPLBACKEND"] = "Agg"

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
        result = unittest.TestResult()
        suite = unittest.TestLoader().loadTestsFromTestCase(module.__dict__["TestCases"])
        count = suite.countTestCases()
        touched = [name for o, name, v in kept if vars(o).get(name) is not v]
        if not touched:
            suite.run(result)
            touched = [name for o, name, v in kept if vars(o).get(name) is not v]
    if touched:
        fail(f"Tampering: {touched[0]}")
    if wrong := result.errors + result.failures:
        fail(wrong[0][1].strip().splitlines()[-1])
    if result.testsRun != count or not count or result.skipped or result.unexpectedSuccesses:
        fail("NoVerdict: not every test was run")
