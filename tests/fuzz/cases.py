"""Random inputs for every command, and what must hold whatever they are.

A case is a folder of files, the arguments of one command, and its environment. `check` runs the
command in this process and says what is wrong: a traceback or an unexpected end, another exit code
than 0, 1 or 2, no or more than one line for exit code 2, a hang, text of private records in what is
shown, a file that is half-written.
"""

import gzip
import io
import json
import math
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

MARK = "Xq7hunter2"
"""Stands in every private field: shown, it is a leak."""
SECONDS = 10
"""Of processor time, after which a command hangs; one that waits may take `PATIENCE` longer."""
PATIENCE = 50
MEMORY = 2 << 30
"""Bytes that a command may take."""

GOOD_CONFIG: dict[str, Any] = {
    "data": {"source": "private.jsonl"},
    "privacy": {"epsilon": 4, "delta": 1e-3, "units": 60, "batch": 8, "steps": 6},
    "prompts": {"source": "public", "file": "prompts.jsonl"},
    "junior": {"model": "bundled:junior", "max_tokens": 64},
    "premium": {"model": "bundled:premium", "max_tokens": 64},
}
TASK = {
    "task_id": "T/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "test": "def check(c):\n    assert c(1) == 2\n",
    "canonical_solution": "    return x + 1\n",
}
PLUS = {k: v for k, v in TASK.items() if k != "test"} | {
    "task_id": "Mbpp/115",
    "base_input": [[[]]],
    "plus_input": [],
    "atol": 0,
}
PROGRAM = {"id": 1, "code": "print(1)"}
SAMPLE = {"task_id": "T/0", "completion": "    return 2\n"}

odd_numbers = st.sampled_from(
    [
        0,
        -1,
        1,
        2**31,
        2**63,
        10**400,
        -0.0,
        1e-300,
        1e300,
        math.nan,
        math.inf,
        True,
        0.5,
        "1",
        "1e3",
    ]
)
odd_texts = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udcff",
        "x" * 5000,
        "../x",
        "/",
        ".",
        "é",
        "\x1b[31m",
        "a\nb",
    ]
) | st.text(max_size=8)
odd_values = st.recursive(
    odd_numbers | odd_texts | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=5,
)


@dataclass
class Case:
    """One call of the command in a folder of its own."""

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    special: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def lines(*rows: Any) -> bytes:
    """JSON Lines as `json` writes them, NaN and half surrogate pairs too."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@st.composite
def spoilt(draw: st.DrawFn, row: dict[str, Any]) -> dict[str, Any]:
    """A row with one field left out, replaced, or added."""
    name = draw(st.sampled_from([*row, "files", "more"]) | odd_texts)
    if draw(st.booleans()):
        return row | {name: draw(odd_values)}
    return {key: value for key, value in row.items() if key != name}


@st.composite
def broken(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with a piece left out, doubled or replaced."""
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    size = draw(st.integers(0, 12))
    put = draw(
        st.sampled_from([b"", content[at : at + size] * 2, b"\0", b"\xff", b'"', b"}", b"[" * 2000])
    )
    return content[:at] + put + content[at + size :]


