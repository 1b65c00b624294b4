import json
from pathlib import Path

import pytest

from privcode.data.prompts import read_prompts
from privcode.errors import UserError

DATA = Path(__file__).resolve().parents[2] / "../shared/data"


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prompts_are_read_in_order_without_exact_repeats(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", *({"prompt": text} for text in ("b", "a", "b", "b ", "a")))
    repeats: list[int] = []
    assert list(read_prompts(source, None, None, duplicates=repeats.append)) == ["b", "a", "b "]
    assert repeats == [2]


def test_the_limit_counts_distinct_prompts(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", *({"prompt": text} for text in "aabbcc"))
    assert list(read_prompts(source, None, 2)) == ["a", "b"]
    assert list(read_prompts(source, None, 9)) == ["a", "b", "c"]
    with pytest.raises(UserError, match="at least 1"):
        read_prompts(source, None, 0)


@pytest.mark.parametrize(
    ("row", "column", "prompt"),
    [
        ({"id": "x", "Problem": "p"}, None, "p"),
        ({"text": "t", "instruction": "i"}, None, "i"),
        ({"question": "q", "answer": "a"}, None, "q"),
        ({"prompt": "p", "other": "o"}, "other", "o"),
    ],
)
def test_the_column_is_the_one_named_or_the_first_that_is_known(
    row: dict[str, str], column: str | None, prompt: str, tmp_path: Path
) -> None:
    assert list(read_prompts(jsonl(tmp_path / "a.jsonl", row), column)) == [prompt]


def test_no_column_that_fits_says_how_many_there_are_and_which_would_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 2 columns has a usual name .*\(prompt, "):
        read_prompts(jsonl(tmp_path / "a.jsonl", {"id": "x", "code": "y"}))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": " "}, "empty"),
        ({"prompt": None}, "null"),
        ({"prompt": 1}, "int, not a string"),
        ({"text": "t"}, "missing"),
        ({"prompt": "\ud800"}, "broken Unicode"),
    ],
)
def test_an_unusable_prompt_is_refused_with_its_row(
    row: dict[str, object], reason: str, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"prompt": "p"}, row)
    with pytest.raises(UserError, match=f"a.jsonl, row 2, field prompt: {reason}; "):
        read_prompts(source)


def test_plain_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé a\r\nb\u2028c\nb".encode())
    assert list(read_prompts(str(path))) == ["é a", "b\u2028c", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "a.txt, row 2, field text: empty"),
        (b"a\n\xff\n", "a.txt, row 2: not valid UTF-8"),
        (b"", "a.txt: holds no prompt"),
        (None, "a.txt: cannot be read"),
    ],
)
def test_bad_plain_text_is_refused_with_its_row(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(path))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_mbpp_is_read() -> None:
    prompts = read_prompts(str(DATA / "mbpp-sanitized.json"))
    assert prompts[0].startswith("Write a function to find the shared elements")
    assert 400 < len(prompts) <= 427
