"""The fuzzer: whatever a command is given, it ends soon, in one line or in what was asked for."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

_spec = importlib.util.spec_from_file_location("fuzz_cases", Path(__file__).with_name("cases.py"))
assert _spec
assert _spec.loader
fuzz = importlib.util.module_from_spec(_spec)
sys.modules["fuzz_cases"] = fuzz
_spec.loader.exec_module(fuzz)

HEALTH = list(HealthCheck)


def tried(number: int) -> tuple[int, Counter[str]]:
    """So many cases, the same every time: how many ran, and what was wrong how often."""
    # What is slow to import, transformers above all, is nobody's hang.
    fuzz.check(fuzz.Case(["plan", "c.yaml"], {"c.yaml": json.dumps(fuzz.GOOD_CONFIG).encode()}))
    found: Counter[str] = Counter()
    ran = 0

    @settings(
        max_examples=number, derandomize=True, deadline=None, database=None,
        suppress_health_check=HEALTH,
    )  # fmt: skip
    @given(fuzz.cases())
    def one(case: object) -> None:
        nonlocal ran
        ran += 1
        found.update(fuzz.check(case))

    one()
    return ran, found


def test_a_few_random_inputs_end_in_one_line_or_in_what_was_asked_for() -> None:
    ran, found = tried(60)
    assert ran >= 60
    assert not found


@pytest.mark.slow
def test_thousands_of_random_inputs_end_in_one_line_or_in_what_was_asked_for() -> None:
    ran, found = tried(2500)
    print(f"{ran} cases, derandomized by hypothesis; wrong: {dict(found)}")
    assert ran >= 2000
    assert not found


if __name__ == "__main__":  # what another version does: PYTHONPATH=OTHER/src python THIS 300
    ran, found = tried(int(sys.argv[1]))
    print(ran, "cases,", len(found), "kinds of failure")
    for what, times in found.most_common():
        print(f"{times:5} {what}")
