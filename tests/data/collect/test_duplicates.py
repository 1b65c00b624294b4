"""Copies within one unit and across units, and signs of secrets."""

import json
from pathlib import Path
from typing import Any

import pytest

from privcode.data.collect import Collected, Options, collect
from privcode.data.collect.duplicates import Duplicates, digest, sketch
from privcode.data.masking import detected, signs
from privcode.files import Row
from tests.helpers.repositories import ANN, BOB, commit, function


def collected(*roots: Path, **options: Any) -> tuple[list[Row], Collected]:
    out = roots[0].parent / "out.jsonl"
    done = collect(roots, out, Options(**options))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    out.unlink()
    return rows, done


def places(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["repository"], row["path"]) for row in rows]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Ann's repository, and Bob's with a near copy and an exact one. Ann has one file twice."""
    long = function("shared", lines=30)
    commit(tmp_path / "a", {"x.py": long, "y.py": function("own")}, ANN)
    near = long.replace("shared_7(6,", "changed(6,")
    commit(tmp_path / "b", {"p.py": near, "q.py": function("bobs"), "r.py": function("own")}, BOB)
    commit(tmp_path / "a", {"z.py": function("own", "Other words of it.")}, ANN)
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize("unit", ["author", "repository"])
def test_a_near_copy_of_another_units_code_is_left_out(two: tuple[Path, Path], unit: str) -> None:
    rows, done = collected(*two, unit=unit)
    assert places(rows) == [("a", "x.py"), ("a", "y.py"), ("b", "q.py")]
    assert done.duplicates == {"near": 2, "exact": 1}


def test_near_copies_are_kept_and_counted_on_request(two: tuple[Path, Path]) -> None:
    rows, done = collected(*two, duplicates="count")
    assert places(rows) == [(r, f"{f}.py") for r, f in ("ax", "ay", "bp", "bq", "br")]
    assert done.duplicates == {"near": 2, "exact": 1}


def test_near_copies_in_one_unit_are_not_duplicates(tmp_path: Path) -> None:
    long = function("shared", lines=30)
    for name, text in {"a": long, "b": long.replace("shared_7(6,", "changed(6,")}.items():
        commit(tmp_path / name, {"x.py": text}, ANN)
    both = [("a", "x.py"), ("b", "x.py")]
    assert places(collected(tmp_path / "a", tmp_path / "b")[0]) == both
    by_repository, _ = collected(tmp_path / "a", tmp_path / "b", unit="repository")
    assert places(by_repository) == both[:1]


def test_the_first_in_a_fixed_order_is_kept_whatever_the_order_of_names(
    two: tuple[Path, Path],
) -> None:
    assert collected(*two)[0] == collected(*reversed(two))[0]


def test_without_a_unit_an_exact_copy_is_one_and_a_near_copy_is_anothers(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    long = function("shared", lines=30)
    for name, text in {
        "x.py": long,
        "y.py": long.replace("shared_7(6,", "changed(6,"),
        "z.py": long,
    }.items():
        (tmp_path / "a" / name).write_text(text)
    rows, done = collected(tmp_path / "a")
    assert places(rows) == [("a", "x.py")]
    assert done.duplicates == {"near": 1, "exact": 1}


def test_similar_is_seven_tenths_of_the_shingles() -> None:
    words = [f"w{n}" for n in range(400)]
    other = [f"v{n}" for n in range(400)]
    for kept, expected in ((380, "near"), (360, "near"), (300, ""), (100, "")):
        text = " ".join(words[:kept] + other[kept:])  # Jaccard 0.90, 0.82, 0.60, 0.14
        fresh = Duplicates()
        fresh.judge("a", b"0", sketch(" ".join(words)))
        assert fresh.judge("b", b"1", sketch(text)) == expected, kept


def test_white_space_makes_no_difference_and_letters_do() -> None:
    assert digest("a  b\n") == digest("a b")
    assert digest("ab") != digest("a b")
    assert (sketch("x") == sketch("x")).all()
    assert (sketch("") == sketch("")).all()


KEY = "AKIA" + "IOSFODNN7" + "EXAMPLQ"
SECRET = f'def f(x):\n    """Words about it."""\n    key = "{KEY}"\n    return use(x, key)\n'


@pytest.mark.parametrize("style", ["describe", "fim"])
def test_a_sign_of_a_secret_is_named_by_its_kind_and_never_quoted(
    tmp_path: Path, style: str
) -> None:
    commit(tmp_path / "a", {"x.py": SECRET, "y.py": function("own")})
    rows, done = collected(tmp_path / "a", style=style)
    assert [row["secrets"] for row in rows] == [["aws access key"], []]
    assert done.secrets == {"aws access key": 1}
    assert KEY not in repr(done)


def test_records_with_a_sign_of_a_secret_can_be_left_out(tmp_path: Path) -> None:
    commit(tmp_path / "a", {"x.py": SECRET, "y.py": function("own")})
    rows, done = collected(tmp_path / "a", secrets="drop")
    assert places(rows) == [("a", "y.py")]
    assert done.secrets == {"aws access key": 1}
    assert done.skipped["definition with a sign of a secret"] == 1


def test_a_private_key_and_a_password_are_signs(tmp_path: Path) -> None:
    begin, end = (f"-----{word} RSA PRIVATE KEY-----" for word in ("BEGIN", "END"))
    body = f"{begin}\n{'MIIEow' * 9}\n{end}"
    key = f'def f(x):\n    """Words about it."""\n    k = """{body}"""\n    g()\n'
    word = (
        'def g(x):\n    """Words about it."""\n    password = "tr0ub4dor&3"\n    return log_in(x)\n'
    )
    commit(tmp_path / "a", {"x.py": key, "y.py": word})
    rows, _ = collected(tmp_path / "a")
    assert "private key" in rows[0]["secrets"]
    assert {"secret keyword", "secret assigned"} <= set(rows[1]["secrets"])


def test_a_secret_counts_for_the_records_that_quote_its_line(tmp_path: Path) -> None:
    far = "".join(f"x_{n} = {n}\n" for n in range(60))
    text = function("first") + far + f'key = "{KEY}"\n' + function("next") + far + function("last")
    commit(tmp_path / "a", {"x.py": text})
    assert [row["secrets"] for row in collected(tmp_path / "a")[0]] == [[], [], []]
    rows, done = collected(tmp_path / "a", style="fim", context=300)
    assert [KEY in row["prompt"] for row in rows] == [False, True, False]
    assert [row["secrets"] for row in rows] == [[], ["aws access key"], []]
    assert done.secrets == {"aws access key": 1}


def test_looking_for_secrets_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert {sign.kind for sign in detected(SECRET)} == {"aws access key"}
    assert {sign.kind for sign in signs(SECRET)} == {"access key"}
