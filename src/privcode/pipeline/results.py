"""What a run has to show: its figures, the evidence for a release, and whether it is unchanged.

Promises: every figure comes from the run's own files; ε is recomputed from the ledger, never
copied; nothing private is among the figures.
Does not: change a run.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from privcode.audit.canaries import OF_THOSE
from privcode.config import Config
from privcode.errors import UserError
from privcode.fields import json_number
from privcode.files import Row, read_jsonl
from privcode.models import public_name
from privcode.pipeline.budget import check_settings, check_trial
from privcode.pipeline.directory import changed, passing, read_manifest, read_private, versions
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.spending import is_public, spent_beside
from privcode.pipeline.topics import released
from privcode.pipeline.trials import checked
from privcode.plain import files_below, is_text, read_object, shown
from privcode.privacy.accounting import Spent
from privcode.privacy.ledger import planned_in, read_ledger, spent_in
from privcode.privacy.plan import Charge
from privcode.release.bundle import DATA, rows_of
from privcode.release.evidence import Evidence
from privcode.release.stated import checked_audit, public, stated
from privcode.release.verify import verify_bundle


def evaluation(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Task -> model ("base", "junior", or the method's name) -> figures.

    Raises:
        UserError: a file is not what `evaluate` wrote.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.evaluation.glob("*.*.json")):
        facts = read_object(path)
        label, task = facts.pop("model", None), facts.pop("task", None)
        counts = (facts.get("tasks"), *_values(facts.get("errors")))
        numbers = [facts.get("pass@1"), *(v for k, v in facts.items() if k.startswith("pass@"))]
        whole = isinstance(label, str) and isinstance(task, str)
        if not whole or not all(map(_is_count, counts)) or not all(map(_is_share, numbers)):
            raise UserError(f"{path}: is not what evaluate wrote; restore it")
        found.setdefault(task, {})[run.config.method if label == "tuned" else label] = facts
    return found


def _values(found: Any) -> list[Any]:
    """Values of a mapping; of anything else, one that is no count."""
    return list(found.values()) if isinstance(found, dict) else [None]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**12


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def audit(run: RunDirectory) -> dict[str, Any] | None:
    """What the audit found, if there was one.

    Raises:
        UserError: the file is not what `audit` wrote.
    """

    path = run.evaluation / "audit.json"
    return checked_audit(read_object(path), str(path)) if path.exists() else None


def leaks(run: RunDirectory) -> dict[str, Any] | None:
    """The audit's counts of planted secrets, if there were any."""
    found = audit(run)
    return found if found and "places" in found else None


def leaks_by_place(run: RunDirectory) -> dict[str, Any]:
    """What came out of the secrets of each place that some stood in: "code", "prompt", "both".

    Returns:
        place -> {"leaks": COUNT -> {"planted", "leaked"}, "exposure": model -> COUNT -> mean bits}.
        COUNT is the number of records that a secret stood in. Empty if none was planted.
    """
    found = leaks(run)
    if not found:
        return {}
    counts, ranked = found["places"], (found["exposure"] or {}).get("models", {})
    named = {place: name for place, name in OF_THOSE.items() if f"anywhere{name}" in counts}

    def bits(name: str) -> dict[str, dict[str, float]]:
        of = {model: ranked.get(f"{model}{name}") for model in ("junior", "tuned model")}
        return {
            model: {count: one["mean"] for count, one in found["by_repetitions"].items()}
            for model, found in of.items()
            if found
        }

    return {
        place: {"leaks": counts[f"anywhere{name}"]["by_repetitions"], "exposure": bits(name)}
        for place, name in (named or {"code": ""}).items()
    }


def funnel(run: RunDirectory) -> dict[str, Any] | None:
    """How many samples were drawn and accepted, and why others were not."""
    if not run.verdicts.exists():
        return None
    rows = []
    for number, row in read_jsonl(run.verdicts):
        if type(row.get("accepted")) is not bool or not isinstance(row.get("reason"), str):
            raise UserError(f"{run.verdicts}, row {number}: is no verdict; restore the file")
        rows.append(row)
    reasons = Counter(row["reason"] for row in rows if not row["accepted"])
    return {
        "samples": len(rows),
        "accepted": sum(row["accepted"] for row in rows),
        "reasons": dict(reasons.most_common()),
    }


def spent(run: RunDirectory) -> Spent | None:
    """What the run's ledger says was spent, if it trained under DP."""
    entries = read_ledger(run.ledger)
    return spent_in(entries) if entries else None


def summary(run: RunDirectory) -> dict[str, Any]:
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


