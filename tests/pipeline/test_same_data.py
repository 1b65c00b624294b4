"""The same data are the same data under another name, in another order, of other owners."""

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privcode.config import Config, load_config
from privcode.errors import UserError
from privcode.files import read_sealed, sha256_file, write_sealed
from privcode.pipeline import planning
from privcode.pipeline.budget import begin
from privcode.pipeline.private import private_records
from privcode.pipeline.results import verify
from privcode.pipeline.run import Run
from privcode.pipeline.spending import runs_beside, spent_beside, spent_elsewhere
from privcode.pipeline.stages.sanitize import begin_ledger
from privcode.privacy import sketch as sketches
from privcode.privacy.ledger import Ledger, read_ledger
from privcode.privacy.registry import kept, registered, registry, secret
from privcode.privacy.sketch import SHARE, Sketch, from_bytes, shared, sketch

KEY = bytes(range(32))
ROWS = [
    {
        "prompt": f"Write number {i}.",
        "code": f"def f{i}(a, b):\n    if a:\n        return [a, 'x', {i}]\n    return b\n",
        "author": f"a{i % 7}",
    }
    for i in range(200)
]
OTHERS = [row | {"code": f"y = {i} * 3\n"} for i, row in enumerate(ROWS)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(folder: Path, name: str, unit: str | None = None, columns: str = "") -> Config:
    """A config over FOLDER/NAME."""
    columns = columns or "prompt: prompt, code: code"
    owner = f", unit: {unit}" if unit else ""
    kind = "unit: column, max_records_per_unit: 30, " if unit else ""
    (folder / "c.yaml").write_text(
        f"data: {{source: {name}, language: python, columns: {{{columns}{owner}}}}}\n"
        f"privacy: {{epsilon: null, noise_multiplier: 1.0, {kind}delta: 1.0e-4, units: 200, "
        "batch: 16, steps: 6}\n"
        "prompts: {source: public, file: prompts.jsonl}\n"
        'junior: {model: "bundled:junior"}\npremium: {model: "bundled:premium"}\n'
    )
    return load_config(folder / "c.yaml")


def run_over(loaded: Config, out: Path) -> Run:
    """A run that was begun over these data, in a folder of its own, and is closed."""
    run = Run(loaded, out / "run")
    try:
        begin_ledger(run, private_records(loaded)[2])
    finally:
        run.close()
    return run


def reindented(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"code": row["code"].replace("    ", "\t").replace("\n", "\r\n")} for row in rows]


