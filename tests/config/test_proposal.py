"""The config that `privcode init` writes, and what it tells the owner."""

import csv
import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from privcode.config import Config, load_config, parse_config, plan_of
from privcode.config.commented import CHANGE_ME
from privcode.config.proposal import (
    _NOTES,
    declared,
    draft,
    proposed_plan,
    rounded_down,
    shared,
    summary,
)
from privcode.console import epsilon_text
from privcode.data.columns import Columns
from privcode.data.repeats import Repeats
from privcode.data.survey import Findings, Lengths, UnitColumn, look
from privcode.errors import UserError
from privcode.exercises.corpus import tasks
from privcode.files import write_jsonl, write_text
from privcode.languages import LANGUAGES
from privcode.models import context_length, load_model, load_tokenizer
from privcode.pipeline.private import private_records
from privcode.privacy import make_plan

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
OUT = Path("privcode.yaml")
CODE = "def f(x):\n    return [y for y in x if y]\n"

# Every figure is a number that occurs nowhere else.
FINDINGS = Findings(
    rows=17_389,
    columns=("prompt", "code", "author"),
    guess=Columns("prompt", "code"),
    unusable={"code: null": 29, "prompt: empty": 13},
    languages={"python": 197, "unknown": 3},
    languages_from="sample",
    prompt_chars=Lengths(median=181, p90=283, max=2_903),
    code_chars=Lengths(median=331, p90=487, max=40_961),
    repeats=Repeats(59, 263, widest_code=47, widest_secret={"e-mail address": 37, "access key": 1}),
    secrets={"e-mail address": 71, "access key": 19},
    unit_columns=(UnitColumn("author", distinct=3_347, max_rows=83, several=211),),
)

PRIVATE = [
    17_389,
    29,
    13,
    197,
    181,
    283,
    2_903,
    331,
    487,
    40_961,
    59,
    263,
    71,
    19,
    3_347,
    83,
    47,
    37,
    211,
]


PLAN = make_plan(epsilon=None, noise_multiplier=0.5, delta=1e-6, units=10_000, batch=100, steps=10)


def text(
    findings: Findings = FINDINGS,
    source: str = "owner/data",
    *,
    unit: str | None = None,
    **options: Any,
) -> str:
    if unit:
        findings = replace(findings, guess=replace(findings.guess, unit=unit))
    return draft(findings, source, OUT, **options)


