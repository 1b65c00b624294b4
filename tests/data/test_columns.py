"""What a row says: prompts and answers in one column, in several, in nested ones, in chats."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from privcode.data.columns import Columns
from privcode.data.prompts import read_prompts
from privcode.data.reading import read_records
from privcode.errors import UserError
from privcode.syntax import GAP

SECRET = "SECRET-CONTENT"
ROLES = {
    "messages": ("role", "content", "user", "assistant"),
    "conversations": ("from", "value", "human", "gpt"),
}


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chat(*turns: tuple[str, object], column: str = "messages") -> dict[str, object]:
    role, text, user, assistant = ROLES[column]
    names = {"user": user, "assistant": assistant}
    return {column: [{role: names.get(who, who), text: said} for who, said in turns]}


ASKED = (("user", "Add."), ("assistant", "x + 1"))


@pytest.mark.parametrize("column", ROLES)
def test_a_chat_of_one_question_and_its_answer_is_a_pair(column: str, tmp_path: Path) -> None:
    rows = [chat(*ASKED, column=column), chat(("system", "Be short."), *ASKED, column=column)]
    source = jsonl(tmp_path / "a.jsonl", *rows)
    for columns in (None, Columns(column, column)):
        records, _ = read_records(source, columns)
        pairs = [(record.prompt, record.completion) for record in records]
        assert pairs == [("Add.", "x + 1"), ("Be short.\n\nAdd.", "x + 1")]
    assert list(read_prompts(source)) == ["Add.", "Be short.\n\nAdd."]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_prompts(str(tmp_path / "a.parquet"))) == ["Add.", "Be short.\n\nAdd."]


def test_a_prompts_file_of_chats_needs_no_answer(tmp_path: Path) -> None:
    assert list(read_prompts(jsonl(tmp_path / "a.jsonl", chat(("user", "Add."))))) == ["Add."]


CALLS = chat(("user", "a"), ("assistant", "b"))
CALLS["messages"][1]["tool_calls"] = [SECRET]  # type: ignore[index]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(*ASKED, *ASKED), "several turns"),
        (chat(("assistant", SECRET), ("user", "a")), "several turns"),
        (chat(("user", SECRET)), "no turn of the assistant"),
        (chat(("user", "a"), ("tool", SECRET)), "a turn of neither system, user nor assistant"),
        (chat(("user", "a"), ("assistant", None)), "null"),
        (chat(("user", " "), ("assistant", SECRET)), "empty"),
        (chat(("user", "a"), ("assistant", [{"text": SECRET}])), "list, not a string"),
        ({"messages": []}, "list, not a string"),
        ({"messages": SECRET}, "not a list of turns"),
        (CALLS, "tool calls"),
    ],
)
def test_a_chat_that_is_no_pair_is_a_bad_row(
    row: dict[str, object], reason: str, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "a.jsonl", chat(*ASKED), row)
    with pytest.raises(UserError, match=f"row 2, field messages: {reason}; ") as caught:
        read_records(source, None)
    assert SECRET not in str(caught.value)
    records, report = read_records(source, None, on_bad_row="skip")
    assert (len(records), report.left_out) == (1, {f"messages: {reason}": 1})


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("prefix", "suffix", "middle"), Columns("prefix", "middle", suffix="suffix")),
        (
            ("fim_prefix", "fim_suffix", "fim_middle"),
            Columns("fim_prefix", "fim_middle", suffix="fim_suffix"),
        ),
    ],
)
def test_the_text_around_a_gap_is_one_prompt(
    names: tuple[str, str, str], columns: Columns, tmp_path: Path
) -> None:
    around = [("def f(x):\n    ", "\n"), ("", "x"), ("x", ""), (None, "y")]
    rows = [dict(zip(names, (a, b, "return x"), strict=True)) for a, b in around]
    source = jsonl(tmp_path / "a.jsonl", *rows)
    expected = [f"{a or ''}{GAP}{b or ''}" for a, b in around]
    for chosen in (None, columns):
        records, _ = read_records(source, chosen)
        assert [record.prompt for record in records] == expected
        assert {record.completion for record in records} == {"return x"}
    assert list(read_prompts(source)) == expected
    assert list(read_prompts(source, names[0], suffix=names[1])) == expected


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"prefix": f"{SECRET} {GAP}", "suffix": "b"}, "prefix", f"holds {GAP}"),
        ({"prefix": "a", "suffix": GAP + SECRET}, "suffix", f"holds {GAP}"),
        ({"prefix": "", "suffix": " "}, "prefix", "empty"),
        ({"prefix": 1, "suffix": SECRET}, "prefix", "int, not a string"),
    ],
)
def test_a_gap_that_cannot_be_found_again_is_a_bad_row(
    row: dict[str, object], field: str, reason: str, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "a.jsonl", {**row, "middle": "c"})
    for read in (lambda: read_records(source, None), lambda: read_prompts(source)):
        with pytest.raises(UserError, match=f"row 1, field {field}: {reason}; ") as caught:
            read()
        assert SECRET not in str(caught.value)


def test_a_marker_in_a_prompt_of_one_column_is_text(tmp_path: Path) -> None:
    row = {"prompt": f"a{GAP}b", "code": "c"}
    records, _ = read_records(jsonl(tmp_path / "a.jsonl", row), None)
    assert records[0].prompt == f"a{GAP}b"


def test_a_field_of_a_nested_column_is_named_with_a_dot(tmp_path: Path) -> None:
    rows = [{"task": {"text": "p", "by": "ann"}, "code": "c"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    columns = Columns("task.text", "code", unit="task.by")
    for source in (str(tmp_path / "a.parquet"), jsonl(tmp_path / "a.jsonl", *rows)):
        (record,), _ = read_records(source, columns)
        assert (record.prompt, record.unit.name) == ("p", "ann")
        assert list(read_prompts(source, "task.text")) == ["p"]
        with pytest.raises(UserError, match=r"field task: dict, .*; name the text .* task\."):
            read_records(source, Columns("task", "code"))
        with pytest.raises(UserError, match=r"field task\.no: missing"):
            read_records(source, Columns("task.no", "code"))


def test_a_column_with_a_dot_in_its_name_is_itself(tmp_path: Path) -> None:
    row = {"a.b": "p", "a": {"b": "other"}, "code": "c"}
    (record,), _ = read_records(jsonl(tmp_path / "a.jsonl", row), Columns("a.b", "code"))
    assert record.prompt == "p"


def test_a_name_with_blanks_is_guessed_and_if_typed_without_them_is_explained(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text("prompt, Code\np,c\n")
    source = str(tmp_path / "a.csv")
    (record,), _ = read_records(source, None)
    assert (record.prompt, record.completion) == ("p", "c")
    with pytest.raises(UserError, match=r"field Code: missing; a column has this name with blanks"):
        read_records(source, Columns("prompt", "Code"))


@pytest.mark.parametrize("value", [float("nan"), None, "", "  "])
def test_an_extra_prompt_column_may_be_blank(value: object, tmp_path: Path) -> None:
    row = {"instruction": "p", "context": value, "response": "c"}
    (record,), _ = read_records(jsonl(tmp_path / "a.jsonl", row), None)
    assert record.prompt == "p"
    with pytest.raises(UserError, match=r"field context: (NaN|null|empty); fill it or drop"):
        read_records(jsonl(tmp_path / "a.jsonl", row), Columns("context", "response"))


PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "p", "input": "i", "output": ""}, "p\n\ni"),
    ({"instruction": "p", "input": "", "output": ""}, "p"),
    ({"instruction": "p", "context": "i"}, "p\n\ni"),
    ({"question": "p", "starter_code": "i"}, "p\n\ni"),
    ({"message": "p", "old_contents": "i"}, "p\n\ni"),
    ({"prompt": "p", "input": ["i"]}, "p"),
]


@pytest.mark.parametrize(("row", "prompt"), PROMPTS)
def test_prompts_take_in_the_columns_that_belong_to_them(
    row: dict[str, Any], prompt: str, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "a.jsonl", row)
    assert list(read_prompts(source)) == [prompt]
    (name, _), (extra, *_) = next(iter(row.items())), [n for n in row if n != next(iter(row))]
    assert list(read_prompts(source, name)) == ["p"]
    if isinstance(row[extra], str):
        assert list(read_prompts(source, name, input=extra)) == [prompt]


def test_rows_of_text_around_a_gap_do_not_shift_the_columns_of_others(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "code": "c"}, {"prefix": "a", "suffix": "b", "middle": "c"}]
    records, _ = read_records(jsonl(tmp_path / "a.jsonl", *rows), None)
    assert [record.prompt for record in records] == ["p", f"a{GAP}b"]


@pytest.mark.parametrize("name", ["a.md", "a.yaml", "a.docx"])
def test_a_prompts_file_of_another_kind_says_what_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("Add.")
    with pytest.raises(UserError, match=r"write one prompt a line into a \.txt file, or rows into"):
        read_prompts(str(tmp_path / name))


def test_prompts_in_a_text_file_may_have_a_mark_be_packed_or_in_capitals(tmp_path: Path) -> None:
    import gzip

    text = "é a\nb\n"
    contents = {
        "a.TXT": text.encode("utf-8-sig"),
        "b.txt": text.encode("utf-16"),
        "c.txt.gz": gzip.compress(text.encode()),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert list(read_prompts(str(tmp_path / name))) == ["é a", "b"]