def formatted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As black, prettier and the like would: quotes, trailing commas, spaces, brackets."""
    return [
        row | {"code": row["code"].replace("'", '"').replace("]", ",\n]").replace(" b", " (b)")}
        for row in rows
    ]


CHANGES: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {
    "a copy": lambda rows: rows,
    "another order": lambda rows: random.Random(0).sample(rows, len(rows)),
    "two rows exchanged": lambda rows: [rows[1], rows[0], *rows[2:]],
    "one record less": lambda rows: rows[1:],
    "one record more": lambda rows: [*rows, {"prompt": "p", "code": "q = 1", "author": "z"}],
    "another trailing newline": lambda rows: [r | {"code": r["code"] + "\n"} for r in rows],
    "other owners": lambda rows: [r | {"author": f"b{i}"} for i, r in enumerate(rows)],
    "other prompts": lambda rows: [r | {"prompt": f"Q{i}"} for i, r in enumerate(rows)],
    "indented by tabs": reindented,
    "formatted anew": formatted,
    "each record twice": lambda rows: [*rows, *rows],
    "a part": lambda rows: rows[:5],
    "among many others": lambda rows: [*OTHERS, *rows[:4]],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_of_the_data_is_the_same_data(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    write(tmp_path / "two.jsonl", change(ROWS))
    first = run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    second = run_over(config(tmp_path, "two.jsonl"), tmp_path / "b")
    assert len(spent_beside(first)) == len(spent_beside(second)) == 1
    data = private_records(second.config)[2]
    assert len(spent_elsewhere(second.config, data)) == 2
    with pytest.raises(UserError, match="no ε holds for the two together"):
        run_over(config(tmp_path, "two.jsonl", unit="author"), tmp_path / "c")


def test_a_blank_line_more_is_no_other_data(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    (tmp_path / "two.jsonl").write_text("\n" + (tmp_path / "one.jsonl").read_text())
    run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    assert len(spent_beside(run_over(config(tmp_path, "two.jsonl"), tmp_path / "b"))) == 1


def test_data_with_their_columns_exchanged_are_the_same_data(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    write(tmp_path / "two.jsonl", ROWS)
    run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    turned = config(tmp_path, "two.jsonl", columns="prompt: code, code: prompt")
    assert len(spent_beside(run_over(turned, tmp_path / "b"))) == 1


def test_other_data_are_other_data_though_their_prompts_are_the_same(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    write(tmp_path / "two.jsonl", [*OTHERS, ROWS[0]])  # 1 of 200: below a hundredth
    run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    assert spent_beside(run_over(config(tmp_path, "two.jsonl"), tmp_path / "b")) == ()
    write(tmp_path / "three.jsonl", [*OTHERS, *ROWS[:2]])
    third = run_over(config(tmp_path, "three.jsonl"), tmp_path / "c")
    assert len(spent_beside(third)) == 2


def test_how_much_is_shared_is_said_to_the_owner_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    write(tmp_path / "two.jsonl", [*OTHERS[:150], *ROWS[:50]])
    first = run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    loaded = config(tmp_path, "two.jsonl")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    run = Run(loaded, tmp_path / "b")
    said = planning.shared_by_many(loaded, run.plan).splitlines()
    part = "! 25% of the smaller data set is both in these data and in those of"
    assert f"{part} {first.out}" in said
    run.close()
    facts, text = planning._selection(loaded, run.plan)
    assert "smaller data set" not in json.dumps(facts) + text
    assert "smaller data set" not in capfd.readouterr().err  # no terminal: nobody is told


def same(one: Sketch, other: Sketch) -> bool:
    return one.to_bytes() == other.to_bytes()


def texts(start: int, stop: int) -> list[tuple[str, str]]:
    return [(f"p{i}", f"code {i}") for i in range(start, stop)]


def test_a_sketch_depends_on_what_is_said_and_on_the_key() -> None:
    one = sketch(texts(0, 50), KEY)
    assert same(one, sketch(reversed(texts(0, 50)), KEY))
    assert same(one, sketch([*texts(0, 50), *texts(3, 9)], KEY))
    assert same(one, from_bytes(one.to_bytes()))
    other = sketch(texts(0, 50), bytes(32))
    assert not set(one.codes) & set(other.codes)
    assert shared(one, other) is None


@pytest.mark.parametrize("common", [0, 1, 3, 10, 100])
def test_what_two_data_sets_share_is_counted_exactly_while_they_are_small(common: int) -> None:
    one, other = sketch(texts(0, 100), KEY), sketch(texts(100 - common, 400), KEY)
    assert shared(one, other) == shared(other, one) == common / 100


def test_data_sets_of_very_different_sizes_are_compared_by_the_same_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sketches, "SAMPLE", 4096)
    large = sketch(texts(0, 60_000), KEY)
    assert 2048 < len(large.codes) <= 4096
    for size, common in ((60_000, 30_000), (4_000, 4_000), (8_000, 1_000)):
        small = sketch(texts(60_000 - common, 60_000 - common + size), KEY)
        found = shared(large, small)
        assert found is not None
        assert found == pytest.approx(common / size, abs=0.1)
    assert (shared(large, sketch(texts(60_000, 64_000), KEY)) or 0) < SHARE
    few = sketch(texts(0, 100), KEY)  # of which the sample has but some: that cannot be told
    assert shared(large, few) is None


def lose_the_sketch(state: Path) -> None:
    for path in (state / "sketches").iterdir():
        path.unlink()


def alter_the_sketch(state: Path) -> None:
    for path in (state / "sketches").iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


def lose_the_key(state: Path) -> None:
    (state / "key").unlink()


@pytest.mark.parametrize("damage", [lose_the_sketch, alter_the_sketch, lose_the_key])
def test_a_run_whose_data_cannot_be_told_any_more_counts(
    tmp_path: Path, state: Path, damage: Callable[[Path], None]
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    write(tmp_path / "two.jsonl", OTHERS)
    first = run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    assert spent_beside(run_over(config(tmp_path, "two.jsonl"), tmp_path / "b")) == ()
    damage(state)
    write(tmp_path / "three.jsonl", OTHERS[:20])
    again = run_over(config(tmp_path, "three.jsonl"), tmp_path / "c")
    assert len(spent_beside(again)) == 2
    if damage is not lose_the_key:
        assert spent_beside(first)


def test_a_key_of_another_length_is_refused_in_one_line(tmp_path: Path, state: Path) -> None:
    assert len(secret()) == 32
    (state / "key").write_bytes(b"short")
    write(tmp_path / "one.jsonl", ROWS)
    with pytest.raises(UserError, match=r"key: is not the key"):
        run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    assert not (tmp_path / "a" / "run" / "private" / "ledger.jsonl").exists()
    assert not registered()


def test_secret_and_sketches_are_their_owners_alone(tmp_path: Path, state: Path) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    first = secret()
    (entry,) = registered()
    files = [state / "key", state / "sketches" / entry["sketch"]]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o600]
    assert (state / "sketches").stat().st_mode & 0o777 == 0o700
    assert secret() == first
    (state / "key").chmod(0o644)
    secret()
    assert (state / "key").stat().st_mode & 0o777 == 0o600


def test_entries_from_before_there_were_sketches_count_by_fingerprint_or_file(
    tmp_path: Path,
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    loaded = config(tmp_path, "one.jsonl")
    data = private_records(loaded)[2]
    old = {"sampling_rate": 0.08, "noise_multiplier": 1.0, "steps": 6, "trials": None}
    ledger = Ledger(registry())
    registry().parent.mkdir(parents=True)
    for number, (fingerprint, source) in enumerate(
        [
            (data.fingerprint, "/elsewhere"),
            ("other", str(tmp_path / "one.jsonl")),
            ("other", "/elsewhere"),
        ]
    ):
        place = {"run": str(number), "data": fingerprint, "source": source}
        spent = {"spent": old | {"unit": "record"}, "ledger": None, "sweep": None}
        ledger.append(kind="run", **place, **spent)
    assert set(spent_elsewhere(loaded, data)) == {"0", "1"}
    assert len(spent_beside(run_over(loaded, tmp_path / "a"))) == 2


def test_a_ledger_that_was_begun_before_there_were_sketches_goes_on_and_gets_one(
    tmp_path: Path,
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    loaded = config(tmp_path, "one.jsonl")
    data = private_records(loaded)[2]
    run = Run(loaded, tmp_path / "a" / "run")
    Ledger(run.ledger).begin(run.plan, data.fingerprint, "name")
    begin(loaded, run.plan, run.ledger, data)
    begin(loaded, run.plan, run.ledger, data)
    run.close()
    entries = read_ledger(run.ledger)
    assert [entry["kind"] for entry in entries] == ["begin", "sketched"]
    assert kept(entries[1]["sketch"]) is not None
    write(tmp_path / "two.jsonl", ROWS[::-1])
    run_over(config(tmp_path, "two.jsonl"), tmp_path / "b")
    assert len(spent_beside(run)) == 1


def test_a_resume_insists_on_the_same_records_in_the_same_order(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    loaded = config(tmp_path, "one.jsonl")
    run_over(loaded, tmp_path / "a")
    write(tmp_path / "one.jsonl", [ROWS[1], ROWS[0], *ROWS[2:]])
    with pytest.raises(UserError, match="other private data"):
        run_over(loaded, tmp_path / "a")


def test_a_neighbouring_run_of_a_lost_registry_is_known_by_its_sketch(
    tmp_path: Path, state: Path
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    write(tmp_path / "two.jsonl", ROWS[::-1])
    first = Run(config(tmp_path, "one.jsonl"), tmp_path / "runs" / "a")
    begin_ledger(first, private_records(first.config)[2])
    first.close()
    registry().unlink()
    second = Run(config(tmp_path, "two.jsonl"), tmp_path / "runs" / "b")
    begin_ledger(second, private_records(second.config)[2])
    second.close()
    assert len(spent_beside(second)) == 1
    assert [other.share for other in runs_beside(second).values()] == [1.0]


def test_nothing_of_a_sketch_or_the_key_is_in_what_a_run_publishes(
    tmp_path: Path, state: Path
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    run = run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    (entry,) = registered()
    public = [p for p in run.out.rglob("*") if p.is_file() and "private" not in p.parts[-2:]]
    assert public
    for path in public:
        for word in (entry["sketch"], secret().hex(), entry["data"]):
            assert word not in path.read_text()
    assert math.isfinite(run.plan.charge(spent_beside(run)).cost.epsilon)


@pytest.mark.slow
def test_a_million_records_are_sketched_in_seconds() -> None:
    body = "\n".join(f"    value = compute(value, {n})" for n in range(20))
    records = ((f"prompt {i}", f"def f{i}():\n{body}") for i in range(1_000_000))
    started = time.process_time()
    found = sketch(records, KEY)
    assert time.process_time() - started < 60
    assert len(np.unique(found.codes)) == len(found.codes) == 1_000_000
    assert len(found.to_bytes()) < 17e6
    started = time.process_time()
    assert shared(found, found) == 1.0
    assert time.process_time() - started < 5


def edited(run: Run, old: str, new: str) -> Run:
    kept = run.out / "config.yaml"
    text = kept.read_text()
    assert old in text
    kept.write_text(text.replace(old, new))
    opened = Run.open(run.out)
    opened.close()
    return opened


def two_runs(tmp_path: Path, rows: list[dict[str, Any]]) -> Run:
    """The second of two runs over one file, which holds other rows by then."""
    write(tmp_path / "one.jsonl", OTHERS)
    run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    write(tmp_path / "one.jsonl", rows)
    return run_over(config(tmp_path, "one.jsonl"), tmp_path / "b")


def test_a_config_that_was_edited_to_public_does_not_hide_other_runs(tmp_path: Path) -> None:
    run = two_runs(tmp_path, ROWS)
    assert len(spent_beside(run)) == 1
    assert len(spent_beside(edited(run, "public: false", "public: true"))) == 1


def test_a_source_that_was_edited_or_is_gone_does_not_hide_other_runs(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "real" / "one.jsonl", OTHERS)
    name = str(tmp_path / "link" / "one.jsonl")
    run_over(config(tmp_path, name), tmp_path / "a")
    write(tmp_path / "real" / "one.jsonl", ROWS)
    run = run_over(config(tmp_path, name), tmp_path / "b")
    assert len(spent_beside(run)) == 1
    (tmp_path / "link").unlink()
    assert len(spent_beside(run)) == 1
    assert len(spent_beside(edited(run, "link/one.jsonl", "real/two.jsonl"))) == 1


def test_a_neighbour_whose_source_is_gone_is_known_by_its_ledger(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    loaded = config(tmp_path, str(tmp_path / "link" / "one.jsonl"))
    for name, rows in (("a", OTHERS), ("b", ROWS)):
        write(tmp_path / "real" / "one.jsonl", rows)
        run = Run(loaded, tmp_path / "runs" / name)
        begin_ledger(run, private_records(loaded)[2])
        run.close()
    registry().unlink()
    (tmp_path / "link").unlink()
    assert len(spent_beside(run)) == 1


@pytest.mark.parametrize(
    ("old", "new"), [("public: false", "public: true"), ("max_tokens: 1024", "max_tokens: 512")]
)
def test_a_config_that_was_edited_after_a_stage_is_refused_ever_after(
    tmp_path: Path, old: str, new: str
) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    loaded = config(tmp_path, "one.jsonl")
    run = Run(loaded, tmp_path / "a")
    with run.stage("sanitize", [], []):
        begin_ledger(run, private_records(loaded)[2])
        for step in range(run.plan.steps):
            Ledger(run.ledger).step(step)
    run.close()
    verify(run)
    run = edited(run, old, new)
    with pytest.raises(UserError, match="was edited"), run.stage("synthesize", [], []):
        pass
    with pytest.raises(UserError, match="was edited"):
        run.note("report", {})
    kept = sha256_file(run.out / "config.yaml")  # as earlier versions entered it again
    manifest = read_sealed(run.manifest)
    write_sealed(run.manifest, manifest | {"config": {"config.yaml": kept}})
    with pytest.raises(UserError, match="was edited"):
        verify(run)


def test_a_run_whose_settings_were_edited_half_way_does_not_go_on(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", ROWS)
    run = run_over(config(tmp_path, "one.jsonl"), tmp_path / "a")
    opened = edited(run, "learning_rate: 0.0001\n  schedule", "learning_rate: 0.1\n  schedule")
    with pytest.raises(UserError, match="private data or settings"):
        begin_ledger(opened, private_records(opened.config)[2])
