"""The page and the dataset card that tell a run: the guarantee, what survived, what it reaches.

Promises: made from `Evidence` alone, which holds public figures only; the same evidence gives the
same bytes; the page is one file that fetches nothing, and whatever text is in the evidence is
shown as text.
Does not: compute a guarantee; `guarantee` asks the plan for it.
"""

import html
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from privcode.config import json_number
from privcode.models import public_name
from privcode.privacy.accounting import Spent, spend
from privcode.privacy.plan import PrivacyPlan

COVERED = (
    "The synthetic pairs, the tuned model, and the figures of the report: all of them are made "
    "from the private data through the mechanism stated here, and in no other way.",
)
NOT_COVERED = (
    "A secret that stands in the records of k units is protected like a group of k: ε grows "
    "about k-fold, δ faster.",
    "The prompts of the synthetic data, and the task files, are taken as public on the owner's "
    "word.",
    "Settings chosen by looking at other runs on the same data, unless those runs are listed "
    "here, are not charged.",
    "Two records of different units that describe the same person are two units.",
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
        others: what other runs over the same data spent; composed.
        prompts: name of the public prompts' file.
        junior: name of the untuned junior model.
        premium: name of the untuned premium model.
        filters: "samples", "accepted", "reasons" (reason -> count), "execution", "round_trip".
        evaluation: task -> model -> {"pass@1", "tasks", "errors", …}.
        audit: {"samples_per_prompt", "places": {place: leaks}, "exposure": `stages.audit.exposures`
            or None}, where canaries were planted.
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


def guarantee(evidence: Evidence) -> dict[str, Any]:
    """What is promised, with all it takes to compute it again; None figures without DP."""
    plan = evidence.plan
    every = (*evidence.spent, *evidence.others)
    cost = spend(every, plan.delta) if evidence.spent else None
    facts = plan.describe()
    warning = [SEED_WARNING] if facts["noise"] == "reproducible" else []
    return {
        **facts,
        "epsilon": None if cost is None else json_number(cost.epsilon),
        "epsilon_rdp": None if cost is None else json_number(cost.epsilon_rdp),
        "accountant": "dp-accounting: epsilon by privacy loss distribution (PLD), "
        "epsilon_rdp by Rényi DP",
        "runs_over_the_same_data": len(every),
        "spent": [
            {
                "sampling_rate": s.sampling_rate,
                "noise_multiplier": s.noise_multiplier,
                "steps": s.steps,
            }
            for s in every
        ],
        "protects": f"{whom(plan)} added to or removed from the private data",
        "covered": list(COVERED),
        "not_covered": [*warning, *NOT_COVERED],
    }


def whom(plan: PrivacyPlan) -> str:
    """The unit in words."""
    if plan.unit == "record":
        return "one record"
    used = plan.max_records_per_unit
    return f"all records of one owner (column {plan.unit}; at most {used} of them are used)"


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
    environment = Environment(
        loader=PackageLoader("privcode.report", ""),
        autoescape=select_autoescape(["html.j2", "html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["markdown"] = _markdown
    shown = replace(
        evidence,
        prompts=Path(evidence.prompts).name,
        junior=public_name(evidence.junior),
        premium=public_name(evidence.premium),
    )
    text: str = environment.get_template(template).render(e=shown, g=facts, **more)
    return text


def _markdown(text: str) -> str:
    """Text from outside as one line that is no HTML and no table cell's end."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


def _figure(value: Any) -> str:
    """Numbers as people read them."""
    if value is None:
        return "–"
    return (
        f"{float(value):.4g}".replace("inf", "∞") if isinstance(value, float | str) else str(value)
    )
