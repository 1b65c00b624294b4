"""Inputs, outputs and surroundings that go wrong: one line and exit code 2, and nothing spoilt."""

import json
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from privcode.config import load_config
from privcode.config.yaml_file import read_yaml
from privcode.errors import UserError
from privcode.execution import execute_file, wrong_names
from privcode.files import read_json, read_jsonl, read_text, write_text
from privcode.inputs import open_regular
from privcode.scoring import load_tasks, read_samples

TASK = {
    "task_id": "T/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "test": "def check(c):\n    assert c(1) == 2\n",
    "canonical_solution": "    return x + 1\n",
}
CONFIG = """\
data: {source: private.jsonl}
privacy: {epsilon: 4, delta: 1.0e-3, units: 60, batch: 8, steps: 6}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
"""
SECRET = "hunter2 SELECT secret FROM customers"
"""Text of a record; no error may quote it."""


def files(folder: Path) -> Path:
    """One good file of each kind."""
    (folder / "programs.jsonl").write_text('{"id": 1, "code": "print(1)"}\n')
    (folder / "tasks.jsonl").write_text(json.dumps(TASK) + "\n")
    (folder / "samples.jsonl").write_text('{"task_id": "T/0", "completion": "    return 2\\n"}\n')
    (folder / "private.jsonl").write_text('{"prompt": "a", "code": "b"}\n')
    (folder / "prompts.jsonl").write_text('{"prompt": "c"}\n')
    (folder / "run.yaml").write_text(CONFIG)
    return folder


def special(folder: Path, kind: str) -> Path:
    """Something at a path that is no regular file."""
    path = folder / f"special-{kind}.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(folder)
            made.bind(path.name)
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        node(path)
    elif kind == "link to a device":
        node(folder / "zero")
        path.symlink_to(folder / "zero")
    elif kind == "link to nothing":
        path.symlink_to(folder / "nothing")
    elif kind == "loop":
        path.symlink_to(path)
    return path


