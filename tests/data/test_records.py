import csv
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privcode.data.columns import BadField, Columns, guess_columns
from privcode.data.reading import owner, read_records
from privcode.data.records import Record, Unit, bound_contributions, hold_out, stored
from privcode.data.rows import read_rows
from privcode.errors import UserError

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
ROWS = [
    {"prompt": "Add\ntwo, é", "code": 'def f(a, b):\n    return "a" + b\n', "lang": "py"},
    {"prompt": "Stop 𝔘", "code": "return;", "lang": "Java"},
    {"prompt": "Stop 𝔘", "code": "return;", "lang": "Java"},
]
COLUMNS = Columns("prompt", "code", "lang")


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_gzip(path: Path) -> None:
    plain = path.with_suffix("")
    FORMATS[plain.name](plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def write_folder(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))


def write_splits(path: Path) -> None:
    import datasets

    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(str(path))


def write_tsv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(ROWS)


def write_zst(path: Path) -> None:
    plain = path.with_suffix("")
    FORMATS[plain.name](plain)
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(plain.read_bytes())


def marked(encoding: str) -> Callable[[Path], None]:
    """Writes a file as it is, then in an encoding with a byte order mark."""

    def write(path: Path) -> None:
        {".jsonl": write_jsonl, ".json": write_json, ".csv": write_csv}[path.suffix](path)
        path.write_bytes(path.read_text("utf-8-sig").encode(encoding))

    return write


def write_shards(path: Path) -> None:
    path.mkdir()
    (path / "README.md").write_text("What this is.")
    for number, rows in enumerate((ROWS[:2], ROWS[2:])):
        shard = path / f"train-{number:05}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), shard)


