"""The methods side by side: arms made from one config, and the table of what they reached.

Promises:
- Arms differ only in what their name says, and in what `compare.settings` gives to one method.
- Every arm is a whole run. So what is compared is what a user would have run.
- A stage is taken over from an earlier arm if all of its inputs are the same.
- Figures over several seeds come with their 95 % interval and the number of seeds.

Does not: choose settings. One learning rate may suit one method and not another.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from privcode.config import Compared, Config, with_settings
from privcode.errors import UserError
from privcode.fields import json_number
from privcode.pipeline.methods import BUDGETED, METHODS

MOST_ARMS = 1000
SEEDED = ("sanitize", "synthesize", "boost", "evaluate", "audit")

_READS = {
    "pretune": ("data", "bounds", "audit", "premium", "boost", "lesson"),
    "sanitize": ("data", "privacy", "junior", "sanitize", "audit", "lesson"),
    "synthesize": ("prompts", "synthesize", "writer"),
    "validate": ("validate", "describer"),
}
"""What each of the first stages reads, beside what those before it read: sections, what training
reads of the section prompts, which model describes, the one thing that may be taken from the
section premium, and what of the section privacy decides which records take part."""
_SHARED = {
    "privcode": ("sanitize", "synthesize", "validate"),
    "control": ("sanitize", "synthesize", "validate"),
    "jft": ("pretune",),
}
"""The first stages of a method that may be taken over."""


@dataclass(frozen=True)
class Arm:
    """One run of a comparison.

    Attributes:
        method: its row of `METHODS`.
        epsilon: target ε, where the method has a budget.
        seed: of everything but the noise; None where nothing is drawn.
        grid: its values of `compare.grid`, by field.
        config: the run's.
        donor: name of the arm that its first stages are taken from, if any.
        taken: the names of these stages.
    """

    method: Compared
    epsilon: float | None
    seed: int | None
    grid: dict[str, Any]
    config: Config
    donor: str | None = None
    taken: tuple[str, ...] = ()


def arms(config: Config) -> dict[str, Arm]:
    """Arm's name -> arm. Grid × seeds × methods × ε (where they have one); base has no seed.

    A seed's arms follow each other, so a comparison that is stopped has whole seeds.

    Raises:
        UserError: a field of `compare.settings`, `compare.grid` or `compare.published` is none,
            or a value is wrong.
    """
    check_published(config)
    chosen = config.compare
    methods = sum(len(chosen.epsilons.get(method, [0])) for method in chosen.methods)
    count = math.prod(map(len, chosen.grid.values())) * methods * len(chosen.seeds)
    if count > MOST_ARMS:
        raise UserError(f"compare: asks for {count:.3g} runs, over {MOST_ARMS}; compare fewer")
    found: dict[str, Arm] = {}
    for values in product(*chosen.grid.values()):
        grid = dict(zip(chosen.grid, values, strict=True))
        for seed, method in product((None, *chosen.seeds), chosen.methods):
            if (seed is None) != (method == "base"):
                continue
            epsilons = chosen.epsilons.get(method, [config.privacy.epsilon])
            for epsilon in epsilons if method in BUDGETED else (None,):
                name = _name(chosen.grid, grid, method, epsilon, seed, len(chosen.seeds))
                arm = Arm(method, epsilon, seed, grid, _config(config, method, epsilon, seed, grid))
                found[name] = _sharing(arm, found)
    return found


def _name(
    all_values: Mapping[str, Sequence[Any]],
    grid: Mapping[str, Any],
    method: str,
    epsilon: float | None,
    seed: int | None,
    seeds: int,
) -> str:
    parts = [method]
    if epsilon is not None:
        parts.append(f"eps{epsilon:g}")
    for where, value in grid.items():
        # Values may be paths or lists: their number in the config is a name that any disk takes.
        parts.append(f"{where.rpartition('.')[2]}{1 + all_values[where].index(value)}")
    if seed is not None and seeds > 1:
        parts.append(f"seed{seed}")
    return "-".join(parts)


def _config(
    config: Config,
    method: Compared,
    epsilon: float | None,
    seed: int | None,
    grid: Mapping[str, Any],
) -> Config:
    values: dict[str, Any] = {"compare": type(config.compare)().model_dump()}
    values["method"] = METHODS[method].of if METHODS[method].settings else method
    if epsilon is not None:
        values |= {"privacy.epsilon": epsilon, "privacy.noise_multiplier": None}
    if seed is not None:
        values |= {f"{section}.seed": seed for section in SEEDED}
    values["evaluate.models"] = ["base"] if method == "base" else ["tuned"]
    if values["method"] == "privcode":
        values["evaluate.models"] = ["junior", "tuned"]
    values |= dict(grid) | METHODS[method].settings | config.compare.settings.get(method, {})
    return with_settings(config, values, f"compare, arm {method}")


def _sharing(arm: Arm, earlier: Mapping[str, Arm]) -> Arm:
    """`arm`, taking what it can from the earlier arm that has most of it."""
    best, taken = None, tuple[str, ...]()
    for name, other in earlier.items():
        if len(same := _same_stages(arm.config, other.config)) > len(taken):
            best, taken = name, same
    if best is None:
        return arm
    # The junior is the donor's, and so is its score.
    config = with_settings(arm.config, {"evaluate.models": ["tuned"]}, "compare")
    return replace(arm, config=config, donor=best, taken=taken)


def _same_stages(one: Config, other: Config) -> tuple[str, ...]:
    """The first stages that two runs of a method do from the same values.

    Jft's first half has no budget, so one serves all ε.
    """
    if one.method != other.method or one.method not in _SHARED:
        return ()
    a, b = (
        config.model_dump(by_alias=True)
        | {
            "lesson": config.prompts.lesson,
            "writer": config.describer if config.prompts.source == "described" else None,
            "describer": config.describer,
            "bounds": config.privacy.model_dump(exclude={"epsilon", "noise_multiplier"}),
        }
        for config in (one, other)
    )
    same = []
    for stage in _SHARED[one.method]:
        if any(a[section] != b[section] for section in _READS[stage]):
            break
        if stage != "sanitize" or one.method != "control":  # the control's junior is untuned
            same.append(stage)
    return tuple(same)


def row(
    arm: Arm,
    *,
    evaluation: Mapping[str, Any],
    junior: Mapping[str, Any] | None,
    kept: int | None,
    leaks: Mapping[str, Any] | None,
    seconds: float | None,
    by_place: Mapping[str, Any],
    synthesised: Mapping[str, float],
) -> dict[str, Any]:
    """One arm's figures, for results.json.

    Args:
        arm: whose.
        evaluation: task -> figures of the model that the arm is about.
        junior: task -> figures of the DP junior, where there is one.
        kept: synthetic pairs that the filters let through.
        leaks: of the planted canaries, anywhere (see `audit.canaries.leaks`).
        seconds: what its stages took, those taken from another arm included; None: private.
        by_place: see `results.leaks_by_place`.
        synthesised: figures of the synthetic pairs, by name.
    """
    first = next(iter(evaluation.values()))
    first_junior = next(iter(junior.values())) if junior else None
    return {
        "method": arm.method,
        "epsilon": None if arm.epsilon is None else json_number(arm.epsilon),
        "seed": arm.seed,
        "grid": arm.grid,
        "pass@1": first["pass@1"],
        "junior_pass@1": first_junior and first_junior["pass@1"],
        "parse_rate": first["parse_rate"],
        "junior_parse_rate": first_junior and first_junior["parse_rate"],
        "kept": kept,
        "canaries_leaked": leaks["leaked"] if leaks else None,
        "canaries_planted": leaks["planted"] if leaks else None,
        "leaks": leaks["by_repetitions"] if leaks else {},
        "by_place": by_place,
        "synthesised": synthesised,
        "tasks": {task: figures["pass@1"] for task, figures in evaluation.items()},
        "seconds": seconds,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one method, ε and grid values joined over seeds.

    Returns:
        {method, epsilon, grid, seeds, tasks: {task: {mean, half}}, junior, parse_rate,
        junior_parse_rate, kept, seconds: {mean, half} or None, leaks: {repeats: {planted,
        leaked}}}; `half` is half of the 95 % interval of the mean by Student's t, None for one
        seed. Where the rows say it, also by_place: {place: {leaks: as above, exposure: {model:
        {repeats: {mean, half}}}}}, and synthesised: {name: {mean, half}}.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in rows:
        key = (one["method"], one["epsilon"], repr(one["grid"]))
        groups.setdefault(key, []).append(one)
    joined = []
    for group in groups.values():
        first = group[0]
        joined.append(
            {name: first[name] for name in ("method", "epsilon", "grid")}
            | {
                "seeds": len(group),
                "tasks": {
                    task: _mean([g["tasks"][task] for g in group]) for task in first["tasks"]
                },
                "junior": _mean([one["junior_pass@1"] for one in group]),
                **{
                    name: _mean([one[name] for one in group])
                    for name in ("parse_rate", "junior_parse_rate", "kept", "seconds")
                },
                "leaks": _added([one["leaks"] for one in group]),
            }
            | _by_place([one["by_place"] for one in group if one.get("by_place")])
            | _synthesised([one["synthesised"] for one in group if one.get("synthesised")])
        )
    return joined


def _by_place(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"by_place": …} of several seeds; nothing if no row says it."""
    if not group:
        return {}
    found = {}
    for place, first in group[0].items():
        some = [one[place] for one in group if place in one]
        found[place] = {
            "leaks": _added([one["leaks"] for one in some]),
            "exposure": {
                model: {n: _mean([one["exposure"][model][n] for one in some]) for n in counts}
                for model, counts in first["exposure"].items()
            },
        }
    return {"by_place": found}


