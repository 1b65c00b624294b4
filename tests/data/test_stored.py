"""Records that lie on disk are those that would be read into memory, in every respect."""

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privcode.config import load_config
from privcode.data import arrow
from privcode.data.columns import (
    BadField,
    Columns,
    completion_text,
    guess_of_row,
    prompt_text,
    text_field,
)
from privcode.data.reading import ReadReport, owner, read_records
from privcode.data.records import Record, Unit, stored, units_of
from privcode.data.units import Units, numbered, numbered_names
from privcode.errors import UserError
from privcode.files import write_jsonl
from privcode.languages import canonical_language
from privcode.pipeline.private import DataIdentity, private_records, split_records

CONFIG = """\
data: {source: private.jsonl, on_bad_row: skip%s}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-2, units: 8, batch: 2, steps: 1,
  unit: %s, max_records_per_unit: %d, seed: %d}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
audit: {repetitions: [1, 2], candidates: 0, holdout: %d, coin_canaries: 3}
"""


class Eager:
    """What reading gives, in the plainest Python: everything is a list in memory."""

    def __init__(
        self, rows: Sequence[dict[str, Any]], columns: Columns | None, **options: Any
    ) -> None:
        self.records: list[Record] = []
        self.left_out: Counter[str] = Counter()
        languages = options.get("languages")
        wanted = languages and {canonical_language(name) for name in languages}
        contains = options.get("contains")
        for number, row in enumerate(rows, start=1):
            try:
                named = columns or guess_of_row(row)
                if named is None:
                    raise BadField("prompt and code", "no known pair of columns", "")
                name = text_field(row, named.language) if named.language else None
                spoken = canonical_language(name) if name else None
                if wanted and spoken not in wanted:
                    self.left_out["other language"] += 1
                    continue
                if named.language and spoken is None:
                    raise BadField(named.language, "unknown language", "")
                unit = Unit("row", f"row-{number}")
                prompt, completion = prompt_text(row, named), completion_text(row, named)
                if named.unit:
                    unit = Unit("owner", owner(row, named.unit))
            except BadField as bad:
                self.left_out[f"{bad.field}: {bad.reason}"] += 1
                continue
            if contains and contains.casefold() not in f"{prompt}\0{completion}".casefold():
                self.left_out["not selected"] += 1
                continue
            self.records.append(Record(prompt, completion, spoken, unit, number))


