import json
import time
from pathlib import Path

import pytest

from privcode.data.columns import Columns
from privcode.data.survey import Lengths, UnitColumn, guess_language, look
from privcode.errors import UserError

DATA = Path(__file__).resolve().parents[2] / "../shared/data"


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
    found = look(jsonl(tmp_path / "a.jsonl", *rows))
    assert found.rows == 4
    assert found.columns == ("commit", "lang", "problem", "repo_name", "solution")
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
    assert found.usable == 1


def test_the_columns_may_be_named(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"a": "x", "b": "y"})
    assert look(source, Columns("a", "b")).rows == 1
    with pytest.raises(UserError, match="its 2 columns have no usual pair"):
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
    assert (found.repeats.exact, found.repeats.near) == (1, 1)


SHARED = [
    ("ann", "def f(a):\n    return a + 1"),
    ("ann", "def g(b):\n    return b + 7"),
    ("bob", "def h(c):\n    return c + 2"),
    ("cyd", "mail = 'x@corp.example'; print(mail)"),
    ("cyd", "# X@corp.example wrote this\npass"),
    ("dan", "raise ValueError('x@corp.example')"),
    ("dan", "x = ['y@corp.example']"),
]


def test_repeats_are_counted_in_units_and_the_widest_of_each_kind_is_kept(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "code": code, "author": author} for author, code in SHARED]
    rows[0]["prompt"] = "for x@corp.example, password = 'hunter22'"
    source = jsonl(tmp_path / "a.jsonl", *rows)
    by_record, by_author = look(source).repeats, look(source, unit="author").repeats
    assert (by_record.exact, by_record.near) == (by_author.exact, by_author.near) == (0, 2)
    assert (by_record.widest_code, by_author.widest_code) == (3, 2)
    assert by_record.widest_secret == {"e-mail address": 4, "secret assigned": 1}
    assert by_author.widest_secret == {"e-mail address": 3, "secret assigned": 1}
    assert "corp" not in repr(look(source))
    unowned = {"prompt": "p", "code": "t = 'x@corp.example'", "author": None}
    source = jsonl(tmp_path / "a.jsonl", *rows, unowned)
    assert look(source, unit="author").repeats == by_author


def test_only_what_is_trained_on_counts_as_shared(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "code": f"f{'(' * n}", "email": "x@corp.example"} for n in range(3)]
    found = look(jsonl(tmp_path / "a.jsonl", *rows))
    assert (found.secrets, found.repeats.widest_secret) == ({}, {})
    rows = [{"instruction": "p", "input": f"x@corp.example {n}", "output": "c"} for n in range(3)]
    found = look(jsonl(tmp_path / "a.jsonl", *rows))
    assert found.repeats.widest_secret == {"e-mail address": 3}


def test_two_private_keys_are_two_secrets(tmp_path: Path) -> None:
    begin = "-----BEGIN RSA PRIVATE KEY-----"
    keys = [f"{begin}\nMIIEpAIBAAKCAQEA{letter * 40}" for letter in "aab"]
    escaped = [key.replace("\n", "\\n") for key in keys]
    for codes in (keys, escaped):
        assert look(coded(tmp_path / "a.jsonl", *codes)).repeats.widest_secret == {"private key": 2}


@pytest.mark.parametrize("name", ["authors", "repositories", "owner"])
def test_a_column_of_lists_is_a_unit_and_rows_with_several_owners_are_told(
    name: str, tmp_path: Path
) -> None:
    owners: list[object] = [["a"], ["a", "b"], ["b", "b"], "a", [], None, ["c", "a"]]
    rows = [{"prompt": "p", "code": "c", name: value} for value in owners]
    source = jsonl(tmp_path / "a.jsonl", *rows)
    assert look(source).unit_columns == (UnitColumn(name, distinct=2, max_rows=2, several=2),)
    found = look(source, unit=name)
    assert found.guess == Columns("prompt", "code", unit=name)
    assert found.unusable == {f"{name}: several owners": 2, f"{name}: empty": 1, f"{name}: null": 1}
    assert found.repeats.widest_code == 2


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("e-mail address", "# mail ann.b+c@example.co.uk"),
        ("IPv4 address", "host = '10.20.30.255'"),
        ("IPv6 address", "host = '2001:db8::1:5'"),
        ("access key", "k = AKIAIOSFODNN7EXAMPLE"),
        ("access key", "ghp_" + "a1" * 18),
        ("private key", "-----BEGIN RSA PRIVATE KEY-----"),
        ("secret assigned", 'DB_PASSWORD = "hunter22"'),
        ("secret assigned", '{"api_key": "abcdef123"}'),
        ("secret assigned", "$token => 'abcdef123'"),
        ("secret assigned", "# token: ak_0f3a9b12cd"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "input", "code", "other"])
def test_signs_of_secrets_are_counted_by_row_in_what_is_trained_on(
    kind: str, text: str, field: str, tmp_path: Path
) -> None:
    plain = {"prompt": "p", "input": "", "code": "c", "other": ""}
    found = look(jsonl(tmp_path / "a.jsonl", plain, {**plain, field: f"{text}\n{text}"}))
    assert found.secrets == ({} if field == "other" else {kind: 1})
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
        ("go", "```bash\ngo run .\n```\n```go\npackage main\n```\n"),
        ("bash", "```bash\nls\n```\n"),
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