def filled(written: str) -> Config:
    """The config once its owner has decided what only they can."""
    values = yaml.safe_load(written)
    values["prompts"] = {"source": "public", "file": "prompts.txt"}
    return parse_config(values)


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def write_json_gz(path: Path, rows: list[dict[str, str]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(rows, file)


def rows(prompt: str, code: str, **more: str) -> list[dict[str, str]]:
    return [
        {prompt: f"Write {n}.", code: CODE, **{k: v.format(n % 7) for k, v in more.items()}}
        for n in range(123)
    ]


@pytest.mark.parametrize(
    ("name", "write", "data", "unit"),
    [
        ("a.jsonl", write_jsonl, rows("problem", "solution"), None),
        ("a.csv", write_csv, rows("instruction", "output", input="{}"), None),
        ("a.parquet", write_parquet, rows("Prompt", "Completion", lang="PYTHON"), None),
        ("a.json.gz", write_json_gz, rows("instruction", "response", repo="r{}"), None),
        ("b.jsonl", write_jsonl, rows("problem", "solution", author="a{}"), "author"),
    ],
)
def test_the_draft_with_prompts_loads_and_reads_the_data_from_any_directory(
    name: str,
    write: Any,
    data: list[dict[str, str]],
    unit: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    write(Path(name), data)
    write_text(Path("prompts.txt"), "Add.\nSubtract.\n")
    out = tmp_path / "privcode.yaml"
    write_text(out, draft(look(name, unit=unit), name, out, units=120, prompts=Path("prompts.txt")))

    monkeypatch.chdir(tmp_path / "else")
    config = load_config(out)
    assert Path(config.prompts.file).read_text() == "Add.\nSubtract.\n"
    records, counts, _ = private_records(config)
    assert (counts["kept"], len(records)) == (123, 70 if unit else 123)
    assert {record.language for record in records} == {"python"}
    assert len({record.unit for record in records}) == (7 if unit else 123)
    noise = {"epsilon": None, "noise_multiplier": 1.0}
    plan = plan_of(config.model_copy(update={"privacy": config.privacy.model_copy(update=noise)}))
    assert (plan.units, plan.owner_column) == (120, "author" if unit else None)


def fields(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, field) of every field, from pydantic alone."""
    for name, field in section.model_fields.items():
        here = f"{path}{field.alias or name}"
        yield here, field
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind, f"{here}.")


def paths(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from paths(item, path)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}{key}"
            yield from paths(inner, f"{path}{key}.")


def task_file(folder: Path) -> Path:
    task = {"task_id": "t/0", "prompt": "p", "entry_point": "f", "test": "def check(f): pass"}
    write_jsonl(folder / "HumanEval.jsonl", [task])
    return folder / "HumanEval.jsonl"


def test_every_setting_is_in_the_draft_at_its_place_and_uncommenting_it_keeps_it_valid(
    tmp_path: Path,
) -> None:
    uncommented = re.sub(r"(?m)^(\s*)# (\w+: null)\b", r"\1\2", text(tasks=[task_file(tmp_path)]))
    values = yaml.safe_load(uncommented)
    assert sorted(set(paths(values))) == sorted(path for path, _ in fields(Config))
    assert filled(uncommented).evaluate.tasks[0].name == "HumanEval"


def test_without_tasks_the_draft_shows_how_one_is_written() -> None:
    shown = re.search(r"(?m)^  tasks: \[\].*\n((  #.*\n)+)", text())
    assert shown
    template = re.sub(r"(?m)^  # ", "", shown[1])
    ((item,),) = [yaml.safe_load(re.sub(r"# (\w+: null)", r"\1", template))]
    task = next(field for path, field in fields(Config) if path == "evaluate.tasks")
    assert list(item) == list(get_args(task.annotation)[0].model_fields)
    assert item["name"] == CHANGE_ME


def test_every_setting_and_section_is_described_in_its_own_words() -> None:
    written = text()
    for path, field in fields(Config):
        words = f".*# {re.escape(field.description)}" if field.description else ""
        assert re.search(rf"(?m)^.*\b{path.rpartition('.')[2]}:{words}", written), path
    for section in {type(v) for v in filled(written).__dict__.values() if isinstance(v, BaseModel)}:
        assert f"# {section.__doc__}\n" in written


def test_what_the_data_do_not_decide_is_at_its_default() -> None:
    config = filled(text())
    for name in ("sanitize", "synthesize", "validate_", "boost", "evaluate", "audit"):
        field = Config.model_fields[name]
        assert getattr(config, name) == field.get_default(call_default_factory=True)
    for name in ("epsilon", "steps", "clip_norm", "noise", "max_records_per_unit", "unit"):
        field = type(config.privacy).model_fields[name]
        assert getattr(config.privacy, name) == field.default


def counted(units: int) -> Findings:
    """Data of so many records."""
    return replace(FINDINGS, rows=units, unusable={})


def test_all_notes_appear_and_the_models_are_called_toys_beside_the_papers() -> None:
    written = text()
    for line in (line for note in _NOTES.values() for line in note.splitlines()):
        assert f"# {line}\n" in written
    for line in ("Qwen/Qwen2.5-Coder-1.5B.\n  model: bundled:junior", "7B.\n  model: bundled:prem"):
        assert line in written


def test_no_figure_of_the_data_is_in_the_draft() -> None:
    written = text(unit="author") + text()
    numbers = set(map(int, re.findall(r"\d+", written.replace(",", "").replace("_", ""))))
    assert not numbers & set(PRIVATE)
    assert {10_000, 2_000} <= numbers


def test_the_summary_has_the_figures_and_says_what_weakens_the_guarantee() -> None:
    said = summary(FINDINGS, PLAN)
    for figure in [17_389, 17_347, *PRIVATE[1:]]:
        assert re.search(rf"(?<![\d,]){figure:,}(?!,?\d)", said), figure
    for word in (
        "data.on_bad_row",
        "e-mail address occurs in 37 records",
        "--unit author",
        "yours",
    ):
        assert word in said
    clean = replace(
        FINDINGS,
        unusable={},
        secrets={},
        repeats=Repeats(0, 0, 1, {}),
        unit_columns=(),
    )
    assert "!" not in summary(clean, PLAN)
    assert "fewer than 1,000 units" in summary(replace(clean, rows=990), PLAN)
    long = replace(clean, code_chars=Lengths(median=331, p90=4_870, max=40_961))
    assert "longer than max_tokens, 1,024" in summary(long, PLAN)
    assert "data.language" in summary(replace(clean, languages={"python": 5, "go": 5}), PLAN)
    named = replace(clean, guess=Columns("prompt", "code", "lang"), languages_from="column")
    said = summary(replace(named, languages={"python": 5, "julia": 7}), PLAN)
    assert "left out (data.languages): julia 7" in said


def test_what_several_units_share_is_told_with_the_figure_of_their_number() -> None:
    one, many = (epsilon_text(e, 3) for e in (PLAN.cost().epsilon, PLAN.group_epsilon(37)))
    said = summary(FINDINGS, PLAN)
    mail = "! the same e-mail address occurs in 37 records"
    assert f"{mail}: protected at ε = {many}, not {one}\n" in said
    assert "access key stands" not in said
    assert "several owners in 211 rows" in said
    by_owner = replace(PLAN, owner_column="author")
    assert "occurs in 47 owners" in "".join(shared(FINDINGS.repeats, by_owner))
    assert "ε = more than 1000" in "".join(shared(Repeats(0, 0, 9_000, {}), PLAN))
    assert not list(shared(FINDINGS.repeats, replace(PLAN, noise_multiplier=0.0)))


def test_the_summary_reckons_with_the_plan_of_the_draft() -> None:
    found = replace(FINDINGS, guess=replace(FINDINGS.guess, unit="author"))
    assert proposed_plan(found) == plan_of(filled(text(found)))


def test_the_summary_gives_the_terminal_no_commands_and_no_endless_list() -> None:
    odd = {f"\x1b[2J{n}": 1 for n in range(30)}
    said = summary(replace(FINDINGS, languages=odd), PLAN)
    assert "\x1b" not in said
    assert "22 more kinds" in said
    assert all(line.isprintable() for line in said.split("\n"))


@pytest.mark.parametrize(
    ("units", "delta", "batch"),
    [
        (4_500, 2.2e-5, 256),
        (1_000, 1e-4, 250),
        (16_000, 6.2e-6, 256),
        (970_000, 1.0e-7, 256),
        (30, 3.3e-3, 7),
        (1, 0.1, 1),
    ],
)
def test_delta_is_a_tenth_of_one_over_units_rounded_down_and_the_batch_suits_the_units(
    units: int, delta: float, batch: int
) -> None:
    for found in (FINDINGS, counted(60)):  # whatever the data are
        written = text(found, units=units)
        privacy = filled(written).privacy
        assert (privacy.units, privacy.delta, privacy.batch) == (units, delta, batch)
        assert privacy.delta <= 1 / (10 * units)
        assert "# As you typed it. Published.\n  units: " in written


@pytest.mark.parametrize(
    ("count", "step"),
    [
        *((0, None), (57, None), (999, None), (1_000, 1_000), (1_999, 1_000), (2_000, 2_000)),
        *((4_999, 2_000), (5_000, 5_000), (16_449, 10_000), (19_999, 10_000), (64_000, 50_000)),
    ],
)
def test_a_count_is_rounded_down_to_one_of_three_steps_in_a_factor_of_ten_and_hidden_below_1000(
    count: int, step: int | None
) -> None:
    assert rounded_down(count) == step


FEW = (1, 2, 56, 57, 99, 100, 104, 105, 320, 949, 950, 999)


def test_below_1000_units_the_owner_types_their_number_and_no_count_shows(tmp_path: Path) -> None:
    (written,) = {text(counted(units)) for units in FEW}  # the same for all
    privacy = yaml.safe_load(written)["privacy"]
    assert {privacy[name] for name in ("units", "delta", "batch")} == {CHANGE_ME}
    assert "# Type a number that you are willing to publish" in written
    assert {declared(counted(units)) for units in FEW} == {None}
    write_text(tmp_path / "privcode.yaml", written)
    with pytest.raises(UserError, match=r"field privacy\.delta: is CHANGE_ME, where only you"):
        load_config(tmp_path / "privcode.yaml")
    for wrong in (0, -5):
        with pytest.raises(UserError, match="--units: is"):
            text(units=wrong)


def test_between_two_steps_the_count_does_not_show() -> None:
    for counts in ((1_000, 1_001, 1_999), (10_000, 16_449, 16_450, 19_999), (50_000, 99_999)):
        (written,) = {text(counted(units)) for units in counts}
        assert f"units: {counts[0]} " in written
        assert "rounded down" in written


def test_no_length_of_a_record_shows_in_the_draft() -> None:
    lengths = (Lengths(0, 0, 0), Lengths(100, 700, 900), Lengths(2_000, 9_000, 90_000))
    (written,) = {text(replace(FINDINGS, prompt_chars=a, code_chars=a)) for a in lengths}
    config = filled(written)
    for section in (config.junior, config.premium):
        assert section.max_tokens == 1024
        assert section.max_tokens <= context_length(load_model(section.model).config)


def test_without_public_prompts_the_junior_writes_them(tmp_path: Path) -> None:
    write_text(tmp_path / "privcode.yaml", text(units=120))
    prompts = load_config(tmp_path / "privcode.yaml").prompts
    assert (prompts.source, prompts.limit, prompts.file) == ("synthesised", 4000, None)


def test_who_fills_gaps_names_a_file_of_public_code_with_gaps(tmp_path: Path) -> None:
    guess = replace(FINDINGS.guess, suffix="after")
    written = draft(replace(FINDINGS, guess=guess), "d.jsonl", tmp_path / "privcode.yaml")
    assert yaml.safe_load(written)["prompts"]["source"] == CHANGE_ME
    write_text(tmp_path / "privcode.yaml", written)
    with pytest.raises(UserError, match=r"field prompts\.source: .*'public'"):
        load_config(tmp_path / "privcode.yaml")


def test_the_owner_is_the_unit_only_if_asked_for() -> None:
    config = filled(text())
    assert config.privacy.unit == "record"
    assert config.data.columns
    assert config.data.columns.unit is None
    assert "Perhaps author:" in text()
    config = filled(text(unit="author"))
    assert (config.privacy.unit, config.privacy.units) == ("column", 2_000)
    assert config.privacy.max_records_per_unit > 1
    assert config.data.columns
    assert config.data.columns.unit == "author"
    with pytest.raises(UserError, match=r"unit code: not among the 1 columns"):
        text(unit="code")


@pytest.mark.parametrize(
    ("languages", "language"),
    [
        ({"python": 90, "go": 10}, "python"),
        ({"python": 89, "go": 11}, None),
        ({"unknown": 99, "go": 1}, None),
        ({}, None),
    ],
)
def test_the_language_is_named_where_nearly_all_code_is_in_it(
    languages: dict[str, int], language: str | None
) -> None:
    data = filled(text(replace(FINDINGS, languages=languages))).data
    assert (data.language, data.languages) == (language, None)


def test_rows_in_other_languages_are_left_out_and_not_counted_as_units() -> None:
    found = replace(
        FINDINGS,
        guess=Columns("prompt", "code", "lang"),
        languages={"python": 12_345, "julia": 4_000},
        languages_from="column",
        unusable={},
        rows=16_345,
    )
    config = filled(text(found))
    assert config.data.language is None
    assert config.data.languages == list(LANGUAGES)
    assert config.privacy.units == 10_000
    for others in ({}, {"julia": 1}):  # one record in another language switches nothing
        other = replace(found, languages={"python": 12_345} | others, rows=12_345 + len(others))
        assert text(other) == text(found)


@pytest.mark.parametrize(
    "name",
    [
        "a b.jsonl",
        'it\'s "quoted".jsonl',
        "#1 # not a comment.jsonl",
        "a: b.jsonl",
        "é 漢字 😀\u2028\x85.jsonl",
        "- {a}: [b], *c &d !e %f @g `h.jsonl",
        "line\nbreak\t.jsonl",
        "null.jsonl",
        os.fsdecode(b"latin\xe9.jsonl"),
        " lead and trail .jsonl",
    ],
)
def test_odd_names_of_data_prompts_and_tasks_survive(name: str, tmp_path: Path) -> None:
    source, prompts = tmp_path / name, tmp_path / "public" / name
    for path in (source, prompts):
        write_jsonl(path, rows("prompt", "code"))
    tasks = task_file(tmp_path).rename(tmp_path / f"tasks {name}")
    out = tmp_path / "privcode.yaml"
    written = draft(look(str(source)), str(source), out, units=100, prompts=prompts, tasks=[tasks])
    write_text(out, written)
    config = load_config(out)
    assert Path(config.data.source) == source.resolve()
    assert Path(config.prompts.file) == prompts.resolve()
    assert Path(config.evaluate.tasks[0].file) == tasks.resolve()
    assert config.evaluate.samples == 1


names = st.text(min_size=1)


@settings(max_examples=50, deadline=None)
@given(prompt=names, code=names, unit=names)
def test_any_column_names_survive(prompt: str, code: str, unit: str) -> None:
    found = replace(
        FINDINGS, guess=Columns(prompt, code), unit_columns=(UnitColumn(unit, 3_347, 83),)
    )
    columns = filled(text(found, unit=unit)).data.columns
    assert columns
    assert (columns.prompt, columns.code, columns.unit) == (prompt, code, unit)
    columns = filled(text(found)).data.columns  # the name is in a comment
    assert columns
    assert columns.unit is None


def test_names_near_the_config_are_relative_and_others_absolute(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for folder in ("home/runs", "home/data", "far"):
        (tmp_path / folder).mkdir(parents=True)
    stored = tmp_path / "far" / "0123abcd"
    write_jsonl(stored, rows("prompt", "code"))

    def source(name: Path) -> str:
        name.unlink(missing_ok=True)
        name.symlink_to(stored)  # a link keeps its name: its ending tells what it is
        return str(
            yaml.safe_load(draft(FINDINGS, str(name), home / "runs/p.yaml"))["data"]["source"]
        )

    assert source(home / "runs/a.jsonl") == "a.jsonl"
    assert source(home / "data/a.jsonl") == "../data/a.jsonl"
    assert source(tmp_path / "far/a.jsonl") == str((tmp_path / "far").resolve() / "a.jsonl")


def test_hub_names_stay_and_folders_with_a_split_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    for name, kept in [
        ("owner/data", "owner/data"),
        ("owner/data:test", "owner/data:test"),
        ("saved:test", f"{(tmp_path / 'saved').resolve()}:test"),
        ("saved", "saved"),
    ]:
        assert yaml.safe_load(text(source=name))["data"]["source"] == kept


@pytest.mark.parametrize("source", ["data", "data/*.jsonl", "data:train"])
def test_a_folder_or_a_pattern_of_files_is_found_from_the_config(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "[home]"
    for folder in ("data", "else"):
        (home / folder).mkdir(parents=True)
    for number in range(2):
        write_jsonl(home / "data" / f"train-{number}.jsonl", rows("prompt", "code"))
    write_text(home / "p.txt", "Add.\n")
    monkeypatch.chdir(home)
    out = home / "privcode.yaml"
    write_text(out, draft(look(source), source, out, units=120, prompts=Path("p.txt")))
    written = out.read_text()
    by_hand = re.sub(r"(?m)^  source: (?!public).*$", f'  source: "{source}"', written, count=1)
    monkeypatch.chdir(home / "else")
    for text_of_config in (written, by_hand):
        out.write_text(text_of_config)
        assert private_records(load_config(out))[1]["kept"] == 246
    public = by_hand.replace("file: p.txt", "file: data/train-0.jsonl")
    assert public != by_hand
    out.write_text(public)
    with pytest.raises(UserError, match=r"prompts\.file: is the private data"):
        load_config(out)


def test_the_summary_tells_what_is_not_read_and_how_many_prompts_there_are(tmp_path: Path) -> None:
    said = summary(replace(FINDINGS, unused=("body",), alike="many are alike"), PLAN)
    assert "not used    body\n" in said
    assert "! many are alike" in said
    source = [{"instruction": "Fix.", "input": f"g{n}", "output": ""} for n in range(12)]
    write_jsonl(tmp_path / "p.jsonl", [*source, source[0]])
    assert "12 prompts; rows that repeat one: 1" in summary(FINDINGS, PLAN, tmp_path / "p.jsonl")


def test_a_gap_has_no_more_prompt_text() -> None:
    values = yaml.safe_load(text())
    values["prompts"] = {"source": "public", "file": "p.txt", "input": "a", "suffix": "b"}
    with pytest.raises(UserError, match=r"field prompts: input: a prompt with a suffix has no"):
        parse_config(values)


def test_what_cannot_work_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row is usable \(code: null, prompt: empty\)"):
        text(replace(FINDINGS, rows=42))
    with pytest.raises(UserError, match=r"missing\.txt"):
        text(prompts=tmp_path / "missing.txt")
    write_jsonl(tmp_path / "tasks.jsonl", [{"task_id": "t/0"}])
    with pytest.raises(UserError, match=r"tasks\.jsonl, row 1"):
        text(tasks=[tmp_path / "tasks.jsonl"])


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_real_data_prompts_and_tasks_give_a_config_that_is_ready_to_run(tmp_path: Path) -> None:
    source = str(DATA / "gpteacher-code-instruct.json.gz")
    out = tmp_path / "privcode.yaml"
    prompts, tasks = DATA / "mbpp-sanitized.json", DATA / "HumanEval.jsonl.gz"
    write_text(out, draft(look(source), source, out, prompts=prompts, tasks=[tasks]))
    config = load_config(out)
    assert len(private_records(config)[0]) == 4535
    assert (config.privacy.units, config.privacy.delta) == (2000, 5e-5)
    assert config.evaluate.tasks[0].name == "HumanEval"
    assert "4535" not in out.read_text()


def saved_tokenizer(folder: Path, chat: str | None) -> str:
    tokenizer = load_tokenizer("bundled:junior")
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_chat_is_proposed_where_the_tokenizer_has_a_chat_template(tmp_path: Path) -> None:
    chats = saved_tokenizer(tmp_path / "chats", "{{ messages[0]['content'] }}")
    writes = saved_tokenizer(tmp_path / "writes", None)
    config = filled(text(models=(chats, writes)))
    assert (config.junior.model, config.junior.template) == (chats, "chat")
    assert (config.premium.model, config.premium.template) == (writes, config.premium.template)
    assert "{prompt}" in config.premium.template
    assert "A toy that comes with privcode" not in text(models=(chats, writes))
    assert "A toy that comes with privcode" in text()


def test_gaps_in_the_prompts_are_to_be_filled(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prefix": "a = ", "suffix": "b"}\n')
    write_jsonl(tmp_path / "tasks.jsonl", tasks(1, seed=1))
    options: dict[str, Any] = {"prompts": tmp_path / "prompts.jsonl"}
    config = filled(text(tasks=[tmp_path / "tasks.jsonl"], **options))
    assert {config.junior.template, config.premium.template} == {"fim"}
    assert config.validate_.round_trip.method == "off"
    assert [task.mode for task in config.evaluate.tasks] == ["complete"]


def test_a_model_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tokenizer .*/none: cannot be loaded"):
        text(models=(str(tmp_path / "none"), "bundled:premium"))