def write_pattern(path: Path) -> None:
    (path.parent / "b-2.jsonl").write_text(json.dumps(ROWS[2]) + "\n")
    (path.parent / "b-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))


FORMATS: dict[str, Callable[[Path], None]] = {
    "a.json": write_json,
    "a.jsonl": write_jsonl,
    "A.JSONL": write_jsonl,
    "a.ndjson": write_jsonl,
    "a.json.gz": write_gzip,
    "a.jsonl.gz": write_gzip,
    "a.csv.gz": write_gzip,
    "a.json.zst": write_zst,
    "a.jsonl.zst": write_zst,
    "a.csv": write_csv,
    "a.b.csv": write_csv,
    "a.tsv": write_tsv,
    "mark.jsonl": marked("utf-8-sig"),
    "utf-16.jsonl": marked("utf-16"),
    "utf-32.jsonl": marked("utf-32"),
    "utf-16.json": marked("utf-16"),
    "utf-16.csv": marked("utf-16"),
    "a.parquet": write_parquet,
    "saved": write_folder,
    "splits": write_splits,
    "shards": write_shards,
    "shards:train": lambda path: write_shards(path.with_name("shards")),
    "b-?.jsonl": write_pattern,
}


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_in_order(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    assert list(read_rows(str(path))) == list(enumerate(ROWS, start=1))
    records, report = read_records(str(path), COLUMNS)
    assert [(r.prompt, r.completion, r.row) for r in records] == [
        (row["prompt"], row["code"], number) for number, row in enumerate(ROWS, start=1)
    ]
    assert (report.rows, report.kept, report.left_out) == (3, 3, {})
    assert report.languages == {"python": 1, "java": 2}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_text_of_any_arrow_type_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    columns = {
        name: pa.array([row[name] for row in ROWS]).cast(kind) for name in ("prompt", "code")
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = [(row["prompt"], row["code"]) for _, row in read_rows(str(tmp_path / "a.parquet"))]
    assert found == [(row["prompt"], row["code"]) for row in ROWS]


def test_a_split_of_a_saved_folder_is_chosen_by_name(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits")
    assert len(list(read_rows(f"{tmp_path}/splits:train"))) == 3
    with pytest.raises(UserError, match="no split test; choose one of train"):
        list(read_rows(f"{tmp_path}/splits:test"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl, row 2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n\n[1]\n', r"a\.jsonl, row 3: is a list"),
        ("a.jsonl", b'{"a": "\xff"}\n', r"a\.jsonl, row 1: not valid UTF-8"),
        ("a.jsonl", b"", r"a\.jsonl: holds no row"),
        ("a.jsonl", '{"a": "b"}\n'.encode("utf-16-le"), r"row 1: has zero bytes, as UTF-16"),
        ("a.json", '[{"a": "b"}]'.encode("utf-16-be"), r"a\.json: has zero bytes, as UTF-16"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), r"a\.csv, header: has zero bytes, as UTF-16"),
        ("a.jsonl", b'\xff\xfe{"a', r"a\.jsonl, after row 0: not valid UTF-8; re-encode"),
        (
            "a.jsonl",
            gzip.compress(b"{}", mtime=0),
            r"a\.jsonl: is packed with gzip; add \.gz to its name",
        ),
        ("a.csv", b"\xfd7zXZ\0", r"a\.csv: is packed with xz; unpack it first"),
        ("a.jsonl.zst", b"not zstd", r"a\.jsonl\.zst: is not packed with zstd; take \.zst off"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", r"a\.jsonl\.zst: cannot be read"),
        ("a.jsonl.bz2", b"BZh91AY&SY", r"a\.jsonl\.bz2: is packed; unpack it, and name"),
        ("a.parquet.gz", b"", r"a\.parquet\.gz: is packed; unpack it, and name"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', r"a\.json, line 2: begins a second .* name it \.jsonl"),
        ("a.json", b'{"a": [1], "b": [2]}', r"is not a list of objects; .*orient='records'"),
        ("a.csv", b"a;b\n1;2\n", r"a\.csv, header: its columns are separated by semicolons; write"),
        ("a.csv", b"a\tb\n1\t2\n", r"a\.csv, header: its columns .* tabs; name it \.tsv"),
        ("a.tsv", b"a,b\n1,2\n", r"a\.tsv, header: its columns .* commas; name it \.csv"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", r"a\.jsonl, row 1: not valid JSON"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz: is not packed with gzip; take \.gz off"),
        (
            "a.json.gz",
            gzip.compress(b"[{}]" * 9, mtime=0)[:-9],
            r"a\.json\.gz: cannot be read \(EOFError\)",
        ),
        ("a.json", b"[" * 100_000, r"a\.json: not valid JSON \(too long or too deep\)"),
        ("a.json", b'[{"a": 1, "a": 2}]', r"a\.json: not valid JSON \(a key comes twice"),
        ("a.jsonl", b'{"b": {"a": 1, "a": 2}}', r"a\.jsonl, row 1: .* \(a key comes twice"),
        ("a.csv", b"a,b,a\n1,2,3\n", r"a\.csv, header: columns 1 and 3 have the same name"),
        ("a.json", b'[{"a": 1},\n]', r"a\.json, line [12]: not valid JSON"),
        ("a.json", b'{"a": 1}', r"a\.json: is not a list of objects"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json, row 2: is a int"),
        ("a.json", b'["\xff"]', r"a\.json: not valid UTF-8"),
        ("a.json", b"[]", r"a\.json: holds no row"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv, row 2: has more fields"),
        ("a.csv", b'a,b\n1,"2', r"a\.csv, row 1: not valid CSV"),
        ("a.csv", b"a,b\n1,\xff\n", r"a\.csv, after row 0: not valid UTF-8"),
        ("a.csv", b"a,b\n", r"a\.csv: holds no row"),
        ("a.parquet", b"PAR1 but not really", r"a\.parquet: is not a readable Parquet file"),
        ("a.xlsx", b"", r"a\.xlsx: unknown kind of file; use \.jsonl"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_says_where(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_rows(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none", "sub/none.parquet", "saved:train"):
        with pytest.raises(UserError, match="no such file"):
            list(read_rows(str(tmp_path / name)))
    with pytest.raises(UserError, match="not a folder saved by datasets, and holds no file"):
        list(read_rows(str(tmp_path)))
    with pytest.raises(UserError, match="no file has such a name"):
        list(read_rows(str(tmp_path / "*.jsonl")))


def test_rows_under_one_key_of_a_json_object_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": "1", "data": ROWS}))
    assert [row for _, row in read_rows(str(path))] == ROWS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jsonl", "b.csv"], r"files of several kinds, or folders; .*/\*\.jsonl"),
        (["a.jsonl", "b.xlsx"], "files of several kinds"),
        (["a.jsonl", "more/"], "or folders"),
        (["train-0.jsonl", "test-0.jsonl"], r"the splits test, train; name one, as .*:train"),
    ],
)
def test_a_folder_of_which_a_part_would_be_left_out_is_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text('{"a": 1}\n')
    with pytest.raises(UserError, match=message):
        list(read_rows(str(tmp_path)))
    if "test-0.jsonl" in names:
        assert len(list(read_rows(f"{tmp_path}:train"))) == 1
    assert list(read_rows(f"{tmp_path}/*.jsonl"))


def test_tables_with_other_columns_are_not_one_source(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{SECRET},b\n1,2\n")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"b\.csv: has other columns than a\.csv") as caught:
        list(read_rows(str(tmp_path)))
    assert SECRET not in str(caught.value)
    (tmp_path / "a.csv").write_text("b,a\n1,2\n")
    assert [number for number, _ in read_rows(str(tmp_path))] == [1, 2]


def test_rows_of_all_shards_have_numbers_of_their_own(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"prompt": "p", "code": "c"}\n\n' * 2)
    records, _ = read_records(str(tmp_path), None)
    assert len({record.unit for record in records}) == 4


def test_a_mistyped_local_path_is_not_sent_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private").mkdir()
    for name in ("private/dta", "private/dta:train", "absent/data.jsonl", "absent/data.csv"):
        with pytest.raises(UserError, match="no such file"):
            list(read_rows(name))


def test_a_hub_that_cannot_be_reached_is_one_clear_line() -> None:
    program = (
        "from privcode.errors import UserError\nfrom privcode.data.rows import read_rows\n"
        "try: list(read_rows('no-such-owner/no-such-data:test'))\n"
        "except UserError as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(
        "no-such-owner/no-such-data, split test: cannot be loaded from the hub ("
    )
    assert result.stdout.count("\n") == 1


GOOD = {"prompt": "p", "code": "c", "lang": "py", "who": "ann", "extra": "e"}
SECRET = "SECRET-CONTENT"


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"prompt": None}, "prompt", "null"),
        ({"prompt": " \n\t"}, "prompt", "empty"),
        ({"prompt": [SECRET]}, "prompt", "list, not a string"),
        ({"code": None}, "code", "null"),
        ({"code": ""}, "code", "empty"),
        ({"code": 3}, "code", "int, not a string"),
        ({"code": SECRET + "\ud800"}, "code", "broken Unicode"),
        ({"prompt": SECRET + "\udfff"}, "prompt", "broken Unicode"),
        ({"lang": SECRET}, "lang", "unknown language"),
        ({"lang": None}, "lang", "null"),
        ({"who": None}, "who", "null"),
        ({"who": " "}, "who", "empty"),
        ({"who": True}, "who", "bool, not a string"),
        ({"who": [SECRET, "bob"]}, "who", "several owners"),
        ({"who": [["ann", "bob"]]}, "who", "several owners"),
        ({"who": [SECRET, None]}, "who", "null"),
        ({"who": []}, "who", "empty"),
        ({"who": {"name": SECRET}}, "who", "dict, not a string"),
        ({"who": f'["{SECRET}", "bob"]'}, "who", "a list written as text"),
        ({"extra": 7}, "extra", "int, not a string"),
    ],
)
def test_a_bad_row_names_file_row_and_field_and_never_its_content(
    change: dict[str, object], field: str, reason: str, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "data.jsonl", GOOD, {**GOOD, **change})
    columns = Columns("prompt", "code", "lang", "who", "extra")
    with pytest.raises(UserError) as caught:
        read_records(source, columns)
    message = str(caught.value)
    assert message.startswith(f"{source}, row 2, field {field}: {reason}; ")
    assert SECRET not in message
    records, report = read_records(source, columns, on_bad_row="skip")
    assert [record.row for record in records] == [1]
    assert report.left_out == {f"{field}: {reason}": 1}


@pytest.mark.parametrize("field", ["prompt", "code", "lang", "who", "extra"])
def test_a_missing_column_is_named(field: str, tmp_path: Path) -> None:
    row = {name: value for name, value in GOOD.items() if name != field}
    source = jsonl(tmp_path / "data.jsonl", row)
    columns = Columns("prompt", "code", "lang", "who", "extra")
    with pytest.raises(UserError, match=f"row 1, field {field}: missing; add it"):
        read_records(source, columns)


def test_a_file_of_bad_rows_only_is_refused_even_when_they_are_skipped(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "data.jsonl", {"prompt": "", "code": "c"})
    with pytest.raises(UserError, match=r"no row is left \(prompt: empty\)"):
        read_records(source, Columns("prompt", "code"), on_bad_row="skip")


def test_text_is_kept_as_it_is(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "data.jsonl", {"prompt": " p\r\n", "code": "\tc \n"})
    (record,), _ = read_records(source, Columns("prompt", "code"))
    assert record == Record(" p\r\n", "\tc \n", None, Unit("row", "row-1"), 1)


def test_the_input_column_is_appended_after_a_blank_line_when_not_empty(tmp_path: Path) -> None:
    inputs = ["i", "", None, "  "]
    rows = [{"prompt": "p", "code": "c", "input": value} for value in inputs]
    records, _ = read_records(
        jsonl(tmp_path / "data.jsonl", *rows), Columns("prompt", "code", input="input")
    )
    assert [record.prompt for record in records] == ["p\n\ni", "p", "p", "p"]


def test_without_a_unit_column_every_row_is_its_own_unit(tmp_path: Path) -> None:
    records, _ = read_records(jsonl(tmp_path / "a.jsonl", GOOD, GOOD), Columns("prompt", "code"))
    assert [record.unit for record in records] == [("row", "row-1"), ("row", "row-2")]


def test_a_unit_is_a_name_or_a_number(tmp_path: Path) -> None:
    rows = [{**GOOD, "who": who} for who in ("ann", " ann ", 7, "7")]
    columns = Columns("prompt", "code", unit="who")
    records, _ = read_records(jsonl(tmp_path / "a.jsonl", *rows), columns)
    assert [record.unit.name for record in records] == ["ann", "ann", "7", "7"]


def authors(*lists: list[str]) -> list[dict[str, object]]:
    return [{"prompt": "p", "code": f"c{n}", "who": who} for n, who in enumerate(lists)]


def write_lists(kind: str, path: Path, rows: list[dict[str, object]]) -> str:
    import datasets

    if kind == "jsonl":
        return jsonl(path, *rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
        return str(path.with_suffix(".parquet"))
    data = datasets.Dataset.from_list(rows)
    if kind != "saved":
        data = data.with_format(kind, columns=["who"], output_all_columns=True)
    data.save_to_disk(str(path.with_suffix("")))
    return str(path.with_suffix(""))


def test_spellings_of_an_owner_that_look_the_same_are_one_owner() -> None:
    spellings = (
        "Zo\u00eb K",
        "Zoe\u0308 K",
        " Zo\u00eb\u00a0 K ",
        "Zo\u200b\u00eb K\ufeff",
        "\uff3ao\u00eb K",
    )
    assert {owner({"by": name}, "by") for name in spellings} == {"Zo\u00eb K"}
    with pytest.raises(BadField, match="empty"):
        owner({"by": "\u200b \ufeff"}, "by")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "numpy", "pandas"])
def test_a_list_with_one_owner_names_it_and_one_with_several_is_refused_or_left_out(
    kind: str, tmp_path: Path
) -> None:
    columns = Columns("prompt", "code", unit="who")
    source = write_lists(kind, tmp_path / "a.jsonl", authors(["ann"], ["bob", "bob"], [" ann "]))
    assert [r.unit.name for r in read_records(source, columns)[0]] == ["ann", "bob", "ann"]
    source = write_lists(kind, tmp_path / "b.jsonl", authors(["ann"], ["ann", "bob"], ["bob"]))
    with pytest.raises(
        UserError, match=r"row 2, field who: several owners; .*on_bad_row"
    ) as caught:
        read_records(source, columns)
    assert "\n" not in str(caught.value)
    records, report = read_records(source, columns, on_bad_row="skip")
    assert [(r.unit.name, r.row) for r in records] == [("ann", 1), ("bob", 3)]
    assert report.left_out == {"who: several owners": 1}


def test_tuples_and_arrays_of_owners_are_read_like_lists() -> None:
    for one in (("ann",), np.array(["ann"]), np.array([["ann"]]), np.str_("ann"), np.array("ann")):
        assert owner({"who": one}, "who") == "ann"
    assert owner({"who": np.array([7])}, "who") == owner({"who": np.int64(7)}, "who") == "7"
    assert owner({"who": "dependabot[bot]"}, "who") == "dependabot[bot]"
    for several in (("ann", "bob"), np.array(["ann", "bob"]), (7, 8)):
        with pytest.raises(BadField, match="several owners"):
            owner({"who": several}, "who")


people = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(people, min_size=1, max_size=12), st.integers(1, 3), st.sampled_from("abcd"))
def test_without_one_owner_the_data_differ_in_at_most_that_owners_bound(
    lists: list[list[str]], bound: int, gone: str
) -> None:
    """The unit-level promise for columns of lists, rows with several owners left out."""

    def kept(rows: list[dict[str, object]]) -> list[tuple[Unit, str]]:
        records = []
        for number, row in enumerate(rows):
            try:
                unit = owner(row, "who")
            except BadField:
                continue
            records.append(Record("p", str(row["code"]), None, Unit("owner", unit), number))
        return [(r.unit, r.completion) for r in bound_contributions(stored(records), bound, 0)[0]]

    rows = authors(*lists)
    present, absent = kept(rows), kept([row for row in rows if gone not in row["who"]])  # type: ignore[operator]
    assert absent == [record for record in present if record[0].name != gone]
    assert len(present) - len(absent) <= bound


def test_one_language_may_be_given_for_all(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", GOOD)
    (record,), report = read_records(source, Columns("prompt", "code"), language="C++")
    assert record.language == "cpp"
    assert report.languages == {"cpp": 1}
    with pytest.raises(UserError, match="language cobol: not known"):
        read_records(source, Columns("prompt", "code"), language="cobol")


def test_rows_in_other_languages_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{**GOOD, "lang": name} for name in ("py", "julia", "C#", "python")]
    source = jsonl(tmp_path / "a.jsonl", *rows, {**GOOD, "lang": "julia", "code": None})
    records, report = read_records(source, COLUMNS, languages=["Python"])
    assert [record.row for record in records] == [1, 4]
    assert (report.rows, report.kept, report.left_out) == (5, 2, {"other language": 3})
    with pytest.raises(UserError, match="language julia: not known"):
        read_records(source, COLUMNS, languages=["julia"])


def test_rows_are_selected_by_a_text_in_prompt_or_code_whatever_its_case(tmp_path: Path) -> None:
    rows = [
        {**GOOD, "prompt": "a Python task"},
        {**GOOD, "code": "#!/usr/bin/env PYTHON"},
        {**GOOD, "prompt": "py", "code": "thon"},
    ]
    records, report = read_records(
        jsonl(tmp_path / "a.jsonl", *rows), Columns("prompt", "code"), contains="pYTHON"
    )
    assert [record.row for record in records] == [1, 2]
    assert report.left_out == {"not selected": 1}


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["lang", "problem", "solution"], Columns("problem", "solution", "lang")),
        (["Instruction", "input", "OUTPUT"], Columns("Instruction", "OUTPUT", input="input")),
        (["instruction", "input", "response"], Columns("instruction", "response", input="input")),
        (["task_id", "prompt", "code", "author"], Columns("prompt", "code")),
        (["question", "answer", "language"], Columns("question", "answer", "language")),
        (["input", "output"], Columns("input", "output")),
        (["prompt", "solution", "context"], None),
        (["prompt", "code", "input"], Columns("prompt", "code", input="input")),
        (
            ["Context", "instruction", "response"],
            Columns("instruction", "response", input="Context"),
        ),
        ([" prompt", "Code "], Columns(" prompt", "Code ")),
        (
            ["func_documentation_string", "whole_func_string", "language"],
            Columns("func_documentation_string", "whole_func_string", "language"),
        ),
        (
            ["old_contents", "new_contents", "subject", "message", "lang"],
            Columns("message", "new_contents", "lang", input="old_contents"),
        ),
        (
            ["fim_prefix", "fim_middle", "fim_suffix"],
            Columns("fim_prefix", "fim_middle", suffix="fim_suffix"),
        ),
        (["prefix", "middle", "input"], Columns("prefix", "middle", input="input")),
        (["prefix", "suffix", "middle", "input"], Columns("prefix", "middle", suffix="suffix")),
        (["id", "messages"], Columns("messages", "messages")),
    ],
)
def test_columns_are_guessed_from_their_names_but_never_the_unit(
    names: list[str], columns: Columns | None
) -> None:
    assert guess_columns(tuple(names)) == columns


def test_columns_are_guessed_row_by_row_so_that_no_row_decides_for_another(tmp_path: Path) -> None:
    both = {"instruction": "i", "output": "o", "prompt": "p", "completion": "c"}
    other = {"prompt": "q", "code": "d"}
    alone, _ = read_records(jsonl(tmp_path / "a.jsonl", both, both), None)
    after, _ = read_records(jsonl(tmp_path / "b.jsonl", other, both, both), None)
    assert [(r.prompt, r.completion) for r in alone] == [("i", "o")] * 2
    assert [(r.prompt, r.completion) for r in after] == [("q", "d"), ("i", "o"), ("i", "o")]
    odd = jsonl(tmp_path / "c.jsonl", {"text": "t"}, both)
    assert read_records(odd, None, on_bad_row="skip")[1].left_out == {
        "prompt and code: no known pair of columns": 1
    }


def test_columns_are_not_quoted_in_an_error_as_a_missing_header_is_a_record(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text("log in,login('hunter2')\nlog out,logout('hunter2')\n")
    for columns in (None, Columns("prompt", "code")):
        with pytest.raises(UserError, match=r"a\.csv, row 1, field prompt.*: ") as refused:
            read_records(str(tmp_path / "a.csv"), columns)
        assert "hunter2" not in str(refused.value)


def records_of(units: list[int]) -> list[Record]:
    return [
        Record("p", f"c{i % 5}", None, Unit("owner", f"u{u}"), i)
        for i, u in enumerate(units, start=1)
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=25), st.integers(1, 4), st.integers(0, 3))
def test_contributions_are_bounded_in_order_and_one_unit_does_not_move_another(
    units: list[int], bound: int, seed: int
) -> None:
    records = records_of(units)
    kept, dropped = bound_contributions(stored(records), bound, seed)
    assert len(kept) + dropped == len(records)
    assert [r.row for r in kept] == sorted(r.row for r in kept)
    sizes = Counter(r.unit for r in records)
    assert Counter(r.unit for r in kept) == {u: min(n, bound) for u, n in sizes.items()}
    # Without unit 0 the file is shorter, so the rows of the others have other numbers.
    fewer = [r for r in records if r.unit.name != "u0"]
    renumbered = [replace(r, row=number) for number, r in enumerate(fewer, start=1)]
    assert [r.completion for r in bound_contributions(stored(renumbered), bound, seed)[0]] == [
        r.completion for r in kept if r.unit.name != "u0"
    ]


def test_the_choice_of_records_follows_the_seed_and_is_not_by_position() -> None:
    records = stored(Record("p", f"c{i}", None, Unit("owner", "u"), i) for i in range(50))
    chosen = [tuple(r.row for r in bound_contributions(records, 10, seed)[0]) for seed in range(20)]
    assert chosen[0] == tuple(r.row for r in bound_contributions(records, 10, 0)[0])
    assert len(set(chosen)) == 20
    middle = sum(map(sum, chosen)) / 200
    assert 19 < middle < 30


def held_out(records: list[Record], share: float = 0.5, seed: int = 0) -> set[str]:
    return {record.prompt for record in hold_out(stored(records), share, seed)[1]}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(0, 5))
def test_units_are_held_out_whole_and_one_unit_does_not_move_another(
    units: list[int], gone: int
) -> None:
    records = records_of(units)
    trained, left_out = map(list, hold_out(stored(records), 0.5, seed=0))
    assert sorted([*trained, *left_out], key=lambda r: r.row) == records
    assert not {r.unit for r in trained} & {r.unit for r in left_out}
    rest = [record for record in records if record.unit.name != str(gone)]
    assert [list(part) for part in hold_out(stored(rest), 0.5, seed=0)] == [
        [record for record in trained if record in rest],
        [record for record in left_out if record in rest],
    ]


def test_whether_a_row_is_held_out_does_not_depend_on_its_number_or_on_its_neighbours() -> None:
    def rows(prompts: list[str]) -> list[Record]:  # as they are read when each row is a unit
        return [
            Record(p, "c", "python", Unit("row", f"row-{i}"), i)
            for i, p in enumerate(prompts, start=1)
        ]

    prompts = [f"task {i}" for i in range(100)]
    chosen = held_out(rows(prompts))
    assert held_out(rows(prompts[::-1])) == chosen
    for gone in range(0, 100, 9):
        rest = prompts[:gone] + prompts[gone + 1 :]
        assert held_out(rows(rest)) == chosen - {prompts[gone]}
    assert len(hold_out(stored(rows(["same"] * 50)), 0.5, seed=0)[1]) in (0, 50)


def test_about_the_asked_share_is_held_out_and_the_seed_chooses_which() -> None:
    records = [Record(f"task {i}", "c", None, Unit("owner", str(i)), i) for i in range(2000)]
    assert held_out(records, 0.0) == set()
    assert len(held_out(records, 1.0)) == 2000
    # Binomial: 200 ± 13.4, five standard deviations.
    assert 133 < len(held_out(records, 0.1)) < 267
    assert held_out(records, 0.1) != held_out(records, 0.1, seed=1)


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        bound_contributions(stored([]), 0, 1)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_gpteacher_is_read_and_its_python_rows_selected() -> None:
    source = str(DATA / "gpteacher-code-instruct.json.gz")
    _, first = next(read_rows(source))
    assert guess_columns(tuple(first)) is not None
    records, report = read_records(source, None, contains="python", language="python")
    assert report.rows == 4535
    assert len(records) == report.kept == report.rows - report.left_out["not selected"]
    assert 1241 <= report.kept < 1500
