"""What was spent on the same data counts, wherever it was spent and whatever became of the run."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from privcode.config import digest, load_config
from privcode.data.records import Record, Unit, stored
from privcode.errors import UserError
from privcode.experiments.compare import keep
from privcode.files import read_sealed, sha256_file, write_sealed
from privcode.pipeline.budget import SELECTED, SWEEP, begin, select
from privcode.pipeline.private import DataIdentity
from privcode.pipeline.results import evidence, verify
from privcode.pipeline.run import Run
from privcode.pipeline.spending import spent_beside
from privcode.pipeline.stages.sanitize import begin_ledger
from privcode.pipeline.trials import variant
from privcode.privacy.accounting import Spent
from privcode.privacy.ledger import Ledger, identity, read_ledger
from privcode.privacy.registry import place, register, registered, registry

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 200, batch: 16, steps: 6}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
"""


def data_of(name: str, count: int = 30) -> DataIdentity:
    """Made-up data; of another name they have no text in common."""
    return DataIdentity(
        stored(
            Record(f"{name}, {i}", f"x = {name!r}, {i}", None, Unit("row", f"row-{i}"), i)
            for i in range(count)
        )
    )


DATA = data_of("these")
WHOLE = Spent(16 / 200, 1.0, 6)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "private.jsonl").write_text('{"prompt": "a", "code": "b"}\n')
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path / "c.yaml"


def begun(config: Path, out: str, steps: int = 0, data: str = "these") -> Run:
    """A run in a directory of its own that took some steps, and is closed."""
    run = Run(load_config(config), config.parent / out / "run")
    begin(run.config, run.plan, run.ledger, data_of(data))
    run.close()
    ledger = Ledger(run.ledger)
    for step in range(ledger.steps, steps):
        ledger.step(step)
    return run


def others(run: Run) -> list[Spent]:
    return sorted(spent_beside(run), key=lambda s: s.steps)


def test_runs_in_other_places_count_with_all_they_may_take(config: Path) -> None:
    begun(config, "a", 6)
    begun(config, "b", 2)
    assert others(begun(config, "c")) == [WHOLE, WHOLE]


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("kept", [True, False])
def test_a_ledger_that_was_put_back_from_a_backup_takes_nothing_from_what_counts(
    config: Path, rows: int, kept: bool
) -> None:
    first = begun(config, "a", 6)
    if not kept:  # a run next to this one that is in no registry
        registry().unlink()
    lines = first.ledger.read_text().splitlines(keepends=True)
    first.ledger.write_text("".join(lines[:rows]))
    beside = Run(load_config(config), config.parent / "a" / "other")
    begin(beside.config, beside.plan, beside.ledger, DATA)
    beside.close()
    assert others(beside) == [WHOLE]


def test_a_deleted_run_counts_with_all_it_may_have_taken(config: Path) -> None:
    first = begun(config, "a", 2)
    shutil.rmtree(first.out)
    assert others(begun(config, "b")) == [WHOLE]
    again = begun(config, "a", 3)  # in the place of the deleted run: not the same run
    assert others(again) == [WHOLE, WHOLE]


def test_a_run_whose_ledger_was_spoilt_elsewhere_counts_with_all_it_may_have_taken(
    config: Path,
) -> None:
    first = begun(config, "a", 2)
    first.ledger.write_text("{}\n")
    assert others(begun(config, "b")) == [WHOLE]


def test_a_run_beside_this_one_is_counted_once(config: Path) -> None:
    begun(config, "a", 6)
    beside = Run(load_config(config), config.parent / "a" / "other")
    begin(beside.config, beside.plan, beside.ledger, DATA)
    beside.close()
    assert others(beside) == [WHOLE]