def verify(run: RunDirectory) -> dict[str, Any]:
    """Check every hash of a run and recompute its guarantee; writes nothing.

    Raises:
        UserError: a file was changed, removed or added; the ledger does not follow the plan.
    """
    if not run.manifest.exists():
        raise UserError(f"{run.out}: no stage is done; run privcode run {run.out}")
    manifest = read_manifest(run.manifest)
    private = read_private(run.private / "manifest.json")
    expected: dict[str, str] = {**manifest["config"], **manifest.get("report", {})}
    for stage in manifest["stages"].values():
        expected |= stage["outputs"]
    expected |= private["files"]
    found = files_below(run.out)
    if missing := sorted(set(expected) - set(found)):
        raise UserError(f"{run.out / missing[0]}: is not the file that the run wrote; restore it")
    if wrong := changed(run.out, expected):
        raise UserError(f"{run.out / wrong[0]}: is not the file that the run wrote; restore it")
    trained = "sanitize" in manifest["stages"]
    known = {*expected, "manifest.json", "private/manifest.json"}
    for name in found:
        bundled = trained and name.startswith("release/")  # verify_bundle knows what may be there
        if not (name in known or bundled or passing(name, expected)):
            raise UserError(f"{shown(run.out / name)}: is not part of the run; move it elsewhere")
    entries = read_ledger(run.ledger)
    noise = run.plan.describe()["noise"]
    facts: dict[str, Any] = {"run": str(run.out), "files": len(expected), "noise": noise}
    facts["versions"] = manifest["versions"]
    if not trained:
        return facts | {"epsilon": None, "delta": run.plan.delta}
    if not entries or planned_in(entries) != run.plan.describe():
        raise UserError(f"{run.ledger}: was not written under the plan of config.yaml")
    check_settings(run.out, entries)
    if run.plan.trials:
        check_trial(run.ledger, entries)
    taken = spent_in(entries)
    if taken.steps != run.plan.steps:
        raise UserError(f"{run.ledger}: holds {taken.steps} of {run.plan.steps} steps; restore it")
    if taken != run.plan.spent():
        raise UserError(f"{run.ledger}: holds no histogram, and the plan has one; restore it")
    if taken.histogram_noise_multiplier and read_object(run.histogram) != released(run, entries):
        raise UserError(f"{run.histogram}: is not what {run.ledger} says; restore it")
    charge = run.plan.charge(spent_beside(run))
    if run.bundle.exists():
        _check_origin(run, manifest["stages"], verify_bundle(run.bundle))
    return facts | {
        "epsilon": json_number(charge.cost.epsilon),
        "epsilon_rdp": json_number(charge.cost.epsilon_rdp),
        "delta": run.plan.delta,
        "steps": taken.steps,
        **charged(charge),
    }


def _check_origin(run: RunDirectory, stages: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuse a bundle, whole by itself, that states or holds something else than the run does."""

    again = f"make the bundle again with privcode release {run.out}"
    own = public(evidence(run), str(run.out))
    told = {**run.plan.describe(), "sweep": own.sweep}
    # A run may have been moved since, and a licence is chosen with the release.
    chosen = {name: facts["stated"][name] for name in ("title", "license")}
    told["stated"] = stated(own, None) | chosen
    told["histogram_noise_multiplier"] = run.plan.histogram_noise_multiplier
    told["epsilon_lower_bounds"] = (own.audit or {}).get("one_run", {})
    for name, value in told.items():
        said = facts.get(name)
        if said != value:
            short = type(value) in (int, float, str) and type(said) in (int, float, str)
            what = f"{name} {said}, the run {value}" if short else f"another {name}"
            raise UserError(f"{run.bundle / 'privacy.json'}: states {what}; {again}")
    if rows_of(run.bundle / DATA) != pairs_in(run.accepted):
        raise UserError(f"{run.bundle / 'data'}: holds other rows than {run.accepted}; {again}")
    models = {k: v for stage in stages.values() for k, v in stage["outputs"].items()}
    for name, digest in facts["files"].items():
        folder, _, file = name.partition("/")
        origin = str((run.premium / file).relative_to(run.out))
        if folder == "adapter" and models.get(origin) != digest:
            raise UserError(f"{run.bundle / name}: is not the run's {origin}; {again}")


def pairs_in(path: Path) -> list[Row]:
    """The rows {id, prompt, completion} of a file that the run wrote.

    Raises:
        UserError: a row is not of this form.
    """
    rows = []
    for number, row in read_jsonl(path):
        texts = [row.get(name) for name in ("id", "prompt", "completion")]
        if set(row) != {"id", "prompt", "completion"} or not all(map(is_text, texts)):
            raise UserError(f"{path}, row {number}: is no pair {{id, prompt, completion}}; restore")
        rows.append(row)
    return rows


def _tried(config: Config) -> dict[str, Any]:
    """What a sweep tries and by what it judges, without places on the owner's machine."""

    sweep = checked(config)
    tried = {
        field: [public_name(value) if isinstance(value, str) else value for value in values]
        for field, values in sweep.settings.items()
    }
    return {"settings": tried, "score": sweep.score.model_dump()}


def evidence(run: RunDirectory) -> Evidence:
    """Everything public that a report or a release is made of."""

    taken = spent(run)
    trip = run.config.validate_.round_trip
    return Evidence(
        title=run.out.name,
        plan=run.plan,
        spent=(taken,) if taken else (),
        others=spent_beside(run),
        sweep=_tried(run.config) if run.plan.trials else None,
        prompts=prompts.rsplit("/", 1)[-1] if (prompts := run.config.prompts.public_file) else None,
        junior=run.config.junior.model,
        premium=run.config.premium.model,
        filters={
            **(funnel(run) or {}),
            "execution": run.config.validate_.execution.enabled,
            "round_trip": {"method": trip.method, "threshold": trip.threshold},
            "surest": run.config.validate_.surest,
            **({"others": others} if (others := run.config.validate_.filters) else {}),
        },
        evaluation=evaluation(run),
        audit=audit(run),
        versions=versions(),
        public=is_public(run.config, read_ledger(run.ledger)),
    )
