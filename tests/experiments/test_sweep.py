"""`privcode sweep`: trials that nobody sees, the best of them in the open, all of it charged."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from privcode.config import Config, load_config, plan_of
from privcode.errors import UserError
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.experiments import sweep as sweeping
from privcode.experiments.sweep import sweep
from privcode.files import PUBLIC_TIME, read_json, read_sealed, write_jsonl, write_sealed
from privcode.pipeline import results
from privcode.pipeline.budget import SELECTED, SWEEP
from privcode.pipeline.run import Run
from privcode.pipeline.spending import spent_elsewhere
from privcode.pipeline.trials import best, checked, draw, grid, variant
from privcode.privacy.ledger import read_ledger
from privcode.privacy.registry import registered
from privcode.release.verify import verify_bundle

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 60, batch: 8, steps: 2,
          selection: trials, trials: 2}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
synthesize: {max_new_tokens: 40}
validate: {execution: {enabled: false}, round_trip: {method: "off"}}
premium: {model: "bundled:premium", lora: {r: 2, alpha: 4}}
boost: {epochs: 1}
evaluate:
  tasks: [{name: house, file: tasks.jsonl, prelude: house.py, instruction: "{problem}"}]
  models: [tuned]
  max_new_tokens: 40
sweep: {settings: {sanitize.learning_rate: [0.01, 0.02], boost.epochs: [1, 2]}, parallel: 2}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "private.jsonl", private_records(60, seed=1))
    write_jsonl(tmp_path / "prompts.jsonl", public_prompts(20, seed=1))
    write_jsonl(tmp_path / "tasks.jsonl", tasks(4, seed=1))
    (tmp_path / "house.py").write_text(prelude())
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path / "c.yaml"


def drawn_already(out: Path, trials: list[dict[str, Any]]) -> None:
    """A sweep that was stopped right after its draw."""
    (out / "private").mkdir(parents=True)
    facts = {"sweep": "feed" * 8, "trials": trials}
    write_sealed(out / "private" / SWEEP, facts, mode=0o600)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("sanitize.learning_rate: [", "privacy.epsilon: [", "bears on the guarantee"),
        ("sanitize.learning_rate: [", "data.contains: [", "bears on the guarantee"),
        ("sanitize.learning_rate: [", "audit.samples: [", "bears on the guarantee"),
        ("sanitize.learning_rate: [", "evaluate.samples: [", "on the score"),
        ("sanitize.learning_rate: [", "sanitize.rate: [", "is not a setting"),
        ("sanitize.learning_rate: [", "sanitize.learning_rate.x: [", "is not a setting"),
        ("[0.01, 0.02]", "[0.01, -1]", "learning_rate"),
        ("[0.01, 0.02]", "[]", "no values"),
        ("sweep: {", "sweep: {score: {task: none}, ", "none is none of evaluate.tasks"),
        ("sweep: {", "sweep: {score: {model: junior}, ", "junior is none of evaluate.models"),
        ("models: [tuned]", "samples: 4\n  k: [4]", "must hold 1"),
        ("data:", "method: dpft\ndata:", "only privcode runs"),
        ("trials: 2}", "trials: 2, noise: reproducible}", "every trial the same noise"),
    ],
)
def test_what_may_not_be_tried_is_refused_before_anything_is_drawn(
    config: Path, old: str, new: str, word: str
) -> None:
    assert old in CONFIG
    config.write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(UserError, match=word):
        sweep(load_config(config), config.parent / "out")
    assert not (config.parent / "out").exists()
    assert not registered()


def test_a_setting_that_changes_the_plan_is_not_tried(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privcode.pipeline.trials.SECTIONS", ("privacy",))  # if it were let through
    loaded = load_config(config)
    found = loaded.sweep.model_copy(update={"settings": {"privacy.steps": [2, 3]}})
    with pytest.raises(UserError, match=r"privacy\.steps: changes the privacy plan"):
        checked(loaded.model_copy(update={"sweep": found}))


def test_settings_are_drawn_evenly_from_the_whole_grid(config: Path) -> None:
    loaded = load_config(config)
    everything = grid(checked(loaded))
    assert len(everything) == 4
    found = draw(checked(loaded), 4000.0)
    for settings in everything:  # six standard errors: fails once in 10^8 where it is right
        assert abs(found.count(settings) - 1000) < 6 * 1000**0.5
    one = variant(loaded, everything[3])
    assert (one.sanitize.learning_rate, one.boost.epochs) == (0.02, 2)
    assert plan_of(one) == plan_of(loaded)


def test_the_best_has_the_highest_score_and_no_score_is_the_lowest() -> None:
    assert best({"a": None, "b": 0.0, "c": 0.5, "d": 0.5}) == "c"
    assert best({"a": None, "b": 0.0}) == "b"
    assert best({"a": None}) is None


def test_a_sweep_without_trials_selects_nothing_and_is_charged(config: Path) -> None:
    class Unlucky(random.Random):
        def random(self) -> float:
            return 1 - 2.0**-53

    loaded, out = load_config(config), config.parent / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("privcode.pipeline.trials.SystemRandom", Unlucky)
        with pytest.raises(UserError, match=r"selected nothing.*both are charged"):
            sweep(loaded, out)
    with pytest.raises(UserError, match="selected nothing"):  # it does not draw again
        sweep(loaded, out)
    assert read_sealed(out / "private" / SWEEP)["trials"] == []
    public = (out, out / "sweep.yaml", out / "private")  # times do not tell how long reading took
    assert {path.stat().st_mtime for path in public} == {PUBLIC_TIME}
    (spent,) = spent_elsewhere(loaded).values()
    assert spent == plan_of(loaded).spent()
    config.write_text(CONFIG.replace("0.02]", "0.03]"))
    with pytest.raises(UserError, match="other settings"):
        sweep(load_config(config), out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('round_trip: {method: "off"}', "round_trip: {threshold: 99}"),  # accepts no sample
        ("premium: {model:", "premium: {max_tokens: 2, model:"),  # no pair is short enough
    ],
)
def test_a_trial_whose_models_wrote_nothing_of_use_has_the_lowest_score(
    config: Path, old: str, new: str
) -> None:
    """What a DP model writes is a result. If the sweep stopped there, its budget would be lost."""
    assert old in CONFIG
    config.write_text(CONFIG.replace(old, new, 1))
    loaded, out = load_config(config), config.parent / "out"
    drawn_already(out, grid(checked(loaded))[:1])
    with pytest.raises(UserError, match="with none of those tried a model came out"):
        sweep(loaded, out)


@pytest.mark.slow
def test_a_sweep_keeps_the_best_trial_and_goes_on_where_it_was_killed(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = "validate.round_trip.threshold"
    config.write_text(
        CONFIG.replace('round_trip: {method: "off"}', "round_trip: {threshold: 0}").replace(
            "boost.epochs: [1, 2]", f"{field}: [-99, 99]"
        )
    )
    loaded, out = load_config(config), config.parent / "out"
    drawn_already(out, [grid(checked(loaded))[n] for n in (0, 2, 1)])
    real, chosen = sweeping._score, sweeping._chosen

    def scored(config: Config, run: Path) -> float | None:
        score = real(config, run)  # 0 of these models; and the third, which accepts no sample?
        assert (score is None) == (run.name == "trial-3")
        return None if score is None else {"trial-1": 0.25}.get(run.name, 0.75)

    monkeypatch.setattr(sweeping, "_score", scored)
    monkeypatch.setattr(sweeping, "_chosen", lambda *_: 1 / 0)  # killed before it is known
    with pytest.raises(ZeroDivisionError):
        sweep(loaded, out)
    private = out / "private"
    assert {p.name for p in out.iterdir()} == {"private", "sweep.yaml"}  # nothing to look at
    assert private.stat().st_mode & 0o777 == 0o700
    ledgers = {p: p.read_bytes() for p in private.glob("*/private/ledger.jsonl")}
    assert len(ledgers) == 3
    trial = Run.open(private / "trial-1")
    with pytest.raises(UserError, match="one trial of a sweep"):
        trial.release()
    trial.close()

    monkeypatch.setattr(sweeping, "_chosen", chosen)
    facts = sweep(loaded, out)
    assert facts["settings"] == {"sanitize.learning_rate": 0.02, field: -99}
    assert facts["score"] == 0.75
    kept = {str(p.relative_to(private)) for p in private.rglob("*") if p.is_file()}
    assert kept == {".lock", SWEEP, SELECTED, *(f"trial-{n}/private/ledger.jsonl" for n in (1, 3))}
    for path, content in ledgers.items():  # no trial took a step twice, and none is lost
        moved = out / "best" / "private" / path.name if "trial-2" in str(path) else path
        assert moved.read_bytes() == content
        assert len(read_ledger(moved)) == 1 + 2
    assert sweep(loaded, out) == facts  # done: nothing is run or drawn again
    assert len(registered()) == 3

    run = Run.open(out / "best")
    released = run.release()
    assert results.verify(run)["epsilon"] == released["epsilon"] == facts["epsilon"]
    run.close()
    assert verify_bundle(out / "best" / "release")["epsilon"] == plan_of(loaded).cost().epsilon
    assert (released["trials"], released["runs_over_the_same_data"]) == (2.0, 1)
    assert released["sweep"]["settings"] == loaded.sweep.settings
    public = [p for p in out.rglob("*") if p.is_file() and "private" not in p.parts]
    for path in public:
        assert b"trial-" not in path.read_bytes()
        assert path.name not in ("curve.jsonl", "data.json", "verdicts.jsonl", "ledger.jsonl")
    assert (out / "best" / "private" / "curve.jsonl").exists()


@pytest.mark.slow
def test_settings_that_are_not_charged_are_all_run_and_said_loudly(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from privcode.cli import main

    text = CONFIG.replace("selection: trials, trials: 2", "selection: not-charged")
    config.write_text(text.replace(", boost.epochs: [1, 2]", ""))
    out = config.parent / "out"

    def said(*arguments: str | Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["privcode", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                main()
        assert not end.value.code
        return capsys.readouterr().out

    swept = said("sweep", config, "--out", out)
    assert "NOT CHARGED: 1 other run over the same data was made" in swept
    assert {p.name for p in out.glob("setting-*") if p.is_dir()} == {"setting-1", "setting-2"}
    name = swept.split("release ")[-1].strip()
    for command in ("run", "release", "verify"):
        done = subprocess.run(
            [sys.executable, "-m", "privcode", command, name],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "NOT CHARGED: 1 other run over the same data was made" in done.stdout
    assert "NOT CHARGED: 1 other run" in said("verify", Path(name) / "release")
    assert "NOT CHARGED: 2 other runs" in said("plan", config)  # for the next run
    facts = read_json(Path(name) / "release" / "privacy.json")
    plan = plan_of(load_config(config))
    assert facts["epsilon"] == plan.cost().epsilon
    assert facts["epsilon_of_all_runs"] == plan.cost((plan.spent(),)).epsilon
    assert json.loads(said("plan", config, "--json"))["runs_over_the_same_data"] == 3
    shutil.rmtree(out)
    assert "NOT CHARGED: 2 other runs" in said("plan", config)  # gone, and still counted