def test_a_finished_run_that_is_moved_or_copied_is_counted_once(config: Path) -> None:
    first = begun(config, "a", 6)
    shutil.copytree(first.out, first.out.with_name("copy"))
    shutil.move(first.out, config.parent / "moved")
    moved = Run.open(config.parent / "moved")
    moved.close()
    assert others(moved) == []
    assert others(begun(config, "b")) == [WHOLE]
    copy = Run.open(first.out.with_name("copy"))
    begin(copy.config, copy.plan, copy.ledger, DATA)  # nothing is left to take
    copy.close()
    assert len(others(copy)) == 1
    assert len(registered()) == 2


def test_a_copy_that_goes_on_is_counted_as_one_run_more(config: Path) -> None:
    first = begun(config, "a", 3)
    shutil.copytree(first.out.parent, config.parent / "b")
    copy = begun(config, "b", 6)
    assert others(copy) == [WHOLE]
    begun(config, "a", 6)
    shutil.rmtree(config.parent / "a")
    assert others(begun(config, "c")) == [WHOLE, WHOLE]
    assert len(read_ledger(copy.ledger)) == 1 + 6 + 1
    begun(config, "b", 6)  # where it went on it may go on again
    assert len(registered()) == 3


def test_of_copies_under_one_name_the_one_that_went_furthest_counts(config: Path) -> None:
    first = begun(config, "a", 2)
    shutil.copytree(first.out, first.out.with_name("run-backup"))
    begun(config, "a", 6)
    beside = Run(load_config(config), first.out.with_name("third"))
    begin(beside.config, beside.plan, beside.ledger, DATA)
    beside.close()
    assert others(beside) == [WHOLE]
    shutil.rmtree(first.out)  # what the copy holds is not all that the run took
    assert others(beside) == [WHOLE]


def test_a_reproducible_run_begun_in_two_places_counts_once(
    config: Path,
) -> None:
    config.with_name("r.yaml").write_text(
        CONFIG.replace("steps: 6}", "steps: 6, noise: reproducible}")
    )
    begun(config.with_name("r.yaml"), "a", 2)
    begun(config.with_name("r.yaml"), "b", 6)
    assert others(begun(config, "c")) == [WHOLE]


OWNERS = CONFIG.replace(
    "python}", "python, columns: {prompt: prompt, code: code, unit: author}}"
).replace("steps: 6}", "steps: 6, unit: column, max_records_per_unit: 4}")


@pytest.mark.parametrize("texts", [(CONFIG, OWNERS), (OWNERS, CONFIG)])
def test_runs_that_protect_units_of_two_kinds_have_no_epsilon_together(
    config: Path, texts: tuple[str, str]
) -> None:
    for name, text in zip("xy", texts, strict=True):
        config.with_name(f"{name}.yaml").write_text(text)
    first, second = (begun(config.with_name(f"{n}.yaml"), n, 6) for n in "xy")
    for run in (first, second):
        assert run.plan.charge(spent_beside(run)).cost.epsilon == math.inf
    shutil.rmtree(first.out)  # the plan that was registered says it, too
    assert second.plan.charge(spent_beside(second)).cost.epsilon == math.inf


def test_a_run_of_another_unit_is_refused_before_it_spends(config: Path) -> None:
    begun(config, "a", 6)
    config.with_name("o.yaml").write_text(OWNERS)
    run = Run(load_config(config.with_name("o.yaml")), config.parent / "b")
    with pytest.raises(UserError, match=r"is owner \(column author\).*protects each record"):
        begin_ledger(run, DATA)
    run.close()
    assert not run.ledger.exists()
    assert len(registered()) == 1
    declared = OWNERS.replace("unit: column", "unit: column, selection: not-charged")
    config.with_name("d.yaml").write_text(declared)
    run = Run(load_config(config.with_name("d.yaml")), config.parent / "c")
    begin_ledger(run, DATA)
    run.close()
    charge = run.plan.charge(spent_beside(run))
    assert math.isfinite(charge.cost.epsilon)
    assert "with all of them ε = ∞" in str(charge.words)


