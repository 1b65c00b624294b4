"""The command line in this process, and what a file tree looks like before and after."""

import io
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest

from privcode import cli
from privcode.pipeline import directory

SECONDS = 10
"""What a command that refuses may take at most."""


@contextmanager
def _limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"the command took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def privcode(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command; whatever it does not catch is raised."""
    out, err, held = io.StringIO(), io.StringIO(), list[int]()
    lock = directory.lock

    def remembered(folder: Path) -> int:
        held.append(lock(folder))
        return held[-1]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["privcode", *map(str, arguments)])
        patch.setattr(directory, "lock", remembered)
        try:
            with _limited():
                cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for file in held:
                with suppress(OSError):  # closed already
                    os.close(file)  # as the end of a process does
    return code, out.getvalue(), err.getvalue()


def refused(*arguments: str | Path) -> str:
    """The one line in which the command refuses; `run` may name the stages done before it."""
    code, out, err = privcode(*arguments)
    assert (code, out) == (2, ""), (arguments, code, out, err)
    lines = [line for line in err.splitlines() if not line.endswith(": done already")]
    assert len(lines) == 1, err
    assert lines[0].startswith("privcode: ")
    assert len(lines[0]) < 600
    return lines[0]


def snapshot(root: Path) -> dict[str, Any]:
    """Kind, mode, time and content of everything below `root`."""
    found: dict[str, Any] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        facts = path.lstat()
        whole = stat.S_ISREG(facts.st_mode) and facts.st_size < 1 << 30
        content = path.read_bytes() if whole else facts.st_size
        found[str(path.relative_to(root))] = (facts.st_mode, facts.st_mtime_ns, content)
    return found
