"""The methods side by side: arms made from one config, and the table of what they reached.

Promises: arms differ in what their name says and in nothing else; every arm is a whole run of its
own, so that what is compared is what a user would have run; figures over several seeds come with
their spread and the number of seeds.
Does not: choose settings for an arm: one learning rate may suit one method and not another.
"""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from privcode.config import Config, json_number, parse_config

BUDGETED = ("privcode", "dpft", "jft", "no-privsa", "constant-lambda", "no-filters")
SEEDED = ("sanitize", "synthesize", "boost", "evaluate")


def arms(config: Config) -> dict[str, Config]:
    """Arm's name -> its config. Methods × ε (where they have one) × seeds; base only once."""
    chosen = config.compare
    epsilons: list[float | None] = [*chosen.epsilons] or [config.privacy.epsilon]
    found: dict[str, Config] = {}
    for method in chosen.methods:
        for epsilon in epsilons if method in BUDGETED else (None,):
            for seed in chosen.seeds if method != "base" else chosen.seeds[:1]:
                parts: list[str] = [method]
                if epsilon is not None:
                    parts.append(f"eps{epsilon:g}")
                if len(chosen.seeds) > 1 and method != "base":
                    parts.append(f"seed{seed}")
                found["-".join(parts)] = _arm(config, method, epsilon, seed)
    return found


def _arm(config: Config, method: str, epsilon: float | None, seed: int) -> Config:
    values = config.model_dump(by_alias=True)
    del values["compare"]
    if epsilon is not None:
        values["privacy"] |= {"epsilon": epsilon, "noise_multiplier": None}
    for section in SEEDED:
        values[section]["seed"] = seed
    values["method"] = "privcode"
    match method:
        case "no-privsa":
            values["sanitize"]["syntax"]["schedule"] = "off"
        case "constant-lambda":
            values["sanitize"]["syntax"]["schedule"] = "constant"
        case "no-filters":
            values["validate"]["execution"]["enabled"] = False
            values["validate"]["round_trip"]["method"] = "off"
        case _:
            values["method"] = method
    values["evaluate"]["models"] = ["base"] if method == "base" else ["tuned"]
    return parse_config(values, f"compare, arm {method}")


def row(name: str, config: Config, results: Mapping[str, Any], leaks: Any) -> dict[str, Any]:
    """One arm's figures: {arm, method, epsilon, pass: {task: pass@1}, leaks: {repeats: …}}.

    Args:
        name: the arm's.
        config: the arm's.
        results: `Run.results()`.
        leaks: `Run.leaks()`; a canary counts as leaked if it came out anywhere.
    """
    method, _, rest = name.partition("-eps")
    method = method.partition("-seed")[0]
    epsilon = config.privacy.epsilon if rest else None
    scores = {task: next(iter(models.values()))["pass@1"] for task, models in results.items()}
    return {
        "arm": name,
        "method": method,
        "epsilon": None if epsilon is None else json_number(epsilon),
        "pass@1": scores,
        "leaks": leaks["places"]["anywhere"]["by_repetitions"] if leaks else {},
    }


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one method and ε joined over seeds: mean, standard deviation and number."""
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for one in rows:
        groups.setdefault((one["method"], one["epsilon"]), []).append(one)
    joined = []
    for (method, epsilon), group in groups.items():
        tasks = {task: [one["pass@1"][task] for one in group] for task in group[0]["pass@1"]}
        leaks: dict[str, dict[str, int]] = {}
        for one in group:
            for count, found in one["leaks"].items():
                total = leaks.setdefault(count, {"planted": 0, "leaked": 0})
                for key in total:
                    total[key] += found[key]
        joined.append(
            {
                "method": method,
                "epsilon": epsilon,
                "seeds": len(group),
                "pass@1": {
                    task: {
                        "mean": round(mean(values), 4),
                        "sd": round(stdev(values), 4) if len(values) > 1 else None,
                    }
                    for task, values in tasks.items()
                },
                "leaks": leaks,
            }
        )
    return joined