def test_going_on_in_the_same_place_counts_nothing_twice(config: Path) -> None:
    begun(config, "a", 2)
    run = begun(config, "a", 6)
    assert others(run) == []
    assert len(registered()) == 1


def test_a_run_that_was_begun_before_the_registry_was_lost_is_noted_again(config: Path) -> None:
    begun(config, "a", 2)
    registry().unlink()
    begun(config, "a", 4)
    shutil.rmtree(config.parent / "a")
    assert others(begun(config, "b")) == [WHOLE]


def test_the_same_source_or_the_same_records_are_the_same_data(config: Path) -> None:
    begun(config, "a", 6, data="grown since")
    shutil.copy(config.parent / "private.jsonl", config.parent / "renamed.jsonl")
    config.with_name("d.yaml").write_text(CONFIG.replace("private.jsonl", "renamed.jsonl"))
    begun(config.with_name("d.yaml"), "b", 5)
    config.with_name("e.yaml").write_text(CONFIG.replace("private.jsonl", "c.yaml"))
    begun(config.with_name("e.yaml"), "c", 4, data="something else")
    assert others(begun(config, "d")) == [WHOLE, WHOLE]


def test_a_folder_is_one_place_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    whole = place(str(tmp_path / "data"))
    assert place("data") == place("data:train") == place(f"{tmp_path}/data:train") == whole
    assert place("data:test") != whole
    assert place("owner/name:train") == "owner/name:train"


def test_public_data_are_not_registered_and_look_up_nothing(config: Path) -> None:
    private = begun(config, "a", 6)
    config.write_text(CONFIG.replace("python}", "python, public: true}"))
    public = begun(config, "b", 6)
    assert len(registered()) == 1
    assert others(public) == []
    assert others(private) == []
    assert (evidence(public).public, evidence(private).public) == (True, False)


def test_a_crash_between_registry_and_ledger_counts_a_run_too_many(config: Path) -> None:
    run = Run(load_config(config), config.parent / "a" / "run")
    run.ledger.symlink_to(config.parent / "none" / "ledger.jsonl")
    with pytest.raises(UserError, match="cannot be written"):
        begin(run.config, run.plan, run.ledger, DATA)
    run.close()
    assert len(registered()) == 1
    run.ledger.unlink()
    assert others(begun(config, "a", 6)) == [WHOLE]


def test_the_registry_is_its_owners_alone_and_shows_what_was_altered(config: Path) -> None:
    for out in "abc":
        begun(config, out)
    path = registry()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    lines = path.read_text().splitlines(keepends=True)
    for number, rows in enumerate([(1, 2), (1, 0, 2), (0, 2)]):
        path.write_text("".join(lines[row] for row in rows))
        with pytest.raises(UserError, match="was altered"):
            begun(config, f"spoilt-{number}")
    path.write_text("".join(lines) + lines[0][:40])  # a crash in the middle of a line
    begun(config, "d")
    assert len(registered()) == 4


@pytest.mark.parametrize("rows", [(0, 2, 1, 3), (0, 1, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3)])
def test_a_ledger_row_removed_repeated_or_moved_is_found(
    config: Path, rows: tuple[int, ...]
) -> None:
    run = begun(config, "a", 3)
    lines = run.ledger.read_text().splitlines(keepends=True)
    run.ledger.write_text("".join(lines[row] for row in rows))
    with pytest.raises(UserError, match="was altered or does not follow"):
        read_ledger(run.ledger)


