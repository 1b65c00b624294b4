"""The filters: every sample gets a verdict, and a killed stage goes on where it was."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from privcode.errors import UserError
from privcode.execution import Outcome, Program, execute
from privcode.files import jsonl_line
from privcode.validation.filters import Candidate, Finding, named_filters, runs, says_what_was_asked
from privcode.validation.verdicts import judge, keep_surest, validate


def run_all(programs: list[Program]) -> list[Outcome]:
    return list(execute(programs))


def sample(number: int, completion: str) -> dict[str, str]:
    return {"id": f"{number}-0", "prompt": f"problem {number}", "completion": completion}


@pytest.mark.parametrize(
    ("completion", "accepted"),
    [
        ("Install:\n```bash\nexit 0\n```\nThen:\n```python\nexit(3)\n```", False),
        ("```bash\nexit 3\n```\n```python\nx = 1\n```", True),
        ("```text\nin words\n```\n```python\nx = 1\n```", True),
        ("1. Do:\n    ```python\n    x = 1\n    ```", True),
        ("x = 1\n<|im_end|>", True),
        ("```python\nx = 1\n```<|endoftext|>\nexit(3)", True),
    ],
)
def test_the_code_that_is_run_is_the_one_in_the_language_of_the_data(
    completion: str, accepted: bool
) -> None:
    filters = [runs(run_all, "python", "", {})]
    (found,) = judge([sample(0, completion)], language="python", filters=filters)
    assert found["accepted"] == accepted


def test_with_several_languages_the_first_block_of_code_is_run() -> None:
    one = sample(0, "```text\nwords\n```\n```bash\nexit 3\n```\n```python\nx = 1\n```")
    filters = [runs(run_all, "python", "", {})]
    (found,) = judge([one], language="python", filters=filters, any_language=True)
    assert found["reason"] == "execution: ExitCode3"


def test_every_sample_gets_a_verdict_and_every_reject_its_reason() -> None:
    samples = [
        sample(0, "print(helper())"),
        sample(1, "raise KeyError('no')"),
        sample(2, ""),
        sample(3, "x = ("),
        sample(4, "```bash\nexit 3\n```"),
        sample(5, "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)"),
    ]
    verdicts = judge(
        samples, language="python", filters=[runs(run_all, "python", "def helper(): return 1", {})]
    )
    assert [v["accepted"] for v in verdicts] == [True, False, False, False, False, False]
    assert [v["reason"] for v in verdicts[:4]] == [
        "",
        "execution: KeyError",
        "no code",
        "execution: SyntaxError",
    ]
    assert verdicts[4]["reason"] == "execution: ExitCode3"  # no prelude in another language
    assert verdicts[5]["reason"].startswith("execution: ")


def test_files_lie_beside_every_program() -> None:
    samples = [sample(0, "import house"), sample(1, "```bash\n[ -f house.py ]\n```")]
    with_files = judge(
        samples, language="python", filters=[runs(run_all, "python", "", {"house.py": b"x = 7"})]
    )
    assert [v["accepted"] for v in with_files] == [True, True]
    without = judge(samples, language="python", filters=[runs(run_all, "python", "", {})])
    assert [v["reason"] for v in without] == [
        "execution: ModuleNotFoundError: house",
        "execution: ExitCode1",
    ]


def test_the_round_trip_score_must_reach_the_threshold() -> None:
    samples = [sample(n, f"x = {n}") for n in range(4)]
    seen = []

    def score(pairs: list[tuple[str, str]], chunk: int) -> list[float | None]:
        seen.append((pairs, chunk))
        return [0.5, 0.49, None, float("nan")]

    verdicts = judge(samples, 3, language="python", filters=[says_what_was_asked(score, 0.5)])
    assert seen == [([(f"problem {n}", f"x = {n}") for n in range(4)], 3)]
    assert [v["accepted"] for v in verdicts] == [True, False, False, False]
    assert [v["round_trip"] for v in verdicts] == [0.5, 0.49, None, None]
    assert verdicts[2]["reason"] == "round trip: too long for the describer"
    for verdict in verdicts:
        jsonl_line(verdict)  # NaN is no JSON


def test_only_what_ran_is_scored() -> None:
    def score(pairs: list[tuple[str, str]], chunk: int) -> list[float | None]:
        return [1.0] * len(pairs)

    filters = [runs(run_all, "python", "", {}), says_what_was_asked(score, 0.0)]
    verdicts = judge([sample(0, "1 / 0"), sample(1, "x = 1")], language="python", filters=filters)
    assert [v["round_trip"] for v in verdicts] == [None, 1.0]


@pytest.mark.parametrize("torn", ["", '[1, [{"id": "2'])
def test_a_killed_validation_goes_on_at_the_chunk_it_was_in(tmp_path: Path, torn: str) -> None:
    samples = [sample(n, f"x = {n}") for n in range(5)]
    calls: list[int] = []

    def judgement(some, chunk):  # type: ignore[no-untyped-def]
        calls.append(chunk)
        return [{"id": s["id"], "chunk": chunk} for s in some]

    def validated(path: Path, progress: Callable[[int], object] = print) -> list[Any]:
        return list(validate(samples, judgement, path, 2, progress))

    whole = validated(tmp_path / "whole")
    half = tmp_path / "half"
    half.write_text(jsonl_line([0, whole[:2]]) + torn)
    calls.clear()
    done: list[int] = []
    assert validated(half, done.append) == whole
    assert (calls, sum(done)) == ([1, 2], 5)
    assert half.read_bytes() == (tmp_path / "whole").read_bytes()
    calls.clear()
    assert validated(half) == whole
    assert calls == []


def test_of_what_passes_the_share_that_the_junior_is_surest_of_is_kept() -> None:
    verdicts = [
        {"id": name, "accepted": name != "c", "reason": "no code" if name == "c" else ""}
        for name in "abcde"
    ]
    kept = list(keep_surest(verdicts, {"a": -0.1, "b": -2.0, "d": -0.5, "e": -0.3}, 0.6))
    assert [v["accepted"] for v in kept] == [True, False, False, True, True]  # 0.6 of 4, up to 3
    assert [v["reason"] for v in kept] == [
        "",
        "the junior was less sure of it than of others",
        "no code",
        "",
        "",
    ]


def test_each_filter_sees_what_the_ones_before_have_passed() -> None:
    seen: list[list[str]] = []

    def short(candidates: Sequence[Candidate], chunk: int) -> list[Finding]:
        seen.append([c.code for c in candidates])
        return [Finding("" if len(c.code) < 6 else "long", {"n": len(c.code)}) for c in candidates]

    samples = [sample(0, "x = 1"), sample(1, "x = 1000"), sample(2, "")]
    verdicts = judge(samples, language="python", filters=[short, short])
    assert seen == [["x = 1", "x = 1000"], ["x = 1"]]
    assert [(v["reason"], v.get("n")) for v in verdicts] == [
        ("", 5),
        ("long", 8),
        ("no code", None),
    ]


def test_a_sample_with_half_a_surrogate_pair_is_rejected_alone() -> None:
    samples = [sample(0, "x = 1"), sample(1, 's = "\ud83d"'), sample(2, "x = 2")]
    verdicts = judge(samples, language="python", filters=[runs(run_all, "python", "", {})])
    assert [v["reason"] for v in verdicts] == ["", "has half a surrogate pair", ""]


def test_a_filter_that_leaves_a_candidate_out_is_refused() -> None:
    with pytest.raises(UserError, match="0 findings for 1"):
        judge([sample(0, "x = 1")], language="python", filters=[lambda candidates, chunk: []])


def test_a_filter_that_nothing_installed_is_refused() -> None:
    with pytest.raises(UserError, match=r"validate\.filters: house_style is unknown"):
        named_filters(["house_style"])


def test_code_that_fills_a_gap_is_judged_with_the_code_around_it() -> None:
    seen = []

    def look(candidates: Sequence[Candidate], chunk: int) -> list[Finding]:
        seen.extend((c.code, c.language) for c in candidates)
        return [Finding() for _ in candidates]

    rows = [
        {"id": "a", "prompt": "x = [<FILL_ME>]\n", "completion": "1"},
        {"id": "b", "prompt": "x = ", "completion": "2\n"},
        {"id": "c", "prompt": "x<FILL_ME>", "completion": " \n"},
    ]
    verdicts = judge(rows, language="python", filters=[look], template="fim")
    assert seen == [("x = [1]\n", "python"), ("x = 2\n", "python")]
    assert [v["reason"] for v in verdicts] == ["", "", "no code"]