@st.composite
def row_files(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """A good row, a spoilt one, sometimes broken bytes."""
    content = lines(good, draw(spoilt(good)))
    return draw(broken(content)) if draw(st.integers(0, 3)) == 0 else content


def paths(config: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The fields of a nested mapping."""
    found = []
    for key, value in config.items():
        found.append((*above, key))
        found += paths(value, (*above, key)) if isinstance(value, dict) else []
    return found


def every_field() -> dict[str, Any]:
    """The config with all settings at their defaults."""
    from privcode.config import parse_config

    values: dict[str, Any] = parse_config(GOOD_CONFIG).model_dump(by_alias=True)
    return values


@st.composite
def configs(draw: st.DrawFn) -> bytes:
    """The text of a config in which one thing is odd."""
    import yaml

    values = json.loads(json.dumps(every_field()))
    if draw(st.integers(0, 4)):
        *sections, name = draw(st.sampled_from(paths(values)))
        # The accountant's own ranges are tried elsewhere.
        if sections != ["privacy"] or name in ("units", "batch", "seed", "unit", "noise"):
            at = values
            for section in sections:
                at = at[section]
            at[name] = draw(odd_values)
    text = yaml.safe_dump(values, sort_keys=False)
    extra = st.sampled_from(
        [
            "",
            "privacy: {epsilon: 800}\n",
            "extends: c.yaml\n",
            'extends: "a\\0b"\n',
            "extends: loop\n",
            "extends: pipe\n",
            "sweep: {settings: {a: [2001-99-99]}}\n",
            "more: !!int abc\n",
            "more: &a [*a]\n",
            "more: " + "[" * 3000 + "\n",
            "more: " + "9" * 5000 + "\n",
            "more: [&a [x, x], &b [*a, *a, *a], &c [*b, *b, *b]]\n",
            "more: \x00\n",
            f"{MARK} SELECT: 1\n",
        ]
    )
    encoded = (text + draw(extra)).encode("utf-8", "replace")
    return draw(broken(encoded)) if draw(st.integers(0, 5)) == 0 else encoded


def private_row(**more: Any) -> dict[str, Any]:
    """A private record, marked in every field."""
    code = f"def f():\n    return '{MARK}'"
    return {"prompt": f"Write {MARK}.", "code": code, "author": MARK} | more


@st.composite
def private(draw: st.DrawFn) -> tuple[str, bytes]:
    """Private data in some format, with something odd: its name and its bytes."""
    kind = draw(st.sampled_from(["jsonl", "jsonl.gz", "json", "json.gz", "csv", "parquet"]))
    bad = draw(spoilt(private_row()))
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = draw(
            st.sampled_from([pa.array([10**14], pa.timestamp("ms")), pa.array([b"\xff"])])
        )
        names = ["prompt", "code", draw(st.sampled_from(["when", "code"]))]
        table = pa.Table.from_arrays([pa.array([MARK]), pa.array([MARK]), column], names=names)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        content = sink.getvalue()
    elif kind == "csv":
        head = draw(
            st.sampled_from(
                ["prompt,code", f'"{MARK} SELECT","{MARK}"', f"{MARK},{MARK}", "prompt"]
            )
        )
        tail = draw(st.sampled_from(["", '"', ",", f',"{MARK}"x', "\0", f",{MARK},{MARK}"]))
        content = f'{head}\n"{MARK}","{MARK}"{tail}\n'.encode()
    else:
        rows = [private_row(), bad]
        content = lines(*rows) if "jsonl" in kind else json.dumps(rows).encode()
        if draw(st.integers(0, 3)) == 0:
            twice = json.dumps({f"{MARK}": 1})[:-1] + f', "{MARK}": 2}}'
            content = f"{twice}\n".encode() if "jsonl" in kind else f"[{twice}]".encode()
    content = draw(broken(content)) if draw(st.integers(0, 2)) == 0 else content
    return f"p.{kind}", gzip.compress(content) if kind.endswith("gz") else content


SPECIAL = ("pipe", "device", "folder", "loop", "nothing", "zeros")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A command with inputs of which one or more are odd."""
    files = {
        "programs.jsonl": lines(PROGRAM),
        "tasks.jsonl": lines(TASK),
        "samples.jsonl": lines(SAMPLE),
        "private.jsonl": lines(private_row()),
        "prompts.jsonl": lines({"prompt": "Add."}),
        "c.yaml": json.dumps(GOOD_CONFIG).encode(),
    }
    kind = draw(
        st.sampled_from(["execute", "score", "plan", "init", "account", "special", "environment"])
    )
    case = Case([], files)
    if kind == "execute":
        files["programs.jsonl"] = draw(row_files(PROGRAM))
        case.arguments = ["execute", "programs.jsonl", "-o", draw(st.sampled_from(["out", "-"]))]
    elif kind == "score":
        task = draw(st.sampled_from([TASK, PLUS]))
        spoil = draw(st.booleans())
        files["tasks.jsonl"] = lines(draw(spoilt(task))) if spoil else lines(task)
        if not spoil:
            files["samples.jsonl"] = draw(row_files(SAMPLE | {"task_id": task["task_id"]}))
        case.arguments = ["score", "tasks.jsonl", "samples.jsonl", "-o", "out"]
    elif kind == "plan":
        files["c2.yaml"] = draw(configs())
        case.arguments = ["plan", "c2.yaml"]
    elif kind == "init":
        name, files[name] = draw(private())
        case.arguments = ["init", name, "-o", "out.yaml"]
        more = [[], ["--unit", "author"], ["--prompts", name], ["--tasks", name]]
        case.arguments += draw(st.sampled_from(more))
    elif kind == "account":
        case.arguments = ["account", "--epsilon", "inf", "--delta", "0.001"]
        for option in ("--records", "--batch", "--steps"):
            value = draw(st.sampled_from(["10", "0", "-1", "x", "1e3", "9" * 30, "", "nan"]))
            case.arguments += [option, value]
    elif kind == "special":
        case.special["odd"] = draw(st.sampled_from(SPECIAL))
        case.arguments = draw(
            st.sampled_from(
                [
                    ["execute", "odd", "-o", "out"],
                    ["execute", "programs.jsonl", "-o", "odd"],
                    ["score", "odd", "samples.jsonl", "-o", "out"],
                    ["score", "tasks.jsonl", "odd", "-o", "out"],
                    ["score", "tasks.jsonl", "samples.jsonl", "-o", "odd"],
                    ["score", "tasks.jsonl", "samples.jsonl", "-o", "out", "--prelude", "odd"],
                    ["plan", "odd"],
                    ["init", "odd", "-o", "out.yaml"],
                    ["init", "private.jsonl", "-o", "odd"],
                    ["init", "private.jsonl", "-o", "out.yaml", "--prompts", "odd"],
                    ["init", "private.jsonl", "-o", "out.yaml", "--tasks", "odd"],
                    ["run", "c.yaml", "--out", "odd"],
                ]
            )
        )
        if case.arguments[0] == "run" and case.special["odd"] in ("folder", "nothing"):
            case.special["odd"] = "pipe"  # else it would train
    else:
        case.arguments = ["execute", "programs.jsonl", "-o", "out"]
        names = (
            "WORLD_SIZE",
            "RANK",
            "COLUMNS",
            "TERM",
            "TERMINAL_WIDTH",
            "HOME",
            "PYTHONIOENCODING",
        )
        odd = st.sampled_from(["x", "", "0", "-1", "2", "9" * 30, "é", "ascii", "/proc/x"])
        case.environment = draw(st.dictionaries(st.sampled_from(names), odd, max_size=3))
    return case


def _held() -> int:
    """Bytes of data that this process has."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) << 10


class _Hang(BaseException):
    """Longer than `SECONDS`."""


def _node(path: Path) -> None:
    """An endless device of our own, never the machine's; where only root can make one, a pipe."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        os.mkfifo(path)


def _lay_out(case: Case, folder: Path) -> None:
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    for name, kind in case.special.items():
        path = folder / name
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(name)
        elif kind == "device":
            _node(folder / "node")
            path.symlink_to("node")
        elif kind == "zeros":
            with path.open("wb") as file:
                file.truncate(1 << 28)


def _called(arguments: list[str]) -> tuple[int, str, str, str]:
    """Exit code, standard output, standard error, and the traceback where there is one."""
    from privcode.cli import main

    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    before, sys.argv = sys.argv, ["privcode", *arguments]
    ended = ""
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        if end.code == 143:  # not the command, the test itself is told to stop
            raise
        code = end.code if isinstance(end.code, int) else 1
    except _Hang:
        code, ended = 1, "hang"
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        code, ended = 1, f"{type(error).__name__} in {Path(at.filename).name}:{at.lineno}"
    finally:
        sys.argv = before
    out.flush()
    return code, out.buffer.getvalue().decode("utf-8", "replace"), err.getvalue(), ended  # type: ignore[attr-defined]


def check(case: Case) -> list[str]:
    """What is wrong with how the command deals with `case`; empty if nothing is."""
    folder = Path(tempfile.mkdtemp(prefix="privcode-fuzz-"))
    here, environment = os.getcwd(), dict(os.environ)
    data = resource.getrlimit(resource.RLIMIT_DATA)

    def hang(*_: object) -> None:
        raise _Hang

    before = [(number, signal.signal(number, hang)) for number in (signal.SIGALRM, signal.SIGPROF)]
    try:
        _lay_out(case, folder)
        kinds = {p.name: p.lstat().st_mode for p in folder.iterdir()}
        os.chdir(folder)
        os.environ.update(case.environment, PRIVCODE_STATE=str(folder / ".state"))
        resource.setrlimit(resource.RLIMIT_DATA, (_held() + MEMORY, data[1]))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(SECONDS + PATIENCE)
        code, out, err, ended = _called(case.arguments)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        wrong = [f"traceback: {ended}"] if ended and ended != "hang" else []
        wrong += ["hang"] if ended == "hang" else []
        if "failed unexpectedly" in err:
            wrong.append(err[err.index("failed unexpectedly") :].strip())
        if code not in (0, 1, 2):
            wrong.append(f"exit code {code}")
        said = [line for line in err.splitlines() if line.strip() and "0:00:" not in line]
        if code == 2 and not ended and len(said) != 1:
            wrong.append(f"{len(said)} lines for exit code 2")
        if code == 2 and any(len(line) > 600 for line in said):
            wrong.append("a line of over 600 characters")
        if MARK in out + err:
            wrong.append("private text is shown")
        wrong += _spoilt(folder, kinds, code)
        return [f"{case.arguments[0]}: {word}" for word in wrong]
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_DATA, data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before:
            signal.signal(number, handler)
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        shutil.rmtree(folder, ignore_errors=True)


def _spoilt(folder: Path, kinds: dict[str, int], code: int) -> list[str]:
    """Files that are half-written, left over, or were replaced by others."""
    wrong = []
    for path in folder.iterdir():
        if path.name.endswith(".tmp"):
            wrong.append("a temporary file is left")
        if path.name.startswith("out") and code != 0:
            wrong.append("an output although the command failed")
        if path.name == "out" and path.is_file() and code == 0 and not _whole(path):
            wrong.append("an output is half-written")
    for name, mode in kinds.items():
        if not os.path.lexists(folder / name):
            wrong.append("a file is gone")
        elif (folder / name).lstat().st_mode >> 12 != mode >> 12:
            wrong.append("a special file was replaced")
    return wrong


def _whole(path: Path) -> bool:
    """Whether a file is strict JSON Lines, to its end."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    text = path.read_text(encoding="utf-8")
    try:
        for line in text.split("\n")[:-1]:  # other ends of lines may stand in a string
            json.loads(line, parse_constant=refuse)
    except ValueError:
        return False
    return text.endswith("\n")