def test_a_registry_that_cannot_be_written_stops_a_run_before_it_spends(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVCODE_STATE", str(config))  # a file
    (config.parent / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    arguments = ["run", str(config), "--out", str(config.parent / "a" / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "privcode", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "PRIVCODE_STATE" in done.stderr
    run = Run.open(config.parent / "a" / "run")
    with pytest.raises(UserError, match="PRIVCODE_STATE"):  # with a stage by itself
        begin(run.config, run.plan, run.ledger, DATA)
    run.close()
    assert not run.ledger.exists()


@pytest.fixture
def swept(config: Path) -> Path:
    text = CONFIG.replace("steps: 6}", "steps: 6, selection: trials, trials: 3}")
    config.with_name("t.yaml").write_text(text)
    return config.with_name("t.yaml")


def drawn(config: Path, trials: list[dict[str, float]]) -> Path:
    """The `private/` of a sweep that has drawn these settings."""
    whole, out = load_config(config), config.parent / "sweep"
    keep(out / "sweep.yaml", whole)
    facts = {"sweep": "s", "config": digest(whole), "trials": trials}
    write_sealed(out / "private" / SWEEP, facts)
    return out / "private"


def test_all_trials_of_a_sweep_count_as_one_choice(config: Path, swept: Path) -> None:
    private = drawn(swept, [{}, {}, {}])
    whole = Spent(WHOLE.sampling_rate, WHOLE.noise_multiplier, 6, 3.0)
    source = str(config.parent / "private.jsonl")
    register("s", data=DATA.fingerprint, source=source, spent=whole, ledger=None, sweep="s")
    assert others(begun(config, "a")) == [whole]  # which may have had no trial
    for name, steps in (("trial-1", 2), ("trial-2", 6), ("trial-3", 1)):
        trial = Run(load_config(swept), private / name)
        begin(trial.config, trial.plan, trial.ledger, DATA)
        trial.close()
        for step in range(steps):
            Ledger(trial.ledger).step(step)
    assert others(trial) == [WHOLE]
    shutil.rmtree(private / "trial-2")
    assert sorted(others(begun(config, "b")), key=lambda s: s.trials or 0) == [WHOLE, whole]


def test_a_trial_is_taken_once_and_in_its_place(swept: Path) -> None:
    private = drawn(swept, [{}])

    def trial(place: Path) -> None:
        run = Run(load_config(swept), place)
        try:
            begin(run.config, run.plan, run.ledger, DATA)
        finally:
            run.close()

    trial(private / "trial-1")
    trial(private / "trial-1")  # going on
    shutil.copytree(private / "trial-1", private / "copy")
    with pytest.raises(UserError, match="in its own place"):
        trial(private / "copy")
    shutil.rmtree(private / "trial-1")
    with pytest.raises(UserError, match="pays for each trial once"):
        trial(private / "trial-1")
    shutil.copytree(private.parent, swept.parent / "again")
    with pytest.raises(UserError, match="pays for each trial once"):
        trial(swept.parent / "again" / "private" / "trial-1")
    assert len(registered()) == 1


RATE = "sanitize.learning_rate"


@pytest.mark.parametrize(
    ("name", "rate", "word"),
    [
        ("mine", 0.01, "none of the trials"),
        ("trial-3", 0.01, "none of the trials"),
        ("trial-1", 0.02, "other settings than the sweep drew"),
        ("trial-2", 0.5, "other settings than the sweep drew"),
    ],
)
def test_a_run_that_the_sweep_did_not_draw_is_none_of_its_trials(
    swept: Path, name: str, rate: float, word: str
) -> None:
    private, whole = drawn(swept, [{RATE: 0.01}, {RATE: 0.02}]), load_config(swept)
    run = Run(variant(whole, {RATE: rate}), private / name)
    with pytest.raises(UserError, match=word):
        begin(run.config, run.plan, run.ledger, DATA)
    run.close()
    assert not run.ledger.exists()
    assert not registered()
    run = Run(variant(whole, {RATE: 0.02}), private / "trial-2")
    begin(run.config, run.plan, run.ledger, DATA)
    run.close()
    assert len(registered()) == 1


def test_a_sweep_whose_settings_were_edited_after_the_draw_has_no_trial(swept: Path) -> None:
    private = drawn(swept, [{RATE: 0.01}])
    kept = private.parent / "sweep.yaml"
    kept.write_text(kept.read_text().replace("clip_norm: 1.0", "clip_norm: 2.0"))
    run = Run(variant(load_config(kept), {RATE: 0.01}), private / "trial-1")
    with pytest.raises(UserError, match="none of the trials"):
        begin(run.config, run.plan, run.ledger, DATA)
    run.close()


def test_a_trial_that_was_edited_later_is_not_verified(swept: Path) -> None:
    run = Run(variant(load_config(swept), {RATE: 0.01}), drawn(swept, [{RATE: 0.01}]) / "trial-1")
    with run.stage("sanitize", [], []):
        begin(run.config, run.plan, run.ledger, DATA)
        for step in range(6):
            Ledger(run.ledger).step(step)
    verify(run)
    kept = run.out / "config.yaml"
    kept.write_text(kept.read_text().replace("  epochs: 2", "  epochs: 3"))
    manifest = read_sealed(run.manifest)
    write_sealed(run.manifest, manifest | {"config": {"config.yaml": sha256_file(kept)}})
    with pytest.raises(UserError, match="other settings than the sweep drew"):
        verify(run)
    run.close()


def test_a_run_that_is_no_trial_cannot_pass_for_the_best_of_several(swept: Path) -> None:
    run = Run(load_config(swept), swept.parent / "run")
    with pytest.raises(UserError, match="start it with privcode sweep"):
        begin(run.config, run.plan, run.ledger, DATA)
    assert not run.ledger.exists()
    assert not registry().exists()
    run.close()


def test_a_trial_is_not_released_before_the_best_is_chosen(swept: Path) -> None:
    write_sealed(swept.parent / SWEEP, {"sweep": "s", "trials": []})
    run = Run(load_config(swept), swept.parent / "trial-1")
    with pytest.raises(UserError, match="one trial of a sweep"):
        run.release()
    run.close()


def finished(config: Path, out: Path) -> Run:
    """A trial whose steps are taken and that is noted, but for the models."""
    run = Run(load_config(config), out)
    with run.stage("sanitize", [], []):
        begin(run.config, run.plan, run.ledger, DATA)
        for step in range(6):
            Ledger(run.ledger).step(step)
    run.close()
    return run


def refusal(run: Run) -> str:
    opened = Run.open(run.out)
    with pytest.raises(UserError) as refused:
        opened.release()
    opened.close()
    return str(refused.value)


def test_of_the_trials_of_a_sweep_only_the_selected_one_is_released(
    config: Path, swept: Path
) -> None:
    private = drawn(swept, [{}, {}])
    for name in ("trial-1", "trial-2"):
        finished(swept, private / name)
    moved = []
    for name in ("trial-1", "trial-2"):
        shutil.move(private / name, config.parent / name)
        moved.append(Run.open(config.parent / name))
        moved[-1].close()
        assert "only the best is released" in refusal(moved[-1])
    best, other = moved
    select(best.config, best.out, private)
    select(best.config, best.out, private)
    assert "synthesize is not done" in refusal(best)  # and not that it is one of several
    assert "only the best is released" in refusal(other)
    shutil.copy(best.private / SELECTED, other.private / SELECTED)
    assert "only the best is released" in refusal(other)
    with pytest.raises(UserError, match="another trial of this sweep was selected"):
        select(other.config, other.out, private)
    (private / SELECTED).unlink()  # the registry remembers
    with pytest.raises(UserError, match="another trial of this sweep was selected"):
        select(other.config, other.out, private)
    facts = {"sweep": "s", "run": identity(read_ledger(other.ledger))}
    write_sealed(other.private / SELECTED, facts)
    assert "another trial of this sweep was selected" in refusal(other)


def test_nothing_of_the_registry_is_in_what_a_ledger_says_in_public(config: Path) -> None:
    begun(config, "a", 6)
    facts = json.dumps(begun(config, "b").plan.describe())
    for entry in registered():
        assert entry["run"] not in facts
        assert entry["data"] not in facts
