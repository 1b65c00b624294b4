"""What goes to a terminal alone, and what a log gets in its place."""

import io
import math
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import pytest

from privcode import console
from privcode.cli import main
from privcode.console import NOT_SHOWN, epsilon_text, progress_bar, say_private
from privcode.data import rows
from privcode.files import write_jsonl

CONFIG = """\
data: {source: private.jsonl}
privacy: {epsilon: 4, delta: 1.0e-6, units: 16000, batch: 256, steps: 60}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
"""
COMMANDS = (("init", "private.jsonl", "-o", "new.yaml"), ("plan", "privcode.yaml"))


def logged(act: Any) -> str:
    """What `act` writes to a stderr that is a file."""
    file = io.StringIO()
    with redirect_stderr(file):
        act()
    return file.getvalue()


def repeated(path: Path, shared: int) -> None:
    """Records of which `shared` have one e-mail address and one code."""
    codes = [f"f{'(' * n}a{')' * n}" for n in range(60)]
    codes[:shared] = [f"send(to='ann@corp.example', n={n})" for n in range(shared)]
    write_jsonl(path, [{"prompt": f"Write {n}.", "code": code} for n, code in enumerate(codes)])


def run(*arguments: str, code: int = 0) -> str:
    """What the command, in this process, writes to a stderr that is a file."""

    def act() -> None:
        argv = patch.object(sys, "argv", ["privcode", *arguments])
        with redirect_stdout(io.StringIO()), argv, pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code

    return logged(act)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("privcode.yaml").write_text(CONFIG)
    return tmp_path


def at_a_terminal(*arguments: str) -> str:
    """What the command writes to stderr, where that is a terminal and stdout is not."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "privcode", *arguments]
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # how Linux ends a terminal that nobody writes to any more
        while chunk := os.read(ours, 4096):
            seen += chunk
    os.close(ours)
    assert process.wait() == 0, seen
    return seen.decode()


@pytest.mark.slow
def test_a_terminal_shows_the_owner_the_figures(folder: Path) -> None:
    repeated(folder / "private.jsonl", 37)
    for command in COMMANDS:
        said = at_a_terminal(*command)
        assert "occurs in 37 records" in said
        assert NOT_SHOWN not in said
        Path("new.yaml").unlink(missing_ok=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("forced", [False, True])
def test_a_log_gets_one_line_whatever_the_data_are(
    folder: Path, command: tuple[str, ...], forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:  # what makes rich call anything a terminal
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setattr(console, "stderr", console.Console(stderr=True, force_terminal=True))
    for shared in (37, 0):
        repeated(folder / "private.jsonl", shared)
        assert run(*command) == f"{NOT_SHOWN}\n"
        Path("new.yaml").unlink(missing_ok=True)


def test_where_nobody_watches_figures_are_not_even_computed() -> None:
    def figures() -> str:
        raise AssertionError

    assert logged(lambda: say_private(figures)) == f"{NOT_SHOWN}\n"


@pytest.mark.parametrize("counted", [True, False])
def test_a_log_gets_no_progress_bar_whose_times_tell_of_the_records(counted: bool) -> None:
    def work() -> None:
        with progress_bar("read", 12_345, counted=counted) as progress:
            progress(12_345)

    assert logged(work) == ""


def test_a_terminal_gets_the_share_of_private_records_and_not_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "at_terminal", lambda: True)
    for counted in (True, False):

        def work(counted: bool = counted) -> None:
            with progress_bar("read", 12_345, counted=counted) as progress:
                progress(12_345)

        said = logged(work)
        assert ("12345" in said, "100%" in said) == (counted, not counted)


def test_reading_from_the_hub_counts_no_record_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, split: str) -> datasets.Dataset:
        return datasets.Dataset.from_generator(made, cache_dir=str(tmp_path))

    def made() -> Iterator[dict[str, str]]:
        yield from ({"prompt": "p", "code": str(n)} for n in range(90))

    monkeypatch.setattr(datasets, "load_dataset", load)
    datasets.enable_progress_bars()
    assert logged(lambda: list(rows.read_rows("owner/data"))) == ""


def test_an_unexpected_error_quotes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a private record")

    monkeypatch.setattr("privcode.pipeline.planning.planned", broken)

    said = run(*COMMANDS[1], code=1)
    assert "private record" not in said
    assert said.startswith("privcode: failed unexpectedly (RuntimeError in test_console.py, line ")
    monkeypatch.setenv("PRIVCODE_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a private record"):
        run(*COMMANDS[1])


@pytest.mark.parametrize(
    ("epsilon", "shown"),
    [(4.0, "4"), (4.00049, "4.001"), (3.99951, "4"), (0.123401, "0.1235"), (math.inf, "∞")],
)
def test_a_shown_epsilon_is_never_below_the_true_one(epsilon: float, shown: str) -> None:
    assert epsilon_text(epsilon) == shown