@pytest.mark.parametrize("odd", ["lang", "input", "author"])
def test_a_field_that_one_row_in_three_has_is_no_column(odd: str, tmp_path: Path) -> None:
    rows = [{"instruction": f"p{n}", "output": "x = 1"} for n in range(3)]
    plain = look(jsonl(tmp_path / "plain.jsonl", *rows))
    rows[0] = {odd: "python", **rows[0]}
    found = look(jsonl(tmp_path / "odd.jsonl", *rows))
    assert (found.columns, found.guess) == (plain.columns, plain.guess)
    assert found.unit_columns == plain.unit_columns == ()
    rows[1] |= {odd: "python"}
    assert odd in look(jsonl(tmp_path / "two.jsonl", *rows)).columns


def test_a_column_that_names_an_owner_in_few_rows_is_not_proposed(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "code": "x = 1", "author": None} for n in range(3)]
    rows[0]["author"] = "ann"
    assert look(jsonl(tmp_path / "one.jsonl", *rows)).unit_columns == ()
    rows[1]["author"] = "ann"
    found = look(jsonl(tmp_path / "two.jsonl", *rows)).unit_columns
    assert found == (UnitColumn("author", distinct=1, max_rows=2),)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"text": "SECRET"}, "dict, not a string; name the text in it, as prompt.NAME"),
        (float("nan"), "NaN; fill it or drop the row"),
        (["SECRET"], "list, not a string; write it as text"),
    ],
)
def test_data_without_a_usable_row_are_refused_with_the_most_frequent_reason_and_its_remedy(
    value: object, words: str, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "a.jsonl", *[{"prompt": value, "code": "c"}] * 2, {"prompt": "p"})
    with pytest.raises(UserError, match=f"no row is usable; prompt: {words}") as caught:
        look(source, Columns("prompt", "code"))
    assert "SECRET" not in str(caught.value)


def test_any_column_that_is_chosen_is_the_unit(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "code": "c", "student": f"s{n % 3}", "meta": {"by": n}} for n in range(6)
    ]
    source = jsonl(tmp_path / "a.jsonl", *rows)
    assert look(source).unit_columns == ()
    assert look(source, unit="student").unit_columns == (UnitColumn("student", 3, 2),)
    assert look(source, unit="meta.by").unit_columns == (UnitColumn("meta.by", 6, 1),)
    with pytest.raises(UserError, match="no row has the column pupil; add it"):
        look(source, unit="pupil")


def test_a_column_that_is_typed_and_not_there_is_refused_with_its_near_name(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", *[{"Prompt ": "p", "code": "c", "SECRET": "s"}] * 2)
    with pytest.raises(
        UserError, match="no row has the column prompt; a column has this"
    ) as caught:
        look(source, Columns("prompt", "code"))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("named", [True, False])
def test_more_prompt_text_and_the_language_are_guessed_also_where_two_columns_are_named(
    named: bool, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"p{n}", "context": "t", "code": "c", "lang": "py", "k": 1} for n in range(4)
    ]
    source = jsonl(tmp_path / "a.jsonl", *rows)
    found = look(source, Columns("prompt", "code") if named else None)
    assert found.guess == Columns("prompt", "code", language="lang", input="context")
    assert (found.unused, found.alike) == ((), "")


def test_columns_with_text_that_nobody_reads_and_prompts_that_are_alike_are_told(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": "Fix.", "broken": f"b{n}", "code": "c", "n": n, "no": ""} for n in range(4)]
    rows[0]["rare"] = "x"
    found = look(jsonl(tmp_path / "a.jsonl", *rows))
    assert found.unused == ("broken",)
    assert found.alike.startswith("3 of 4 prompts are the same as an earlier one")
    chosen = look(jsonl(tmp_path / "a.jsonl", *rows), Columns("prompt", "code", input="broken"))
    assert (chosen.unused, chosen.alike) == ((), "")


def test_one_row_does_not_decide_what_belongs_to_the_prompt(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": "p", "context": "t", "code": "c"} for _ in range(5)]
    rows[2]["context"] = ["t"]
    assert look(jsonl(tmp_path / "a.jsonl", *rows)).guess.input == "context"
    lists = [{"prompt": "p", "context": ["t"], "code": "c"} for _ in range(5)]
    assert look(jsonl(tmp_path / "b.jsonl", *lists)).guess.input is None


def test_secrets_in_chats_are_counted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x@corp.example"}]
    found = look(jsonl(tmp_path / "a.jsonl", {"messages": turns}))
    assert found.guess == Columns("messages", "messages")
    assert found.secrets == {"e-mail address": 1}


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_gpteacher_is_looked_at() -> None:
    found = look(str(DATA / "gpteacher-code-instruct.json.gz"))
    assert (found.rows, found.usable) == (4535, 4535)
    assert found.guess == Columns("instruction", "response", input="input")
    assert next(iter(found.languages)) == "python"
    assert found.repeats.exact > 0


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_mbpp_is_seen_to_be_python() -> None:
    found = look(str(DATA / "mbpp-sanitized.json"))
    assert found.guess == Columns("prompt", "code")
    assert set(found.languages) == {"python"}