def node(path: Path) -> None:
    """An endless device of our own: with a fault in what is tested, the machine's would be lost."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can make a device")


KINDS = ("pipe", "socket", "device", "folder", "link to a device", "link to nothing", "loop")
READERS = {
    "text": read_text,
    "JSON": read_json,
    "JSON Lines": lambda path: list(read_jsonl(path)),
    "config": load_config,
    "opened": open_regular,
    "tasks": load_tasks,
    "samples": read_samples,
    "programs": lambda path: execute_file(path, path.parent / "out.jsonl"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, reader: str, kind: str) -> None:
    path = special(tmp_path, kind)
    with pytest.raises(UserError, match=r"special-.*: (is|cannot|no|holds)") as caught:
        READERS[reader](path)
    assert len(str(caught.value)) <= 500
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = special(tmp_path, kind)
    before = path.lstat()
    (tmp_path / "programs.jsonl").write_text('{"id": 1, "code": "print(1)"}\n')
    with pytest.raises(UserError, match=r"not a regular file|leads nowhere"):
        write_text(path, "x")
    with pytest.raises(UserError, match="choose another --out"):
        execute_file(tmp_path / "programs.jsonl", path)
    after = path.lstat()
    assert (stat.S_IFMT(after.st_mode), after.st_ino) == (
        stat.S_IFMT(before.st_mode),
        before.st_ino,
    )
    assert {p.suffix for p in tmp_path.iterdir()} <= {".jsonl", ""}  # no temporary file
    if kind == "link to a device":
        assert stat.S_ISCHR((tmp_path / "zero").stat().st_mode)


def test_a_link_to_a_regular_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")


def test_a_line_without_end_does_not_fill_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(256 << 20)  # a file of zeros that takes no space
    with pytest.raises(UserError, match="row 1: is longer than 64 MB"):
        list(read_jsonl(path))


BAD_ROWS = {
    "NaN": '{"id": 1, "code": "print(1)", "score": NaN}',
    "infinite": '{"id": 1, "code": "print(1)", "score": [1e999]}',
    "key twice": '{"id": 1, "code": "1", "code": "2"}',
    "files clash": '{"id": 1, "code": "1", "files": {"a": "x", "a/b": "y"}}',
    "files dot": '{"id": 1, "code": "1", "files": {".": "x"}}',
    "files dots": '{"id": 1, "code": "1", "files": {"a/../../b": "x"}}',
    "files slash": '{"id": 1, "code": "1", "files": {"./x/": "x"}}',
    "files long": json.dumps({"id": 1, "code": "1", "files": {"a" * 300: "x"}}),
    "files NUL": r'{"id": 1, "code": "1", "files": {"a\u0000b": "x"}}',
    "files program": '{"id": 1, "code": "1", "files": {"program.py": "x"}}',
    "files list": '{"id": 1, "code": "1", "files": ["x"]}',
    "boolean id": '{"id": true, "code": "1"}',
    "list": "[1]",
    "deep": '{"id": 1, "code": "1", "x": ' + "[" * 5000 + "]" * 5000 + "}",
    "long number": '{"id": 1, "code": "1", "x": ' + "9" * 5000 + "}",
}


HALVES = {
    "code": r'{"id": 1, "code": "x = \"\ud800\""}',
    "a field": r'{"id": 1, "code": "1", "more": {"a": "\udcff"}}',
    "a name": r'{"id": 1, "code": "1", "\udcff": 1}',
    "stdin": r'{"id": 1, "code": "1", "stdin": "\ud800"}',
    "id": r'{"id": "\ud800", "code": "1"}',
    "language": r'{"id": 1, "code": "1", "language": "\ud800"}',
    "files": r'{"id": 1, "code": "1", "files": {"a\udcff": "x"}}',
}


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("good", [0, 2])
def test_half_a_surrogate_pair_ends_its_own_row_alone(tmp_path: Path, kind: str, good: int) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [json.dumps({"id": n, "code": f"print({n})"}) for n in range(good)]
    bad = HALVES[kind]
    source.write_text("\n".join([bad, *rows[:1], bad, *rows[1:], bad]) + "\n")
    counted: list[int] = []
    facts = execute_file(
        source, out, bar=lambda title, total: nullcontext(lambda done: counted.append(done))
    )
    found = [json.loads(line) for line in out.read_bytes().decode().splitlines()]
    halves = [row for row in found if row["error"]]
    assert [row["stdout"] for row in found if not row["error"]] == [f"{n}\n" for n in range(good)]
    assert [(row["status"], row["error"]) for row in halves] == [
        ("error", "has half a surrogate pair")
    ] * 3
    assert json.loads(bad).items() <= halves[0].items()
    assert (sum(counted), facts["status"]["error"]) == (good + 3, 3)


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_before_the_first_program_runs(tmp_path: Path, kind: str) -> None:
    mark, source, out = tmp_path / "ran", tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    first = {"id": 0, "code": f"open({str(mark)!r}, 'w')"}
    source.write_text(f"{json.dumps(first)}\n{BAD_ROWS[kind]}\n")
    asked: list[int] = []
    with pytest.raises(UserError, match=r"in\.jsonl, row 2"):
        execute_file(source, out, bar=lambda title, total: asked.append(total))  # type: ignore
    assert not asked  # the bar comes with the first program
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_first_bad_row_is_named_and_how_many_more_there_are(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    good, bad = '{"id": 1, "code": "1"}\n', '{"id": 1, "code": 1}\n'
    source.write_text(good + bad + good + bad * 3)
    with pytest.raises(UserError, match=r"row 2, field code: is a int.* \(and 3 more bad rows"):
        execute_file(source, tmp_path / "out.jsonl")


def test_rows_may_share_an_id_and_keep_their_place(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'{{"id": 1, "code": "print({n})"}}\n' for n in range(3)))
    execute_file(source, out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["stdout"] for row in rows] == ["0\n", "1\n", "2\n"]


@pytest.mark.parametrize(
    ("language", "name"),
    [("python", "program.py"), ("c++", "program"), ("java", "classes/A.class"), ("java", "B.java")],
)
def test_the_names_of_the_program_are_its_own(language: str, name: str) -> None:
    code = "public class B { public static void main(String[] a) {} }"
    assert "program itself" in wrong_names([name], language, code)
    assert not wrong_names(["data/words.txt", "helper.h"], language, code)


def test_what_a_judged_class_is_called_cannot_spoil_the_results(tmp_path: Path) -> None:
    from privcode.execution import Outcome
    from privcode.scoring import Cases, Task, verdict

    task = Task("T", "def f(x):\n", "f", "", format="humaneval+", cases=Cases([[1]], [[2]], 0))
    for stdout, error in (
        (json.dumps({"base": ["fail", 0, "\ud800"], "plus": ["fail", 0, ""]}), "?"),
        (json.dumps({"base": ["fail", 5, "x"], "plus": ["fail", 0, ""]}), "NoVerdict"),
        (json.dumps({"base": ["pass"], "plus": 1}), "NoVerdict"),
        ('{"base": ', "NoVerdict"),
    ):
        found = verdict(task, Outcome("T", "ok", 0, 0.1, stdout, "", ""))
        assert (found.passed, found.error) == (False, error)


BAD_TASKS = {
    "surrogate": TASK | {"test": "\ud800"},
    "arguments": {
        **TASK, "base_input": [[1]], "plus_input": [3], "atol": 0,
    },
    "arguments of its function": {
        **{k: v for k, v in TASK.items() if k != "test"},
        "task_id": "Mbpp/115", "base_input": [[]], "plus_input": [], "atol": 0,
    },
    "number": {
        **{k: v for k, v in TASK.items() if k != "test"},
        "task_id": "Mbpp/x", "base_input": [[]], "plus_input": [], "atol": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TASKS)
def test_a_bad_task_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(BAD_TASKS[kind]) + "\n")
    with pytest.raises(UserError, match=r"t\.jsonl, row 1, field"):
        load_tasks(tmp_path / "t.jsonl")


BAD_YAML = {
    "a: 1\na: 2": "line 2: field a comes twice",
    "x: {y: [{b: 1, b: 2}]}": "line 1: field b comes twice",
    f"{SECRET}: 1\n{SECRET}: 2": "line 2: comes twice",
    "a: &a {x: 1}\nb: {<<: *a, <<: *a}": "line 2: comes twice",
    "a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: [*a, *b]}": "merges a key from two places",
    "a: &a [*a]": "refers to itself",
    "a: " + "[" * 1000: "nested too deeply",
    "a: " + "[" * 3000 + "]" * 3000: "nested too deeply",
    "a: !!int abc": "does not fit its type",
    "a: " + "9" * 5000: "does not fit its type",
    "a: !!python/object/apply:os.system [x]": "has a tag",
    "a: !!timestamp 2020-01-01": "has a tag",
    "a: \0": "character that YAML does not allow",
    "a:\n\tb: 1": "line 2: has a tab",
    "a: 1\n---\nb: 2": "second document",
    "a: *x": "alias",
    "? [a]\n: 1": "as a key",
    "a: [&a [x,x,x,x,x,x,x,x,x,x], "
    + ", ".join(
        f"&{y} [{','.join(['*' + x] * 10)}]" for x, y in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]": "too many values",
    "x: 1\n" * 60_000: "larger than",
}


@pytest.mark.parametrize("number", range(len(BAD_YAML)))
def test_yaml_that_says_two_things_or_never_ends_is_refused(tmp_path: Path, number: int) -> None:
    text, words = list(BAD_YAML.items())[number]
    (tmp_path / "a.yaml").write_text(text)
    begin = time.process_time()
    with pytest.raises(UserError, match=words) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert SECRET not in str(caught.value)
    assert time.process_time() - begin < 5


def test_a_date_is_text_and_a_merge_may_be_overridden(tmp_path: Path) -> None:
    text = "b: &b {x: 1, y: 2020-01-01}\nc: &c {<<: *b, x: 3}\nd: {<<: *c}\ne: {<<: *c, z: 1}"
    (tmp_path / "a.yaml").write_text(text)
    c = {"x": 3, "y": "2020-01-01"}
    assert read_yaml(tmp_path / "a.yaml") == {"b": c | {"x": 1}, "c": c, "d": c, "e": c | {"z": 1}}


BAD_NUMBERS = [
    (field, value)
    for field in (
        "privacy.units", "privacy.steps", "privacy.batch", "junior.max_tokens", "junior.lora.r",
        "sanitize.micro_batch", "sanitize.seed", "synthesize.samples_per_prompt",
        "synthesize.max_new_tokens", "boost.epochs", "validate.execution.memory_mb",
        "evaluate.samples", "audit.coin_canaries", "audit.candidates", "compare.parallel",
    )
    for value in ("1" + "0" * 400, "true", "-1", ".nan", "1.5", "[]", "abc", ".inf")
] + [
    (field, value)
    for field in (
        "sanitize.learning_rate", "boost.learning_rate", "synthesize.temperature",
        "validate.execution.cpu_seconds", "validate.surest", "synthesize.top_p", "privacy.delta",
        "privacy.clip_norm", "validate.round_trip.threshold", "sanitize.syntax.lambda_max",
    )
    for value in ("1" + "0" * 400, "true", ".nan", ".inf", "[]", "abc")
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD_NUMBERS)
def test_a_number_that_is_none_or_too_large_names_its_field(field: str, value: str) -> None:
    from privcode.config import parse_config, with_settings

    values = {
        "data": {"source": "private.jsonl"},
        "privacy": {"delta": 1e-3, "units": 60, "batch": 8},
        "prompts": {"source": "public", "file": "prompts.jsonl"},
        "junior": {"model": "bundled:junior"},
        "premium": {"model": "bundled:premium"},
    }
    import yaml

    with pytest.raises(UserError, match=field.replace(".", r"\.")) as caught:
        with_settings(parse_config(values), {field: yaml.safe_load(value)}, "config")
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("premium:", "evaluate: {tasks: [{name: ../x, file: t}]}\npremium:", "names a file"),
        ("premium:", "evaluate: {k: [2]}\npremium:", "k: is more than samples"),
        ("private.jsonl", r'"a\0b"', "not the name of a file"),
        ("premium:", "extends: loop.yaml\npremium:", "too many levels|Too many levels"),
        ("premium:", 'extends: "a\\0b"\npremium:', "field extends: must be the name"),
        ("premium:", "extends: run.yaml\npremium:", "extends this file in turn"),
        ("data:", f"{SECRET}: 1\ndata:", "is not a setting"),
    ],
)
def test_a_config_that_cannot_work_is_one_line(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "run.yaml").write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(UserError, match=words) as caught:
        load_config(tmp_path / "run.yaml")
    assert SECRET not in str(caught.value)


def test_no_error_quotes_a_header_that_may_be_a_record(tmp_path: Path) -> None:
    from privcode.config.proposal import draft
    from privcode.data.prompts import read_prompts
    from privcode.data.survey import look

    contents = {
        "a.csv": f'"{SECRET}","def f(): 1"\n"a","b"\n',
        "b.csv": f'"{SECRET}","{SECRET}"\n"a","b"\n',
        "c.csv": f'prompt,code\n"{SECRET}","{SECRET}"x\n',
        "d.csv": f'prompt,code\n"{SECRET}","{SECRET}","{SECRET}"\n',
        "e.jsonl": json.dumps({SECRET: "x"}) + "\n",
        "f.jsonl": f'{{"{SECRET}": 1, "{SECRET}": 2}}\n',
        "g.json": f'[{{"{SECRET}": 1, "{SECRET}": 2}}]\n',
        "h.jsonl": f'{{"prompt": "{SECRET}" "{SECRET}"}}\n',
        "i.jsonl.gz": SECRET,
        "j.parquet": SECRET,
        "k.jsonl": f'{{"prompt": ["{SECRET}"], "code": 1}}\n',
    }

    def drafted(source: str) -> str:
        return draft(look(source), source, tmp_path / "x.yaml")

    for name, content in contents.items():
        source = str(tmp_path / name)
        Path(source).write_text(content)
        for read in (drafted, read_prompts, load_tasks):
            with pytest.raises(UserError) as caught:
                read(source)
            assert "hunter2" not in str(caught.value), (name, read)


def test_lines_are_short_and_printable() -> None:
    line = str(UserError("a" * 10_000 + " " + "\x1b[31m" + " b" * 10_000))
    assert len(line) <= 500
    assert line.isprintable()


# What surrounds the command, in processes of their own: `privcode --help` and `execute` are quick.

HERE = [sys.executable, "-m", "privcode"]


def shell(
    command: str, folder: Path, *, limit: tuple[int, int] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    words = " ".join(HERE)
    return subprocess.run(
        ["bash", "-c", command.replace("privcode", words, 1)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
        preexec_fn=(lambda: resource.setrlimit(limit[0], (limit[1],) * 2)) if limit else None,
    )


EXECUTE = "privcode execute programs.jsonl -o out.jsonl"
SURROUNDINGS: Sequence[tuple[str, dict[str, str], int, str]] = [
    (f"{EXECUTE} >&-", {}, 0, ""),
    (f"{EXECUTE} 2>&-", {}, 0, ""),
    (f"{EXECUTE} <&- >&- 2>&-", {}, 0, ""),
    (f"{EXECUTE} >/dev/full", {}, 2, "standard output: cannot be written (No space left"),
    (f"{EXECUTE} 2>/dev/full", {}, 0, ""),
    ("privcode execute programs.jsonl -o - >&-", {}, 2, "standard output: is closed"),
    ("privcode execute programs.jsonl -o - | true; exit ${PIPESTATUS[0]}", {}, 1, ""),
    (EXECUTE, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, 0, ""),
    (EXECUTE, {"COLUMNS": "x", "TERMINAL_WIDTH": "x", "TERM": "dumb"}, 0, ""),
    (EXECUTE, {"RANK": "x"}, 0, ""),
    (EXECUTE, {"WORLD_SIZE": "x"}, 2, "WORLD_SIZE: is x, not a whole number"),
    (EXECUTE, {"WORLD_SIZE": "2", "RANK": "x"}, 2, "runs in one process"),
    (EXECUTE, {"HOME": "/proc/nothing", "TMPDIR": "/proc/nothing"}, 0, ""),
    (f"umask 077; {EXECUTE} --sandbox bubblewrap", {}, 0, ""),
    (f"umask 077; {EXECUTE} --sandbox namespaces", {}, 0, ""),
    (f"umask 077; {EXECUTE} --sandbox landlock", {}, 0, ""),
    (f"ulimit -n 24; {EXECUTE}", {}, 0, ""),
    (f"ulimit -n 12; {EXECUTE}", {}, 2, "Too many open files"),
    (f"cd $(mktemp -d); rmdir $PWD; {EXECUTE}", {}, 2, "the current folder no longer exists"),
    (EXECUTE, {"HF_HOME": "/proc/nothing"}, 0, ""),
    ("privcode nosuch", {}, 2, "privcode: No such command 'nosuch'; see "),
    ("privcode account --help", {"PYTHONIOENCODING": "ascii"}, 0, ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "environment", "code", "words"), SURROUNDINGS)
def test_odd_surroundings_are_one_line_or_do_no_harm(
    tmp_path: Path, command: str, environment: dict[str, str], code: int, words: str
) -> None:
    done = shell(command, files(tmp_path), **environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert words in done.stderr
    if code == 0 and "-o" in command:
        assert json.loads((tmp_path / "out.jsonl").read_text())["stdout"] == "1\n"


@pytest.mark.slow
def test_results_on_standard_output_are_all_that_is_there(tmp_path: Path) -> None:
    done = shell("privcode execute programs.jsonl -o - --json", files(tmp_path))
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["ok"]
    assert json.loads(done.stderr.splitlines()[-1])["programs"] == 1
    assert not (tmp_path / "-").exists()


@pytest.mark.slow
def test_a_full_disk_is_told_in_words_and_leaves_nothing(tmp_path: Path) -> None:
    row = {"id": 1, "code": "print('x' * 4000)"}
    (files(tmp_path) / "programs.jsonl").write_text(f"{json.dumps(row)}\n" * 40)
    before = {path.name for path in tmp_path.iterdir()}
    done = shell(EXECUTE, tmp_path, limit=(resource.RLIMIT_FSIZE, 100_000))
    assert done.returncode == 2
    assert "out.jsonl: cannot be written (File too large); free space" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == before
