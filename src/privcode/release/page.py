"""The page and the dataset card of a run: the guarantee, what survived, and its scores.

Promises:
- Both are made from `Evidence` alone, which holds public figures only.
- The same evidence gives the same bytes.
- The page is one file that fetches nothing. Any text in the evidence is shown as text.

Does not: compute a guarantee. `guarantee` asks the plan for it.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from privcode.console import epsilon_text
from privcode.fields import json_number
from privcode.privacy.accounting import Spent, by_rdp
from privcode.privacy.plan import PrivacyPlan
from privcode.release import pictures
from privcode.release.evidence import Evidence

COVERED = (
    "The synthetic pairs, the tuned model, and the figures of the report: all of them are made "
    "from the private data through the mechanism stated here, and in no other way.",
)
NOT_COVERED = (
    "A secret that stands in the records of k units is protected like a group of k: ε grows "
    "about k-fold where k is small, and faster where it is large; privcode plan prints it.",
    "What the owner states to be public is taken as public: {} the task files, the base models, "
    "the template of a prompt, preludes and files next to programs, and all names. What of the "
    "private data stands in these is not protected.",
    "Settings chosen by looking at other runs on the same data, unless those runs are listed "
    "here, are not charged.",
    "Two records of different units that describe the same person are two units.",
)
WRITTEN = (
    "Prompt and code of a record together: no prompt was taken as public. The prompts of the "
    "synthetic pairs were written by a model, after the mechanism."
)
HISTOGRAM = (
    "How many prompts of which language, kind of task and library were written: this follows a "
    "histogram of all units, released once with Gaussian noise (noise multiplier {:g}), which ε "
    "covers together with the steps."
)
OPENING = "the text that the junior was given to begin with,"
PUBLIC = (
    "The owner declares that the data are public: runs over them are not noted, and other runs are "
    "not counted."
)
CHOICE = (
    "That the settings are the best of a random number of trials (Poisson, mean {:g}), each with "
    "settings drawn from those that are listed, by their score on public tasks."
)
SEED_WARNING = (
    "The noise was drawn from a seed, so that the run can be repeated. Whoever knows the seed can "
    "take the noise away: the guarantee holds only while nobody does."
)


def guarantee(evidence: Evidence) -> dict[str, Any]:
    """What is promised, with all that is needed to recompute it. None figures without DP."""
    plan = evidence.plan
    facts, noise = plan.describe(), plan.histogram_noise_multiplier
    charge = plan.charge(evidence.others, *evidence.spent) if evidence.spent else None
    spent = charge.spent if charge else evidence.others
    left_out = charge.not_charged if charge else ()
    warning = [SEED_WARNING] if facts["noise"] == "reproducible" else []
    if charge and charge.words:
        warning.append(charge.words)
    if evidence.public:
        warning.append(PUBLIC)
    return {
        **facts,
        "epsilon": None if charge is None else json_number(charge.cost.epsilon),
        "epsilon_rdp": None if charge is None else json_number(charge.cost.epsilon_rdp),
        "epsilon_of_all_runs": None if charge is None else json_number(charge.of_all.epsilon),
        "epsilon_lower_bounds": (evidence.audit or {}).get("one_run", {}),
        "accountant": accountant(spent, plan.delta),
        "runs_over_the_same_data": len(spent) + len(left_out),
        "spent": [s.facts() for s in spent],
        "not_charged": [s.facts() for s in left_out],
        "sweep": evidence.sweep,
        "data_declared_public": evidence.public,
        "protects": f"{whom(plan)} added to or removed from the private data",
        "covered": [
            *COVERED,
            *([] if evidence.prompts else [WRITTEN]),
            *([HISTOGRAM.format(noise)] if noise is not None else []),
            *([CHOICE.format(plan.trials)] if plan.trials else []),
        ],
        "not_covered": [
            *warning,
            *(line.format("the prompts," if evidence.prompts else OPENING) for line in NOT_COVERED),
        ],
    }


def loud(facts: dict[str, Any]) -> str | None:
    """The warning that a guarantee leaves other runs out, if it does. Nobody may overlook it."""
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


def on_the_makers_word(evidence: Evidence) -> list[str]:
    """What a bundle says that nobody but its maker can know, in words for any reader."""
    others = len(evidence.others)
    lines = [
        "that the training followed the plan stated here, and drew its noise so",
        f"that the private data were declared as {evidence.plan.units:,} units, and each unit's "
        "records were given its name",
        "that the data are public, so that other runs over them need not be counted"
        if evidence.public
        else "that no other run over the same data spent budget"
        if not others
        else f"that no more than the {others} other run{'s' * (others > 1)} listed here spent "
        "budget on the same data",
        f"that the {'prompts and the ' * bool(evidence.prompts)}task files are public",
        "that the pairs and the tuned model came out of this run, and how many samples were "
        "drawn and rejected",
    ]
    if evidence.evaluation:
        lines.append("the evaluation's figures")
    if evidence.audit:
        lines.append("what the audit counted")
    if evidence.sweep:
        lines.append("that the settings were drawn and chosen as is said here")
    return [*lines, "the names of run, prompts, models and tasks, the licence, and the versions"]


def page(evidence: Evidence, facts: dict[str, Any] | None = None) -> str:
    """report.html of public evidence (see `stated.public`). `facts`: its guarantee, where known."""
    facts, evidence = facts or guarantee(evidence), _ordered(evidence)
    epsilon = facts["epsilon"]
    drawn: dict[str, Any] = {"attack": None, "funnel": None, "scores": None, "exposure": None}
    if isinstance(epsilon, float):
        drawn["attack"] = pictures.attack(epsilon, evidence.plan.delta)
    if evidence.filters.get("samples"):
        drawn["funnel"] = pictures.funnel(evidence.filters)
    if evidence.audit and evidence.audit.get("exposure"):
        drawn["exposure"] = pictures.exposure(evidence.audit["exposure"])
    found = [figures for models in evidence.evaluation.values() for figures in models.values()]
    rates = sorted(
        {name for figures in found for name in figures if name.startswith("pass@")},
        key=lambda name: int(name.removeprefix("pass@")),
    )
    if rates:
        drawn["scores"] = pictures.scores(evidence.evaluation, rates[0])
    factor = math.exp(epsilon) if isinstance(epsilon, float) and epsilon < 20 else None
    more = {"pictures": drawn, "rates": rates, "factor": factor}
    more["bounds"] = sorted(facts["epsilon_lower_bounds"].items())
    return _render("page.html.j2", evidence, facts, word=on_the_makers_word(evidence), **more)


def card(
    evidence: Evidence,
    rows: int,
    license: str | None = None,
    facts: dict[str, Any] | None = None,
) -> str:
    """README.md of the release: a dataset card. `facts`: the guarantee, where known."""
    facts = facts or guarantee(evidence)
    return _render("card.md.j2", evidence, facts, rows=rows, license=license)


def _ordered(evidence: Evidence) -> Evidence:
    """`evidence` with its mappings in the order in which they are shown, whatever theirs was."""
    audit = dict(evidence.audit or {})
    if "places" in audit:
        places = sorted(audit["places"].items(), key=lambda item: (item[0] == "anywhere", item))
        audit["places"] = {name: _by_count(place) for name, place in places}
    if audit.get("exposure"):
        models = sorted(audit["exposure"]["models"].items())
        ranked = {name: _by_count(model) for name, model in models}
        audit["exposure"] = audit["exposure"] | {"models": ranked}
    evaluation = {
        task: {
            name: figures | {"errors": _by_frequency(figures["errors"])}
            for name, figures in sorted(models.items(), key=_as_tuned)
        }
        for task, models in sorted(evidence.evaluation.items())
    }
    sweep = evidence.sweep
    if sweep:
        sweep = sweep | {"settings": dict(sorted(sweep["settings"].items()))}
    versions = dict(sorted(evidence.versions.items()))
    return replace(
        evidence, audit=audit or None, evaluation=evaluation, sweep=sweep, versions=versions
    )


def _by_count(found: dict[str, Any]) -> dict[str, Any]:
    counts = sorted(found["by_repetitions"].items(), key=lambda item: int(item[0]))
    return found | {"by_repetitions": dict(counts)}


def _by_frequency(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _as_tuned(item: tuple[str, Any]) -> tuple[int, str]:
    """The untuned model first, then the junior."""
    return {"base": 0, "junior": 1}.get(item[0], 2), item[0]


def _render(template: str, evidence: Evidence, facts: dict[str, Any], **more: Any) -> str:
    words = loud(facts)
    found = environment().get_template(template)
    text: str = found.render(e=evidence, g=facts, words=words, **more)
    return text


def environment(package: str = "privcode.release") -> Environment:
    """How templates are rendered: HTML is escaped, and an unknown name is an error.

    Args:
        package: the package whose folder `templates` is read first. The style sheet is in that
            of `privcode.release`.
    """
    folders = dict.fromkeys((package, "privcode.release"))
    found = Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in folders]),
        autoescape=select_autoescape(["html.j2", "html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["figure"] = _figure
    found.filters["epsilon"] = _epsilon
    found.filters["name"] = name
    return found


def markdown(text: str) -> str:
    """Text from outside, as one line that holds no HTML and cannot end a table cell."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


def name(text: str) -> str:
    """`markdown` without links, pictures and emphasis: names are whatever their makers chose."""
    return "".join(f"&#{ord(c)};" if c in r"[]`*\!" else c for c in markdown(text))


def _epsilon(value: Any) -> str:
    """An ε as people read it, never below its value."""
    return "–" if value is None else epsilon_text(float(value))


def _figure(value: Any) -> str:
    """Numbers as people read them."""
    if value is None:
        return "–"
    return (
        f"{float(value):.4g}".replace("inf", "∞") if isinstance(value, float | str) else str(value)
    )
