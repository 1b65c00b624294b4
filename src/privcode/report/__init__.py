"""The page and the dataset card that tell a run: the guarantee, what survived, what it reaches.

Promises: made from `Evidence` alone, which holds public figures only; the same evidence gives the
same bytes; the page is one file that fetches nothing, and whatever text is in the evidence is
shown as text.
Does not: compute a guarantee; `guarantee` asks the plan for it.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from privcode.config import json_number
from privcode.models import public_name
from privcode.privacy.accounting import Spent, by_rdp
from privcode.privacy.plan import PrivacyPlan

COVERED = (
    "The synthetic pairs, the tuned model, and the figures of the report: all of them are made "
    "from the private data through the mechanism stated here, and in no other way.",
)
NOT_COVERED = (
    "A secret that stands in the records of k units is protected like a group of k: ε grows "
    "about k-fold where k is small, and faster where it is large; privcode plan prints it.",
    "The prompts of the synthetic data, and the task files, are taken as public on the owner's "
    "word.",
    "Settings chosen by looking at other runs on the same data, unless those runs are listed "
    "here, are not charged.",
    "Two records of different units that describe the same person are two units.",
)
CHOICE = (
    "That the settings are the best of a random number of trials (Poisson, mean {:g}), each with "
    "settings drawn from those that are listed, by their score on public tasks."
)
SEED_WARNING = (
    "The noise was drawn from a seed, so that the run can be repeated. Whoever knows the seed can "
    "take the noise away: the guarantee holds only while nobody does."
)


@dataclass(frozen=True)
class Evidence:
    """Everything public that a report or a release is made of.

    Attributes:
        title: the run's name.
        plan: its privacy plan.
        spent: what its ledger says was spent; empty for a run without DP training.
        others: what other runs over the same data spent; composed unless the plan says not.
        sweep: {"settings", "score"} that the run is the best trial of, if it is one.
        prompts: name of the public prompts' file.
        junior: name of the untuned junior model.
        premium: name of the untuned premium model.
        filters: "samples", "accepted", "reasons" (reason -> count), "execution", "round_trip",
            "surest".
        evaluation: task -> model -> {"pass@1", "tasks", "errors", …}.
        audit: {"samples_per_prompt", "places": {place: leaks}, "exposure": `stages.audit.exposures`
            or None}, where canaries were planted; {"one_run": {what was looked at:
            `audit.one_run.Bound`}}, where coins were thrown.
        versions: package -> version.
    """

    title: str
    plan: PrivacyPlan
    spent: tuple[Spent, ...]
    others: tuple[Spent, ...]
    prompts: str
    junior: str
    premium: str
    filters: dict[str, Any]
    evaluation: dict[str, dict[str, Any]]
    audit: dict[str, Any] | None
    versions: dict[str, str]
    sweep: dict[str, Any] | None = None


def guarantee(evidence: Evidence) -> dict[str, Any]:
    """What is promised, with all it takes to compute it again; None figures without DP."""
    plan = evidence.plan
    facts = plan.describe()
    charge = plan.charge(evidence.others, *evidence.spent) if evidence.spent else None
    spent = charge.spent if charge else evidence.others
    left_out = charge.not_charged if charge else ()
    warning = [SEED_WARNING] if facts["noise"] == "reproducible" else []
    if charge and charge.words:
        warning.append(charge.words)
    return {
        **facts,
        "epsilon": None if charge is None else json_number(charge.cost.epsilon),
        "epsilon_rdp": None if charge is None else json_number(charge.cost.epsilon_rdp),
        "epsilon_of_all_runs": None if charge is None else json_number(charge.of_all.epsilon),
        "epsilon_lower_bounds": (evidence.audit or {}).get("one_run", {}),
        "accountant": accountant(spent, plan.delta),
        "runs_over_the_same_data": len(spent) + len(left_out),
        "spent": [asdict(s) for s in spent],
        "not_charged": [asdict(s) for s in left_out],
        "sweep": evidence.sweep,
        "protects": f"{whom(plan)} added to or removed from the private data",
        "covered": [*COVERED, *([CHOICE.format(plan.trials)] if plan.trials else [])],
        "not_covered": [*warning, *NOT_COVERED],
    }


def loud(facts: dict[str, Any]) -> str | None:
    """The words of a guarantee that nobody may overlook, if it leaves other runs out."""
    return next((line for line in facts["not_covered"] if line.startswith("NOT CHARGED")), None)


def accountant(spent: Sequence[Spent], delta: float) -> str:
    """How the figures for `spent` are computed."""
    if any(s.trials for s in spent):
        return (
            "dp-accounting: RDP (Papernot & Steinke 2022); for the best of a random number of "
            "trials there is no privacy loss distribution (PLD)"
        )
    if by_rdp(spent, delta):
        return (
            "dp-accounting: Rényi DP (RDP); the privacy loss distribution (PLD) is not exact for "
            "so small a δ or so many steps"
        )
    return "dp-accounting: epsilon by privacy loss distribution (PLD), epsilon_rdp by Rényi DP"


def whom(plan: PrivacyPlan) -> str:
    """The unit in words."""
    if plan.owner_column is None:
        return "one record"
    used = plan.max_records_per_unit
    return f"all records of one owner (column {plan.owner_column}; at most {used} of them are used)"


def page(evidence: Evidence) -> str:
    """report.html."""
    from privcode.report import plots

    facts = guarantee(evidence)
    epsilon = facts["epsilon"]
    pictures: dict[str, Any] = {"attack": None, "funnel": None, "scores": None, "exposure": None}
    if isinstance(epsilon, float):
        pictures["attack"] = plots.attack(epsilon, evidence.plan.delta)
    if evidence.filters.get("samples"):
        pictures["funnel"] = plots.funnel(evidence.filters)
    if evidence.audit and evidence.audit.get("exposure"):
        pictures["exposure"] = plots.exposure(evidence.audit["exposure"])
    found = [figures for models in evidence.evaluation.values() for figures in models.values()]
    rates = sorted(
        {name for figures in found for name in figures if name.startswith("pass@")},
        key=lambda name: int(name.removeprefix("pass@")),
    )
    if rates:
        pictures["scores"] = plots.scores(evidence.evaluation, rates[0])
    factor = math.exp(epsilon) if isinstance(epsilon, float) and epsilon < 20 else None
    return _render("page.html.j2", evidence, facts, pictures=pictures, rates=rates, factor=factor)


def card(evidence: Evidence, rows: int, license: str | None = None) -> str:
    """README.md of the release: a dataset card."""
    return _render("card.md.j2", evidence, guarantee(evidence), rows=rows, license=license)


def _render(template: str, evidence: Evidence, facts: dict[str, Any], **more: Any) -> str:
    shown = replace(
        evidence,
        prompts=Path(evidence.prompts).name,
        junior=public_name(evidence.junior),
        premium=public_name(evidence.premium),
    )
    words = loud(facts)
    text: str = environment().get_template(template).render(e=shown, g=facts, words=words, **more)
    return text


def environment() -> Environment:
    """How templates are rendered: HTML is escaped, a name that is not given is an error."""
    found = Environment(
        loader=PackageLoader("privcode.report", ""),
        autoescape=select_autoescape(["html.j2", "html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["figure"] = _figure
    found.filters["markdown"] = markdown
    return found


def markdown(text: str) -> str:
    """Text from outside as one line that is no HTML and no table cell's end."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


def _figure(value: Any) -> str:
    """Numbers as people read them."""
    if value is None:
        return "–"
    return (
        f"{float(value):.4g}".replace("inf", "∞") if isinstance(value, float | str) else str(value)
    )
