import json
import time
from pathlib import Path

import pytest

from privcode.errors import UserError
from privcode.inspect import Lengths, UnitColumn, guess_language, look, two_digits
from privcode.records import Columns

DATA = Path(__file__).resolve().parents[1] / "../shared/data"


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def coded(path: Path, *codes: str) -> str:
    return jsonl(path, *({"prompt": "p", "code": code} for code in codes))


def test_rows_columns_languages_and_units_are_counted(tmp_path: Path) -> None:
    rows = [
        {"problem": "p" * n, "solution": "s", "lang": lang, "repo_name": repo, "commit": "abc"}
        for n, lang, repo in [(1, "py", "a"), (2, "python", "a"), (3, "julia", "b"), (9, "C#", "")]
    ]
    seen: list[int] = []
    found = look(jsonl(tmp_path / "a.jsonl", *rows), progress=seen.append)
    assert found.rows == sum(seen) == 4
    assert found.columns == ("problem", "solution", "lang", "repo_name", "commit")
    assert found.guess == Columns("problem", "solution", "lang")
    assert found.languages == {"python": 2, "julia": 1, "csharp": 1}
    assert found.languages_from == "column"
    assert found.prompt_chars == Lengths(median=2, p90=3, max=9)
    assert found.code_chars == Lengths(median=1, p90=1, max=1)
    assert found.unit_columns == (UnitColumn("repo_name", distinct=2, max_rows=2),)
    assert found.unusable == {}


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "code": "c"}, {"prompt": "p", "code": None}, {"prompt": "p"}]
    found = look(jsonl(tmp_path / "a.jsonl", *rows))
    assert found.rows == 3
    assert found.unusable == {"code: null": 1, "code: missing": 1}
    assert found.proposed_units == 1


def test_the_columns_may_be_named(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"a": "x", "b": "y"})
    assert look(source, Columns("a", "b")).rows == 1
    with pytest.raises(UserError, match="columns a, b"):
        look(source)


def test_duplicates_are_exact_up_to_white_space_and_near_up_to_names_and_literals(
    tmp_path: Path,
) -> None:
    found = look(
        coded(
            tmp_path / "a.jsonl",
            "def f(a, b):\n    return a + b * 2",
            "def f(a, b):\n  return a + b * 2\n",  # exact
            "def add(x, y):\n    return x + y * 31",  # near
            "def f(a, b):\n    return b + a * 2",  # another function
            "def f(a, b):\n    return a - b * 2",  # another function
        )
    )
    assert (found.exact_duplicates, found.near_duplicates) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("e-mail address", "# mail ann.b+c@example.co.uk"),
        ("IPv4 address", "host = '10.20.30.255'"),
        ("access key", "k = AKIAIOSFODNN7EXAMPLE"),
        ("access key", "ghp_" + "a1" * 18),
        ("private key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("secret assigned", 'DB_PASSWORD = "hunter22"'),
        ("secret assigned", '{"api_key": "abcdef123"}'),
        ("secret assigned", "$token => 'abcdef123'"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "code", "other"])
def test_signs_of_secrets_are_counted_by_row_in_any_column(
    kind: str, text: str, field: str, tmp_path: Path
) -> None:
    plain = {"prompt": "p", "code": "c", "other": ""}
    found = look(jsonl(tmp_path / "a.jsonl", plain, {**plain, field: f"{text}\n{text}"}))
    assert found.secrets == {kind: 1}
    assert text not in repr(found)


@pytest.mark.parametrize(
    "code",
    [
        "@property",
        "version 1.2.3 and 1.2.3.4.5 and 999.1.1.1",
        "host = '127.0.0.1'",
        "token = next(tokens)",
        "password = input('?')",
        "a @ b.c",
    ],
)
def test_ordinary_code_shows_no_secret(code: str, tmp_path: Path) -> None:
    assert look(coded(tmp_path / "a.jsonl", code)).secrets == {}


def test_a_long_line_without_spaces_does_not_hang_the_search(tmp_path: Path) -> None:
    began = time.monotonic()
    for text in ("a" * 50_000, "a." * 50_000, "1." * 50_000, "token" * 50_000, "a@" * 50_000):
        look(jsonl(tmp_path / "a.jsonl", {"prompt": "p", "code": "c", "lang": "py", "x": text}))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "def f(x):\n    if x:\n        return [y for y in x]\n"),
        ("java", "public class A { public static void main(String[] a) { int x = 1; } }"),
        ("javascript", "const f = (a) => { return a.map(x => x + 1); };"),
        ("typescript", "interface A { x: number }\nfunction f(a: A): string { return `${a.x}`; }"),
        ("cpp", "#include <iostream>\nint main() { std::cout << 1; return 0; }"),
        ("csharp", "using System;\nnamespace N { class A { public int P { get; set; } } }"),
        ("rust", 'fn main() { let mut x = vec![1]; println!("{}", x[0]); }'),
        ("php", "<?php\nfunction f($a) { foreach ($a as $x) { echo $x; } }"),
        ("go", "package main\nfunc f(x int) error { y := x; return nil }"),
        ("bash", 'if [ -z "$1" ]; then\n  echo usage; exit 1\nfi\nls | grep x'),
        ("swift", "func f(_ x: Int?) -> Int { guard let y = x else { return 0 }; return y }"),
        ("rust", "Here it is:\n```rs\nx = 1\n```\n"),
        (None, ") ) ) } } ] ] ;; ;; ) ) ) » « ) )"),
    ],
)
def test_the_language_is_what_a_fence_names_or_the_grammar_that_reads_it(
    language: str | None, code: str, tmp_path: Path
) -> None:
    assert guess_language(code) == language
    found = look(coded(tmp_path / "a.jsonl", code))
    assert found.languages == {language or "unknown": 1}
    assert found.languages_from == "sample"


@pytest.mark.parametrize(
    ("count", "rounded"),
    [
        *((0, 0), (1, 1), (57, 57), (99, 99), (100, 100), (104, 100), (105, 110), (995, 1000)),
        *((19_500, 20_000), (19_499, 19_000), (4535, 4500)),
    ],
)
def test_units_are_proposed_to_two_digits(count: int, rounded: int) -> None:
    assert two_digits(count) == rounded
    assert UnitColumn("a", count, 1).proposed_units == rounded


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_gpteacher_is_looked_at() -> None:
    found = look(str(DATA / "gpteacher-code-instruct.json.gz"))
    assert (found.rows, found.proposed_units) == (4535, 4500)
    assert found.guess == Columns("instruction", "response", input="input")
    assert next(iter(found.languages)) == "python"
    assert found.exact_duplicates > 0


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_mbpp_is_seen_to_be_python() -> None:
    found = look(str(DATA / "mbpp-sanitized.json"))
    assert found.guess == Columns("prompt", "code")
    assert set(found.languages) == {"python"}
