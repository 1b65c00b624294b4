"""The command `privcode collect`: what it shows, what it leaves, and what `init` makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from privcode.config import load_config
from privcode.console import NOT_SHOWN
from privcode.data.collect import Collected, Options, collect, collecting, sources
from privcode.data.collect.sources import File
from privcode.data.columns import Columns
from privcode.data.reading import read_records
from privcode.machine import cores
from tests.helpers.commands import privcode, refused
from tests.helpers.repositories import ANN, BOB, commit, function

COLUMNS = ["prompt", "completion", "repository", "path", "author", "language", "licence", "date"]
COLUMNS += ["secrets"]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A repository of two people in two languages."""
    commit(tmp_path / "app", {f"a{n}.py": function(f"ann{n}") for n in range(3)}, ANN)
    shell = "# Prints the words.\nshow() {\n  echo $1\n}\n"
    commit(tmp_path / "app", {"b.sh": shell, "c.py": "def f():\n    return 1\n"}, BOB)
    return tmp_path / "app"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A plain folder with more files than are read in one process."""
    (tmp_path / "many").mkdir()
    for n in range(collecting._ALONE + 10):
        (tmp_path / "many" / f"f{n:03}.py").write_text(function(f"many{n}"))
    return tmp_path / "many"


def test_a_record_has_these_columns(app: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    code, _, _ = privcode("collect", app, "-o", out)
    assert code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(list(row) == COLUMNS for row in rows)
    assert rows[3] == {
        "prompt": "Write a Bash function.\n\nSignature:\nshow()\n\nDescription:\nPrints the words.",
        "completion": "show() {\n  echo $1\n}",
        "repository": "app",
        "path": "b.sh",
        "author": "bob@example.org",
        "language": "bash",
        "licence": "unknown",
        "date": "2001-09-09T01:46:40+00:00",
        "secrets": [],
    }


def test_without_a_terminal_no_figure_is_shown(app: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    code, stdout, stderr = privcode("collect", app, "-o", out)
    assert code == 0
    assert stderr == f"{NOT_SHOWN}\n"
    assert stdout == (f"records {out}\nnext    privcode init {out} --unit author\n")


def test_the_owners_terminal_shows_a_summary_that_says_it_is_private(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privcode.console.at_terminal", lambda: True)
    _, _, stderr = privcode("collect", app, "-o", tmp_path / "records.jsonl")
    assert stderr[stderr.index("files ") :] == (
        "files       5 with code\n"
        "records     4\n"
        "units       author 2, repository 1\n"
        "languages   python 3, bash 1\n"
        "left out    definition without documentation 1\n"
        "duplicates  0 in one unit, left out; 0 near across units, left out\n"
        "secrets     none\n"
        "These figures were not computed under the guarantee: keep them to yourself.\n"
    )


def test_json_holds_no_figure_of_the_private_code(app: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    _, stdout, stderr = privcode("collect", app, "-o", out, "--unit", "repository", "--json")
    facts = json.loads(stdout)
    assert set(facts) == {"out", "next"}
    assert "only at a terminal" in stderr


def test_records_go_to_standard_output_and_nothing_else_does(app: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "privcode", "collect", app, "-o", "-"],
        capture_output=True,
        check=True,
    )
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == [
        "a0.py",
        "a1.py",
        "a2.py",
        "b.sh",
    ]


@pytest.mark.parametrize(
    ("unit", "units"),
    [("author", ["ann@example.org"] * 3 + ["bob@example.org"]), ("repository", ["app"] * 4)],
)
def test_init_guesses_the_columns_and_takes_the_unit(
    app: Path, tmp_path: Path, unit: str, units: list[str]
) -> None:
    out, config = tmp_path / "records.jsonl", tmp_path / "privcode.yaml"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Write a function."}\n')
    privcode("collect", app, "-o", out, "--unit", unit)
    given = ("--prompts", prompts, "--unit", unit, "--units", "1000", "-o", config)
    code, _, stderr = privcode("init", out, *given)
    assert code == 0, stderr
    columns = yaml.safe_load(config.read_text())["data"]["columns"]
    assert columns == {
        "prompt": "prompt",
        "code": "completion",
        "language": "language",
        "unit": unit,
    }
    assert load_config(config).privacy.unit == "column"
    records, _ = read_records(str(out), Columns("prompt", "completion", "language", unit))
    assert [record.unit.name for record in records] == units


def test_the_same_code_gives_the_same_bytes(app: Path, many: Path, tmp_path: Path) -> None:
    made = []
    for paths, workers in (((app, many), 1), ((many, app), 1), ((app, many), 2), ((app, many), 3)):
        out = tmp_path / f"{len(made)}.jsonl"
        done = collect(paths, out, workers=workers)
        made.append((out.read_bytes(), vars(done)))
    assert made[0][1]["records"] > 70
    assert all(one == made[0] for one in made)


class Counted(list[File]):
    """A list that knows how many of its items were asked for."""

    asked = 0

    def __iter__(self) -> Iterator[File]:
        for item in super().__iter__():
            self.asked += 1
            yield item


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 8)])
def test_files_are_read_as_the_rows_are_written(many: Path, workers: int, ahead: int) -> None:
    done = Collected()
    (source,) = sources.find([many])
    files = Counted(sources.files(source, (), done.skipped))
    rows = collecting._rows(files, Options(), done, workers, lambda _: None)
    for number in range(1, 4):
        next(rows)
        assert files.asked <= number + ahead
    rows.close()
    assert files.asked < 20


def _started(many: Path, out: Path) -> "subprocess.Popen[bytes]":
    """A collection that has begun to write."""
    slow = function("slow", lines=900)
    for n in range(400):
        (many / f"s{n:03}.py").write_text(slow.replace("slow", f"slow{n}"))
    process = subprocess.Popen(
        [sys.executable, "-m", "privcode", "collect", many, "-o", out, "--longest", "1000000"],
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 60
    while not any(name.endswith(".tmp") for name in os.listdir(out.parent)):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_collection_that_is_killed_leaves_no_output(
    many: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    out = tmp_path / "out" / "records.jsonl"
    out.parent.mkdir()
    process = _started(many, out)
    process.send_signal(sign)
    assert process.wait(60) != 0
    left = os.listdir(out.parent)
    assert out.name not in left
    assert sign == signal.SIGKILL or not left


@pytest.mark.skipif(cores() == 1, reason="one core: no other process is started")
def test_processes_end_with_the_one_that_started_them(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "records.jsonl"
    out.parent.mkdir()
    process = _started(many, out)
    limit = time.monotonic() + 60
    while not (children := _children(process.pid)):
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.kill()
    process.wait()
    while any(map(_runs, children)):
        assert time.monotonic() < limit
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "name a folder"),
        (["app", "--style", "other"], "--style"),
        (["app", "--context", "1"], "--context"),
        (["app", "--exclude", "*"], "no record"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    app: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    path, *more = arguments
    out = tmp_path / "records.jsonl"
    assert words in refused("collect", tmp_path / path, *more, "-o", out)
    assert not out.exists()


def test_an_output_that_exists_stays(app: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    out.write_text("mine")
    assert "exists already" in refused("collect", app, "-o", out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("absent", ["datasketch", "detect_secrets"])
def test_without_the_extra_one_line_says_what_to_install(
    app: Path, tmp_path: Path, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    line = refused("collect", app, "-o", tmp_path / "records.jsonl")
    assert "pip install 'privcode[collect]'" in line