def held_out(records: list[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    key = f"privcode holdout {seed}".encode()
    units: defaultdict[Unit, list[str]] = defaultdict(list)
    for one in records:
        units[one.unit].append(json.dumps([one.prompt, one.completion, one.language]))
    chosen = set()
    for unit, content in units.items():
        digest = hmac.digest(key, "\0".join(sorted(content)).encode(), hashlib.sha256)
        if int.from_bytes(digest[:8], "big") < share * 2**64:
            chosen.add(unit)
    return (
        [one for one in records if one.unit not in chosen],
        [one for one in records if one.unit in chosen],
    )


def bounded(records: list[Record], most: int, seed: int) -> list[Record]:
    ranked: defaultdict[Unit, list[tuple[bytes, int]]] = defaultdict(list)
    for index, one in enumerate(records):
        content = json.dumps([one.unit.name, one.prompt, one.completion, one.language])
        rank = hmac.digest(str(seed).encode(), content.encode(), hashlib.sha256)
        ranked[one.unit].append((rank, index))
    kept = sorted(index for unit in ranked.values() for _, index in sorted(unit)[:most])
    return [records[index] for index in kept]


def by_unit(records: Sequence[Record]) -> list[list[int]]:
    units: dict[Unit, list[int]] = {}
    for index, record in enumerate(records):
        units.setdefault(record.unit, []).append(index)
    return list(units.values())


def fingerprint(records: Sequence[Record]) -> str:
    texts = (f"{r.unit.name}\x01{r.prompt}\x01{r.completion}" for r in records)
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def exact(records: Sequence[Record]) -> str:
    digest = hashlib.sha256()
    for r in records:
        row = json.dumps([*r.unit, r.prompt, r.completion, r.language])
        digest.update(row.encode() + b"\n")
    return digest.hexdigest()


texts = st.sampled_from(["Add.", "add the é", "Sort.", " x\n", "", "\ud800", None, 7])
rows = st.lists(
    st.fixed_dictionaries(
        {"prompt": texts, "code": texts},
        optional={
            "language": st.sampled_from(["python", "Python", "go", "cobol", ""]),
            "who": st.sampled_from(["ann", "bob", " ann", "cé", ["ann", "bob"], ["bob"], "row-1"]),
            "problem": st.just("instead"),
        },
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=rows,
    columns=st.sampled_from(
        [
            None,
            Columns("prompt", "code"),
            Columns("prompt", "code", unit="who"),
            Columns("prompt", "code", language="language", unit="who"),
        ]
    ),
    languages=st.sampled_from([None, ["python"], ["python", "go"]]),
    contains=st.sampled_from([None, "ADD", "É"]),
    batch=st.integers(1, 4),
)
def test_what_is_read_is_what_plain_lists_would_hold(
    tmp_path: Path,
    made: list[dict[str, Any]],
    columns: Columns | None,
    languages: list[str] | None,
    contains: str | None,
    batch: int,
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in made))
    chosen: dict[str, Any] = {"languages": languages, "contains": contains}
    eager = Eager(made, columns, **chosen)
    if not eager.records:
        with pytest.raises(UserError, match="no row is left"):
            read_records(str(source), columns, on_bad_row="skip", **chosen)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "ROWS", batch)
        patch.setattr(arrow, "_GIVE_BACK", 3)
        found, report = read_records(str(source), columns, on_bad_row="skip", **chosen)
        assert list(found) == eager.records
        assert [found[i] for i in range(-len(found), len(found))] == eager.records * 2
        assert list(found[1:3]) == eager.records[1:3]
    assert report.left_out == dict(eager.left_out)
    assert (report.rows, report.kept) == (len(made), len(eager.records))
    assert report.languages == dict(Counter(r.language or "unknown" for r in eager.records))
    assert list(units_of(found)) == by_unit(eager.records)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    owners=st.lists(st.integers(0, 6), min_size=1, max_size=25),
    unit=st.sampled_from(["record", "column"]),
    most=st.integers(1, 3),
    seed=st.integers(0, 5),
    holdout=st.integers(0, 4),
    limit=st.sampled_from([None, 0, 3, 99]),
)
def test_a_run_trains_on_what_plain_lists_would_hold(
    tmp_path: Path,
    owners: list[int],
    unit: str,
    most: int,
    seed: int,
    holdout: int,
    limit: int | None,
) -> None:
    made = [
        {"prompt": f"p{i % 5}", "code": f"x = {i % 7}", "who": f"o{o}"}
        for i, o in enumerate(owners)
    ]
    made.insert(len(made) // 2, {"prompt": "", "code": "y", "who": "o1"})
    write_jsonl(tmp_path / "private.jsonl", made)
    most = most if unit == "column" else 1
    columns = ", columns: {prompt: prompt, code: code, unit: who}"
    (tmp_path / "run.yaml").write_text(CONFIG % (columns, unit, most, seed, holdout))
    config = load_config(tmp_path / "run.yaml")
    named = Columns("prompt", "code", unit="who" if unit == "column" else None)
    eager = Eager(made, named)
    trained, others = held_out(eager.records, holdout / 8, config.audit.seed)
    own, beside = bounded(trained, most, seed), bounded(others, most, seed)
    kept, left, counts, data = split_records(config)
    assert (list(kept), list(left)) == (own, beside)
    assert counts["over_the_bound"] == len(eager.records) - len(own) - len(beside)
    assert counts["held_out"] == len(beside)
    assert data.fingerprint == fingerprint(eager.records)
    assert data.exact == exact(eager.records)
    again = DataIdentity(stored(eager.records))
    assert (again.fingerprint, again.exact) == (data.fingerprint, data.exact)
    found, counts, _ = private_records(config, limit)
    whole = [*own[:limit], *found[len(found) - counts["canaries"] :]]
    assert list(found) == whole
    assert counts["canaries"] > 0
    assert all("canary" in r.unit.kind for r in whole[len(own[:limit]) :])
    assert list(units_of(found)) == by_unit(whole) == list(units_of(whole))


def test_nothing_of_the_records_has_a_name_on_the_disk(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    found = stored(_many(5000), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert found[4999].completion == "x = 4999"
    for descriptor in set(os.listdir("/proc/self/fd")) - before:  # that of the map, and no other
        assert os.fstat(int(descriptor)).st_mode & 0o777 == 0o600


def _mapped_without_a_name() -> int:
    return Path("/proc/self/maps").read_text().count("(deleted)")


def test_the_file_goes_with_the_last_of_its_records() -> None:
    before = _mapped_without_a_name()
    found = stored(_many(50))
    part = found[3:5]
    del found
    assert _mapped_without_a_name() == before + 1
    assert [one.completion for one in part] == ["x = 3", "x = 4"]
    del part
    assert _mapped_without_a_name() == before


def _many(count: int) -> Any:
    for i in range(count):
        yield Record("p" * 250, f"x = {i}", "python", Unit("row", f"row-{i}"), i)


START = """\
import os, signal, sys
from pathlib import Path
from privcode.data.reading import read_records
at = 0
def seen(record):
    global at
    at += 1
    if at == 3000:
        os.kill(os.getpid(), signal.SIGKILL)
read_records(sys.argv[1], None, folder=Path(sys.argv[2]), seen=seen)
"""


def test_a_start_that_is_killed_while_it_writes_leaves_nothing_behind(tmp_path: Path) -> None:
    source, folder = tmp_path / "rows.jsonl", tmp_path / "private"
    folder.mkdir()
    write_jsonl(source, [{"prompt": "p", "code": f"x = {i}"} for i in range(5000)])
    done = subprocess.run([sys.executable, "-c", START, source, folder], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert list(folder.iterdir()) == []
    found, _ = read_records(str(source), None, folder=folder)
    assert [r.completion for r in found] == [f"x = {i}" for i in range(5000)]


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: a copy of the records cannot be written"):
        stored(_many(3), tmp_path / "absent")


def test_a_bad_row_is_refused_by_file_row_and_field_while_records_are_written(
    tmp_path: Path,
) -> None:
    made = [{"prompt": "p", "code": "x"}] * 2000 + [{"prompt": "p", "code": ""}]
    write_jsonl(tmp_path / "a.jsonl", made)
    with pytest.raises(UserError, match=r"a\.jsonl, row 2001, field code: empty"):
        read_records(str(tmp_path / "a.jsonl"), None, folder=tmp_path)


def test_a_very_long_record_is_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "CHARACTERS", 100)
    made = [Record("p" * n, "c", None, Unit("row", f"row-{n}"), n) for n in (5, 300, 5, 5, 90, 20)]
    found = stored(made)
    assert list(found) == made
    assert [found[i] for i in range(6)] == made


def test_only_made_up_records_follow_private_ones() -> None:
    with pytest.raises(ValueError, match="made-up"):
        stored(_many(3)).followed_by(list(_many(1)))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=2)), max_size=30))