def _synthesised(group: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """{"synthesised": …} of several seeds; nothing if no row says it."""
    names = dict.fromkeys(name for one in group for name in one)
    found = {name: _mean([one.get(name) for one in group]) for name in names}
    return {"synthesised": found} if found else {}


def _added(group: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts of planted and leaked secrets, by their repetitions, of several seeds together."""
    found: dict[str, Counter[str]] = {}
    for one in group:
        for count, leaks in one.items():
            found.setdefault(count, Counter()).update(leaks)
    return {count: dict(leaks) for count, leaks in found.items()}


def _mean(values: Sequence[float | None]) -> dict[str, float | None] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    half = None
    if len(known) > 1:
        half = round(student.ppf(0.975, len(known) - 1) * stdev(known) / len(known) ** 0.5, 4)
    return {"mean": round(mean(known), 4), "half": half}


def check_published(config: Config) -> None:
    """Refuse published figures that name nothing of the comparison.

    Raises:
        UserError: names the row and the field.
    """
    chosen, tasks = config.compare, {task.name for task in config.evaluate.tasks}
    known = {"method", "epsilon", *chosen.grid, *tasks}
    for number, figures in enumerate(chosen.published, start=1):
        for name, value in figures.items():
            where = f"compare.published, row {number}, field {name}"
            if name not in known:
                raise UserError(
                    f"{where}: is neither a task nor a field of compare.grid; use "
                    f"{', '.join(sorted(known))}"
                )
            if name in tasks and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise UserError(f"{where}: is {value}; pass@1 is a number from 0 to 1")
