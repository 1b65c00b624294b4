"""`privcode sweep`: try settings, and keep the best run.

Promises:
- Under `privacy.selection: trials`, the number of trials and their settings are drawn once. They
  are kept, and counted as spent, before the first trial.
- What the trials make stays in OUT/private. When the best trial is known, it is moved to OUT/best,
  and only the ledgers of the others stay.
- Under the other selections all settings are run side by side in OUT. Each is an ordinary run. It
  is charged, or declared not charged, like any other run.
- Called again, a sweep goes on where it was.

Does not:
- Decide what is tried or drawn (`pipeline.trials` does).
- Keep an owner from looking into `private/`. The guarantee does not cover what the owner sees
  there.
"""

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from privcode.config import Config, digest, plan_of
from privcode.errors import UserError
from privcode.experiments.compare import keep, run_all
from privcode.files import read_json, read_sealed, settle, write_sealed
from privcode.pipeline import results
from privcode.pipeline.budget import SWEEP, select
from privcode.pipeline.directory import lock
from privcode.pipeline.methods import stages_of
from privcode.pipeline.preflight import refuse_early
from privcode.pipeline.private import private_records
from privcode.pipeline.run import Run
from privcode.pipeline.trials import Settings, best, checked, draw, grid, variant
from privcode.privacy import registry


def sweep(config: Config, out: Path) -> dict[str, Any]:
    """Run the sweep. Returns the best run's summary with {"settings", "score"}.

    Raises:
        UserError: a setting may not be tried, a run failed, or nothing was selected.
    """
    chosen = checked(config)
    plan_of(config)
    refuse_early(config, stages_of(config))
    held = lock(out)
    try:
        keep(out / "sweep.yaml", config)
        name = _best_trial(config, out) if config.privacy.trials else _best_of_all(config, out)
        with Run.open(out / name) as run:
            run.report()
            settings = {field: _value(run.config, field) for field in chosen.settings}
            score = _score(config, out / name)
            return results.summary(run) | {"settings": settings, "score": score}
    finally:
        settle(out)
        os.close(held)


def _best_of_all(config: Config, out: Path) -> str:
    runs = {
        f"setting-{n}": variant(config, s) for n, s in enumerate(grid(checked(config)), start=1)
    }
    parallel, logs = checked(config).parallel, out / "private"
    run_all("sweep", runs, out, logs, parallel, may_leave_nothing=True)
    return _chosen(config, {name: out / name for name in runs})


def _best_trial(config: Config, out: Path) -> str:
    private, kept = out / "private", out / "best"
    if not kept.exists():
        trials = {
            f"trial-{n}": variant(config, settings)
            for n, settings in enumerate(_drawn(config, private), start=1)
        }
        if not trials:
            raise UserError(
                f"{out}: this sweep selected nothing: the number of trials is random and was 0, "
                "which the guarantee needs to allow; choose another --out for a new sweep: "
                "both are charged"
            )
        parallel = checked(config).parallel
        run_all("sweep", trials, private, private, parallel, counted=False, may_leave_nothing=True)
        os.replace(private / _chosen(config, {name: private / name for name in trials}), kept)
    select(config, kept, private)
    for path in private.glob("trial-*"):
        if path.is_dir():
            _strip(path)
        else:
            path.unlink()
    return kept.name


def _drawn(config: Config, private: Path) -> list[Settings]:
    """The trials' settings: drawn the first time, and read from then on."""
    path = private / SWEEP
    if not path.exists():
        _, _, data = private_records(config, folder=private)
        identity, plan = secrets.token_hex(16), plan_of(config)
        if not config.data.public:
            registry.register(
                identity,
                data=data.fingerprint,
                source=registry.place(config.data.source),
                spent=plan.spent(),
                ledger=None,
                sweep=identity,
                sketch=registry.keep(data.sketch(registry.secret())),
            )
        assert plan.trials is not None
        drawn = draw(checked(config), plan.trials)
        facts = {"sweep": identity, "config": digest(config), "trials": drawn}
        write_sealed(path, facts, mode=0o600)
    found: list[Settings] = read_sealed(path)["trials"]
    return found


def _chosen(config: Config, runs: dict[str, Path]) -> str:
    name = best({name: _score(config, folder) for name, folder in runs.items()})
    if name is None:
        raise UserError(
            "sweep.settings: with none of those tried a model came out, and the budget stays "
            "spent; try other settings in a new sweep"
        )
    return name


def _score(config: Config, run: Path) -> float | None:
    """pass@1 of a finished run: post-processing of what the mechanism gave."""
    chosen = checked(config).score
    path = run / "evaluation" / f"{chosen.task}.{chosen.model}.json"
    return float(read_json(path)["pass@1"]) if path.exists() else None


def _strip(run: Path) -> None:
    """Remove all of a run except its ledger."""
    for path in [*run.iterdir(), *(run / "private").iterdir()]:
        if path.name in ("private", "ledger.jsonl"):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _value(config: Config, field: str) -> Any:
    value: Any = config.model_dump(by_alias=True)
    for name in field.split("."):
        value = value[name]
    return value