def test_names_are_numbered_by_their_first_appearance(names: list[tuple[str, str]]) -> None:
    order = list(dict.fromkeys(names))
    assert numbered_names(names).tolist() == [order.index(name) for name in names]
    keys = np.array([hash(name) for name in names], np.int64)
    assert numbered(keys).tolist() == [order.index(name) for name in names]


def test_parts_of_a_name_do_not_run_together() -> None:
    names = [("a", "b\0c"), ("a\0b", "c"), ("ab", "c"), ("a", "bc"), ("1 a", "b"), ("a", " ab")]
    assert numbered_names(names).tolist() == [0, 1, 2, 3, 4, 5]


def test_units_tell_apart_whose_a_record_is() -> None:
    one, other = Units(np.array([0, 1, 0])), Units(np.array([0, 1, 1]))
    assert list(one) == [[0, 2], [1]]
    assert one[:1] == [[0, 2]]
    assert one.facts != other.facts
    assert one.facts == Units(np.array([0, 1, 0])).facts
    with pytest.raises(IndexError):
        one[2]
    assert list(Units(np.zeros(0, np.int64))) == []


MEMORY = """\
import os, sys
from pathlib import Path
from privcode.data.records import Record, Unit, hold_out, stored, units_of
count = int(sys.argv[1])
def many():
    for i in range(count):
        yield Record("p" * 250, f"{i:0250}", "python", Unit("owner", f"somebody {i}"), i)
found = stored(many(), Path(sys.argv[2]))
units = units_of(found)
left = hold_out(found, 0.01, 1)[1]
assert sum(1 for _ in found) == count
for i in range(0, count, 7):
    found[i]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1])
"""


@pytest.mark.slow
def test_ten_times_as_many_records_need_no_more_memory_than_their_numbers(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        ran = [sys.executable, "-c", MEMORY, str(count), str(tmp_path)]
        return 1024 * int(subprocess.run(ran, capture_output=True, check=True).stdout)

    few, many = peak(20_000), peak(200_000)
    # 590 bytes of text a record, if it were held. Numbers and their copies take about 150 bytes.
    assert many - few < 180_000 * 250 + (32 << 20)


def test_the_report_says_what_was_left_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "code": "x"}, {"prompt": "p", "code": ""}])
    _, report = read_records(str(tmp_path / "a.jsonl"), None, on_bad_row="skip")
    assert asdict(report) == {
        "rows": 2,
        "kept": 1,
        "left_out": {"code: empty": 1},
        "languages": {"unknown": 1},
    }
    assert ReadReport(**asdict(report)) == report
