"""One-run lower bounds on ε over seeds: the bundled junior, gradient canaries, sound and broken.

    python benchmarks/audit_one_run.py rows.jsonl --seeds 20 --faulty 5

Each row is one training through `sanitize`; rows that are done are kept, so that a piece can be
stopped (`--minutes`) and gone on with, also by several processes at once (`--part 1/2`). Faults are
other plans carried out than the one that is claimed. `simulated` draws the same observations
without a model or an engine. Prints a Markdown table; `--json` the rows.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import beta

from privcode.audit.one_run import bound_of, choose_guesses, count_right, simulate
from privcode.audit.trial import trial
from privcode.data.records import Record, Unit
from privcode.exercises.corpus import private_records
from privcode.models import attach_lora, load_model, load_tokenizer
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.examples import encode

UNITS, BATCH, STEPS, DELTA = 4000, 800, 50, 2.5e-5
RECORDS, TOKENS, CANARIES = 150, 64, 3000
BUDGETS = (1.0, 4.0, 8.0)


@cache
def plan_for(epsilon: float) -> PrivacyPlan:
    return make_plan(epsilon=epsilon, delta=DELTA, units=UNITS, batch=BATCH, steps=STEPS)


def engines(plan: PrivacyPlan) -> dict[str, PrivacyPlan]:
    noise, huge = plan.noise_multiplier, 1e3
    return {
        "sound": plan,
        "σ halved": replace(plan, noise_multiplier=noise / 2),
        "no noise": replace(plan, noise_multiplier=0.0),
        "no clipping": replace(plan, clip_norm=huge, noise_multiplier=noise / huge),
    }


@cache
def examples() -> list[Any]:
    tokenizer = load_tokenizer("bundled:junior")
    made = private_records(RECORDS, seed=0)
    rows = [
        Record(r["prompt"], r["code"], "python", Unit("row", str(i)), i) for i, r in enumerate(made)
    ]
    return [encode(r, f"Question: {r.prompt}\n\nAnswer:\n", tokenizer, TOKENS)[0] for r in rows]


def measure(epsilon: float, engine: str, seed: int) -> dict[str, Any]:
    """One audit: how many guesses are right."""
    plan, started = plan_for(epsilon), time.monotonic()
    guesses = choose_guesses(plan, CANARIES)
    if engine == "simulated":
        rng = np.random.default_rng([seed, int(epsilon)])
        scores, included = simulate(plan, CANARIES, rng, plan.noise_multiplier)
        right = tuple(count_right(scores, included, n) for n in guesses)
    else:
        torch.manual_seed(seed)
        model = attach_lora(load_model("bundled:junior"), 2, 4, 0.0)
        done = trial(model, examples(), plan, CANARIES, seed, engines(plan)[engine])
        right = done.bound.right
    seconds = round(time.monotonic() - started, 1)
    row = {"epsilon": epsilon, "engine": engine, "seed": seed, "canaries": CANARIES}
    return row | {"guesses": guesses, "right": right, "seconds": seconds}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: bounds by claimed ε and engine, and how often one is above the claim."""
    groups: dict[tuple[float, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        plan = plan_for(row["epsilon"])
        bound = bound_of(row["canaries"], row["guesses"], row["right"], plan)
        found = (bound.epsilon, bound.epsilon_same_shape or 0.0)
        groups[row["epsilon"], row["engine"]].append(found)
    lines = [
        "| claimed ε | engine | seeds | any mechanism: mean [min, max] "
        "| same shape: mean [min, max] | above the claim (95 % interval) |",
        "|---|---|---|---|---|---|",
    ]
    order = ("sound", "simulated", "σ halved", "no noise", "no clipping")
    for epsilon, engine in sorted(groups, key=lambda group: (group[0], order.index(group[1]))):
        found = groups[epsilon, engine]
        claimed = plan_for(epsilon).cost().epsilon
        columns = [
            f"{np.mean(some):.2f} [{min(some):.2f}, {max(some):.2f}]"
            for some in zip(*found, strict=True)
        ]
        n, above = len(found), sum(max(both) > claimed for both in found)
        low = beta.ppf(0.025, above, n - above + 1) if above else 0.0
        high = beta.ppf(0.975, above + 1, n - above) if above < n else 1.0
        columns.append(f"{above} of {n} ({low:.2f} to {high:.2f})")
        lines.append(f"| {epsilon:g} | {engine} | {n} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="JSONL of audits done; gone on with")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--faulty", type=int, default=5, help="seeds for the broken engines")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--part", default="1/1", help="this process's share of the seeds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    def read() -> list[dict[str, Any]]:
        text = args.rows.read_text() if args.rows.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    part, parts = map(int, args.part.split("/"))
    done = {(row["epsilon"], row["engine"], row["seed"]) for row in read()}
    until = time.monotonic() + 60 * args.minutes
    for seed in range(part - 1, args.seeds, parts):
        for epsilon in BUDGETS:
            for engine in ("simulated", *engines(plan_for(epsilon))):
                if engine not in ("sound", "simulated") and seed >= args.faulty:
                    continue
                if (epsilon, engine, seed) in done or time.monotonic() > until:
                    continue
                row = measure(epsilon, engine, seed)
                with args.rows.open("a") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    rows = read()
    print(json.dumps({"rows": rows}, ensure_ascii=False) if args.json else table(rows))


if __name__ == "__main__":
    main()
