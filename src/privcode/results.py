"""What a run has to show: its figures, the evidence for a release, and whether it is unchanged.

Promises: every figure comes from the run's own files; ε is recomputed from the ledger, never
copied; nothing private is among the figures.
Does not: change a run.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from privcode.config import Config, json_number
from privcode.errors import UserError
from privcode.files import read_json, read_jsonl, read_sealed
from privcode.privacy.accounting import Spent, with_unit
from privcode.privacy.ledger import planned_in, read_ledger, spent_in
from privcode.privacy.plan import Charge
from privcode.spending import spent_beside
from privcode.workspace import changed, versions

if TYPE_CHECKING:
    from privcode.report import Evidence
    from privcode.run import Run


def evaluation(run: "Run") -> dict[str, dict[str, Any]]:
    """Task -> model ("base", "junior", or the method's name) -> figures."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.evaluation.glob("*.*.json")):
        facts = read_json(path)
        label = facts.pop("model")
        found.setdefault(facts.pop("task"), {})[
            run.config.method if label == "tuned" else label
        ] = facts
    return found


def audit(run: "Run") -> dict[str, Any] | None:
    """What the audit found, if there was one."""
    path = run.evaluation / "audit.json"
    return read_json(path) if path.exists() else None


def leaks(run: "Run") -> dict[str, Any] | None:
    """The audit's counts of planted secrets, if there were any."""
    found = audit(run)
    return found if found and "places" in found else None


def funnel(run: "Run") -> dict[str, Any] | None:
    """How many samples were drawn and accepted, and why others were not."""
    if not run.verdicts.exists():
        return None
    rows = [row for _, row in read_jsonl(run.verdicts)]
    reasons = Counter(row["reason"] for row in rows if not row["accepted"])
    return {
        "samples": len(rows),
        "accepted": sum(row["accepted"] for row in rows),
        "reasons": dict(reasons.most_common()),
    }


def spent(run: "Run") -> Spent | None:
    """What the run's ledger says was spent, if it trained under DP."""
    entries = read_ledger(run.ledger)
    return spent_in(entries) if entries else None


def summary(run: "Run") -> dict[str, Any]:
    """The public figures of a run as JSON."""
    charge = run.plan.charge(spent_beside(run)) if spent(run) else None
    return {
        "run": str(run.out),
        "method": run.config.method,
        "stages": [name for name in run.stages if name in run.done()],
        "epsilon": None if charge is None else json_number(charge.cost.epsilon),
        "delta": run.plan.delta,
        **(charged(charge) if charge else {}),
        "samples": funnel(run),
        "evaluation": evaluation(run),
        "leaks": leaks(run),
        "one_run": (audit(run) or {}).get("one_run", {}),
    }


def charged(charge: Charge) -> dict[str, Any]:
    """How many runs there were over the same data, which are charged, and the words if not."""
    return {
        "runs_over_the_same_data": len(charge.spent) + len(charge.not_charged),
        "warning": charge.words,
        "epsilon_of_all_runs": json_number(charge.of_all.epsilon),
    }


def verify(run: "Run") -> dict[str, Any]:
    """Check every hash of a run and recompute its guarantee.

    Raises:
        UserError: a file was changed, removed or added; the ledger does not follow the plan.
    """
    if not run.manifest.exists():
        raise UserError(f"{run.out}: no stage is done; run privcode run {run.out}")
    manifest = read_sealed(run.manifest)
    private = read_sealed(run.private / "manifest.json")
    expected: dict[str, str] = {**manifest["config"], **manifest.get("report", {})}
    for stage in manifest["stages"].values():
        expected |= stage["outputs"]
    expected |= private["files"]
    if wrong := changed(run.out, expected):
        raise UserError(f"{run.out / wrong[0]}: is not the file that the run wrote; restore it")
    known = {*expected, "manifest.json", "private/manifest.json"}
    for path in sorted(run.out.rglob("*")):
        name = str(path.relative_to(run.out))
        there = path.is_file() or path.is_symlink()
        if there and not (name in known or name.startswith("release/") or _passing(name)):
            raise UserError(f"{path}: is not part of the run; move it elsewhere")
    entries = read_ledger(run.ledger)
    noise = run.plan.describe()["noise"]
    facts: dict[str, Any] = {"run": str(run.out), "files": len(expected), "noise": noise}
    facts["versions"] = manifest["versions"]
    if "sanitize" not in manifest["stages"]:
        return facts | {"epsilon": None, "delta": run.plan.delta}
    if not entries or planned_in(entries) != run.plan.describe():
        raise UserError(f"{run.ledger}: was not written under the plan of config.yaml")
    taken = spent_in(entries)
    if taken.steps != run.plan.steps:
        raise UserError(f"{run.ledger}: holds {taken.steps} of {run.plan.steps} steps; restore it")
    charge = run.plan.charge(spent_beside(run))
    if run.bundle.exists():
        from privcode.stages.release import verify_bundle

        _check_origin(run, manifest["stages"], verify_bundle(run.bundle))
    return facts | {
        "epsilon": json_number(charge.cost.epsilon),
        "epsilon_rdp": json_number(charge.cost.epsilon_rdp),
        "delta": run.plan.delta,
        "steps": taken.steps,
        **charged(charge),
    }


def _passing(name: str) -> bool:
    """Whether a file is one that privcode itself leaves for a while."""
    parts = name.split("/")
    return any(p.startswith(".") and p.endswith((".lock", ".partial", ".tmp")) for p in parts)


def _check_origin(run: "Run", stages: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuse a bundle, whole by itself, that states or holds something else than the run does."""
    stated = with_unit(facts)
    for name, value in run.plan.describe().items():
        if stated[name] != value:
            raise UserError(
                f"{run.bundle / 'privacy.json'}: states {name} {stated[name]}, the run {value}; "
                f"make the bundle again with privcode release {run.out}"
            )
    rows = [row for _, row in read_jsonl(run.accepted)]
    if pq.read_table(run.bundle / "data").to_pylist() != rows:
        raise UserError(
            f"{run.bundle / 'data'}: holds other rows than {run.accepted}; "
            f"make the bundle again with privcode release {run.out}"
        )
    models = {k: v for stage in stages.values() for k, v in stage["outputs"].items()}
    for name, digest in facts["files"].items():
        folder, _, file = name.partition("/")
        origin = str((run.premium / file).relative_to(run.out))
        if folder == "adapter" and models.get(origin) != digest:
            raise UserError(
                f"{run.bundle / name}: is not the run's {origin}; "
                f"make the bundle again with privcode release {run.out}"
            )


def _tried(config: Config) -> dict[str, Any]:
    """What a sweep tries and by what it judges, without places on the owner's machine."""
    from privcode.models import public_name
    from privcode.stages.sweep import checked

    sweep = checked(config)
    tried = {
        field: [public_name(value) if isinstance(value, str) else value for value in values]
        for field, values in sweep.settings.items()
    }
    return {"settings": tried, "score": sweep.score.model_dump()}


def evidence(run: "Run") -> "Evidence":
    """Everything public that a report or a release is made of."""
    from privcode.report import Evidence

    taken = spent(run)
    trip = run.config.validate_.round_trip
    return Evidence(
        title=run.out.name,
        plan=run.plan,
        spent=(taken,) if taken else (),
        others=spent_beside(run),
        sweep=_tried(run.config) if run.plan.trials else None,
        prompts=run.config.prompts.file.rsplit("/", 1)[-1],
        junior=run.config.junior.model,
        premium=run.config.premium.model,
        filters={
            **(funnel(run) or {}),
            "execution": run.config.validate_.execution.enabled,
            "round_trip": {"method": trip.method, "threshold": trip.threshold},
            "surest": run.config.validate_.surest,
        },
        evaluation=evaluation(run),
        audit=audit(run),
        versions=versions(),
    )
