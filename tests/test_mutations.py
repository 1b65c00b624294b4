"""Whatever became of the documents of a run or a bundle: an answer or one line, within seconds."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privcode.files import Row, _sealed
from privcode.privacy.ledger import _digest
from tests.helpers.commands import privcode, refused, snapshot
from tests.helpers.runs import make_run

RUN = (
    "manifest.json",
    "private/manifest.json",
    "private/ledger.jsonl",
    "private/verdicts.jsonl",
    "evaluation/audit.json",
    "evaluation/house.base.json",
    "evaluation/house.tuned.json",
    "models/premium/adapter_config.json",
    "models/junior/adapter_config.json",
    "synthetic/raw.jsonl",
    "synthetic/accepted.jsonl",
    "config.yaml",
)
BUNDLE = ("release/privacy.json", "release/adapter/adapter_config.json")
COMMANDS = ("verify", "release", "report", "run")
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 5e-324, 10**30, 10**400, 2**63, 2**31),
    *("", "x", "inf", "nan", "\u202e", "\x00", "../../etc", "/etc/hostname", "é" * 1000),
    *([], {}, [[]], [{}], {"": None}, {"a": {"a": {"a": 1}}}, [1, "a", None], "0" * 64),
)
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, '"\\ud800"', "[" * 50_000),
    *("[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, '{"a": 1, "a": 2}', "", "tru"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made")).out


def spots(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from spots(entry, (*at, key))


def changed_value(value: Any, rng: random.Random) -> tuple[Any, str | None]:
    """A JSON value with one thing changed; text to put in place of "@@" where JSON has none."""
    copy = json.loads(json.dumps(value))
    spot = rng.choice(list(spots(copy)))
    if not spot:
        return rng.choice(ODD), None
    parent = copy
    for key in spot[:-1]:
        parent = parent[key]
    kind, key = rng.randrange(5), spot[-1]
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["", "more", "é\u202e", "..", "0"])] = parent.pop(key)
    elif kind == 2:
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"value": parent[key]}
    elif kind == 3:
        parent[key] = "@@"
        return copy, rng.choice(RAW)
    else:
        parent[key] = rng.choice(ODD)
    return copy, None


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(1, len(data)))
    more = rng.choice([b"\x00", b"\xff\xfe", b"{}", b"\n[]\n", b'"', b"&a *a ", b"\xef\xbb\xbf"])
    return rng.choice(
        [data[:at], data[at:], data[:at] + more + data[at:], b"", data + data, data[::-1], more]
    )


def change(run: Path, name: str, rng: random.Random) -> None:
    """Change one document, and enter it where it is entered, as somebody who knows does."""
    path = run / name
    text = path.read_text()
    if name.endswith(".yaml") or rng.random() < 0.25:
        path.write_bytes(changed_bytes(text.encode(), rng))
    elif name.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines()]
        place = rng.randrange(len(rows))
        value, raw = changed_value(rows[place], rng)
        rows[place] = value
        if "ledger" in name:
            chain(rows)
        lines = "".join(f"{json.dumps(row, ensure_ascii=False, sort_keys=True)}\n" for row in rows)
        path.write_text(lines.replace('"@@"', raw or '"@@"'), errors="surrogatepass")
    else:
        facts = json.loads(text)
        value, raw = changed_value(facts, rng)
        sealed = name.endswith("manifest.json") or name.endswith("privacy.json")
        if sealed and isinstance(value, dict):
            written = _sealed(value)
        else:
            written = json.dumps(value, indent=2, ensure_ascii=False)
        path.write_text(written.replace('"@@"', raw or '"@@"'), errors="surrogatepass")
    if rng.random() < 0.8:
        enter(run, name)


def chain(rows: list[Any]) -> None:
    previous = "0" * 64
    for row in rows:
        if isinstance(row, dict):
            row["previous"] = previous
            row["hash"] = previous = _digest(row)


def enter(run: Path, name: str) -> None:
    """Its hash into the manifests of run and bundle, where they can be read."""
    digest = hashlib.sha256((run / name).read_bytes()).hexdigest()
    for place in ("manifest.json", "private/manifest.json", "release/privacy.json"):
        if place == name:
            continue
        facts: Row = json.loads((run / place).read_text())
        held = [facts.get("config", {}), facts.get("files", {})]
        held += [stage["outputs"] for stage in facts.get("stages", {}).values()]
        held += [stage["inputs"] for stage in facts.get("stages", {}).values()]
        for hashes in held:
            for entry in (name, name.removeprefix("release/")):
                if entry in hashes:
                    hashes[entry] = digest
        (run / place).write_text(_sealed(facts))


def answers(run: Path, folder: Path, commands: tuple[str, ...]) -> None:
    """Each command on a copy of its own: it succeeds, or refuses in one line."""
    for command in commands:
        copy = folder / command / "run"
        shutil.copytree(run, copy)
        where = copy / "release" if command == "verify bundle" else copy
        before = snapshot(copy)
        code, _, err = privcode(command.split()[0], where)
        if code:
            again = refused(command.split()[0], where)
            assert "Traceback" not in again
        assert not list(copy.rglob("*.tmp")), err
        if command.startswith("verify"):
            assert snapshot(copy) == before


def case(made: Path, tmp_path: Path, name: str, seed: int) -> None:
    rng = random.Random(f"{name} {seed}")
    run = tmp_path / "changed"
    shutil.copytree(made, run)
    change(run, name, rng)
    answers(run, tmp_path, ("verify bundle", "verify") if name in BUNDLE else COMMANDS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [*RUN, *BUNDLE])
def test_a_changed_document_is_an_answer_or_one_line(
    made: Path, tmp_path: Path, name: str, seed: int
) -> None:
    case(made, tmp_path, name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 53))
@pytest.mark.parametrize("name", [*RUN, *BUNDLE])
def test_many_changed_documents_are_answers_or_one_line(
    made: Path, tmp_path: Path, name: str, seed: int
) -> None:
    case(made, tmp_path, name, seed)


def damage(root: Path, rng: random.Random) -> None:
    """Change what lies in a run or a bundle: not what a file says, but what it is."""
    paths = sorted(path for path in root.rglob("*") if path.name != ".lock")
    path = rng.choice(paths)
    kind = rng.randrange(9)
    if kind == 0:  # gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif kind == 1 and path.is_file():  # cut off
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
    elif kind == 2 and path.is_file():  # one byte is another
        data = bytearray(path.read_bytes() or b"x")
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif kind == 3 and path.is_file():  # a sparse file of a terabyte
        with path.open("r+b") as file:
            file.truncate(1 << 40)
    elif kind == 4:  # one more, under a strange name
        folder = path if path.is_dir() else path.parent
        (folder / rng.choice(["x", ".x.tmp", "é\u202e", "-rf", "a b", "x" * 200])).write_text("x")
    else:  # something else stands there
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        target = rng.choice(["/etc/hostname", "/nowhere", "/", "."])
        rng.choice([path.mkdir, lambda: path.symlink_to(target), lambda: os.mkfifo(path)])()


def damaged_case(made: Path, tmp_path: Path, seed: int) -> None:
    for command in ("verify bundle", *COMMANDS):
        where = tmp_path / command
        shutil.copytree(made / "release" if "bundle" in command else made, where)
        damage(where, random.Random(seed))
        before = snapshot(where)
        code, _, err = privcode(command.split()[0], where)
        if code:
            assert "Traceback" not in refused(command.split()[0], where), err
        if command.startswith("verify"):
            assert snapshot(where) == before
        shutil.rmtree(where)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_run_or_bundle_is_an_answer_or_one_line(
    made: Path, tmp_path: Path, seed: int
) -> None:
    damaged_case(made, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_runs_and_bundles_are_answers_or_one_line(
    made: Path, tmp_path: Path, part: int
) -> None:
    for seed in range(1000 + 20 * part, 1020 + 20 * part):
        damaged_case(made, tmp_path, seed)


UNFINISHED = ("models/premium/adapter_config.json", "synthetic/accepted.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", UNFINISHED)
def test_a_run_that_goes_on_with_changed_documents_ends_in_one_line(
    made: Path, tmp_path: Path, name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What earlier stages wrote is changed and entered; later ones have to be done."""
    run, rng = tmp_path / "run", random.Random(f"{name} {seed}")
    shutil.copytree(made, run)
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in ("audit", "evaluate", *(["boost"] if "accepted" in name else [])):
        del manifest["stages"][stage]
    del manifest["report"]
    (run / "manifest.json").write_text(_sealed(manifest))
    shutil.rmtree(run / "evaluation")
    shutil.rmtree(run / "release")
    (run / "release").mkdir()
    (run / "release" / "privacy.json").write_text("{}\n")
    change(run, name, rng)
    monkeypatch.setattr("tests.helpers.commands.SECONDS", 120)
    code, _, err = privcode("run", run)
    assert code == 0 or err.splitlines()[-1].startswith("privcode: "), err
