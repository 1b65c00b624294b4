"""What attacks find in the bundled models, tuned with privcode and without privacy.

The exercise world's made-up records (so the figures of membership inference may be shown), with
canaries in 1, 10 and 50 records and a fifth of the units held out. Arms: privcode at ε 4 (its DP
junior, and the premium tuned on what that junior wrote), plain tuning on the private records
(junior, premium), and the junior overfitted to some of them. Every piece (an arm and a seed) is a
run of its own under --out: kill it, and it goes on where it was.

    python benchmarks/audit_models.py --out DIR [--seeds 3] [--piece privcode-0] [--json]

With --piece only that piece is run; without, all that are missing, and then the table is printed.
A piece takes 2 to 6 minutes on one core.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t

from privcode.config import load_config
from privcode.exercises.corpus import private_records, public_prompts
from privcode.files import read_json, write_jsonl, write_text
from privcode.pipeline.run import Run

RECORDS, HELD_OUT, PROMPTS = 2500, 500, 600
CONFIG = """\
method: {method}
data: {{source: private.jsonl, language: python, public: true}}
privacy: {{epsilon: 4, delta: 4.0e-5, units: {records}, batch: 128, steps: 40, clip_norm: 0.3}}
prompts: {{source: public, file: prompts.jsonl}}
junior: {{model: "bundled:junior", lora: {{r: 4, alpha: 8}}, max_tokens: 512}}
sanitize:
  learning_rate: 0.03
  weight_decay: 0
  micro_batch: 32
  syntax: {{schedule: "off"}}
  seed: {seed}
synthesize: {{temperature: 0.3, max_new_tokens: 130, batch_size: 128, seed: {seed}}}
validate: {{execution: {{enabled: false}}, round_trip: {{method: "off"}}}}
premium: {{model: "bundled:{premium}", lora: {{r: 16, alpha: 32}}, max_tokens: 512}}
boost:
  learning_rate: 4.0e-3
  epochs: {epochs}
  batch_size: 32
  micro_batch: 32
  limit: {limit}
  seed: {seed}
evaluate: {{batch_size: 128}}
audit:
  repetitions: [1, 10, 50]
  samples: 5
  max_new_tokens: 64
  candidates: 500
  holdout: {held_out}
  seed: {seed}
"""
ARMS: dict[str, dict[str, Any]] = {
    "privcode": {"method": "privcode", "premium": "premium", "epochs": 2, "limit": "null"},
    "plain-junior": {"method": "nondp", "premium": "junior", "epochs": 2, "limit": "null"},
    "overfitted-junior": {"method": "nondp", "premium": "junior", "epochs": 20, "limit": 500},
    "plain-premium": {"method": "nondp", "premium": "premium", "epochs": 2, "limit": "null"},
}
ROWS = {  # model in the table -> arm, model in its files
    "junior, untuned": ("privcode", "junior, before tuning"),
    "junior, DP ε 4": ("privcode", "junior"),
    "junior, non-private": ("plain-junior", "tuned model"),
    "junior, non-private, 500 records 20 times": ("overfitted-junior", "tuned model"),
    "premium, untuned": ("privcode", "tuned model, before tuning"),
    "premium, privcode ε 4": ("privcode", "tuned model"),
    "premium, non-private": ("plain-premium", "tuned model"),
}


def run(arm: str, seed: int, out: Path) -> Path:
    """One piece, from where it was."""
    folder = out / f"{arm}-{seed}"
    if not (folder / "privcode.yaml").exists():
        write_jsonl(folder / "private.jsonl", private_records(RECORDS, seed=seed))
        write_jsonl(folder / "prompts.jsonl", public_prompts(PROMPTS, seed=seed))
        text = CONFIG.format(seed=seed, records=RECORDS, held_out=HELD_OUT, **ARMS[arm])
        write_text(folder / "privcode.yaml", text)
    piece = Run(load_config(folder / "privcode.yaml"), folder / "run")
    piece.all()
    piece.close()
    return folder / "run"


def interval(values: list[float]) -> dict[str, float]:
    """Mean with a 95 % t interval."""
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return {"mean": mean(values), "low": mean(values) - half, "high": mean(values) + half}


def figures(out: Path, seeds: int) -> list[dict[str, Any]]:
    """One row a model, of all pieces that are done."""
    rows = []
    for name, (arm, model) in ROWS.items():
        runs = [out / f"{arm}-{seed}" / "run" for seed in range(seeds)]
        runs = [one for one in runs if (one / "private" / "membership.json").exists()]
        if not runs:
            continue
        audits = [read_json(one / "evaluation" / "audit.json") for one in runs]
        canaries = [c for a in audits for c in a["exposure"]["models"][model]["canaries"]]
        row: dict[str, Any] = {"model": name, "seeds": len(runs), "exposure": {}, "leaked": {}}
        for count in sorted({c["repetitions"] for c in canaries}):
            some = [c for c in canaries if c["repetitions"] == count]
            beyond = [c["extrapolated"] for c in some if c["extrapolated"] is not None]
            row["exposure"][str(count)] = {
                **interval([c["sampled"] for c in some]),
                "least": min(c["sampled"] for c in some),
                "most": max(c["sampled"] for c in some),
                "extrapolated": mean(beyond),
                "poor_fits": sum(c["fit"] < 0.1 for c in some),
                "canaries": len(some),
            }
            if place := f"{model}, asked for them" if "untuned" not in name else "":
                found = [a["places"][place]["by_repetitions"][str(count)] for a in audits]
                row["leaked"][str(count)] = [sum(f[k] for f in found) for k in found[0]]
        told = [read_json(one / "private" / "membership.json")["models"].get(model) for one in runs]
        if told[0]:
            row["membership"] = {
                score: {
                    figure: {
                        "mean": mean(one[score][figure]["value"] for one in told),
                        "low": min(one[score][figure]["low"] for one in told),
                        "high": max(one[score][figure]["high"] for one in told),
                    }
                    for figure in told[0][score]
                }
                for score in told[0]
            }
        rows.append(row)
    return rows


def tables(rows: list[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    counts = list(rows[0]["exposure"])
    head = [f"{count}×" for count in counts]
    lines = [
        "| model | seeds | " + " | ".join(head) + " | extrapolated, " + ", ".join(head)
        + " | came out, " + ", ".join(head) + " |",
        "|---" * (4 + len(counts)) + "|",
    ]  # fmt: skip
    for row in rows:
        cells = [row["model"], str(row["seeds"])]
        for one in row["exposure"].values():
            cells.append(
                f"{one['mean']:.1f} [{one['low']:.1f}, {one['high']:.1f}], "
                f"{one['least']:.1f} … {one['most']:.1f}"
            )
        cells.append(", ".join(f"{one['extrapolated']:.1f}" for one in row["exposure"].values()))
        leaked = (f"{found} of {planted}" for planted, found in row["leaked"].values())
        cells.append(", ".join(leaked) or "–")
        lines.append("| " + " | ".join(cells) + " |")
    scores = next(list(row["membership"]) for row in rows if "membership" in row)
    lines += [
        "",
        "| model | seeds | "
        + " | ".join(f"{score}: AUC | {score}: TPR at 1 % FPR" for score in scores)
        + " |",
        "|---" * (2 + 2 * len(scores)) + "|",
    ]
    for row in rows:
        if "membership" in row:
            cells = [row["model"], str(row["seeds"])]
            for found in row["membership"].values():
                cells += [
                    f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
                    for one in found.values()
                ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--piece", help="ARM-SEED: run this one only, and print nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pieces = [f"{arm}-{seed}" for seed in range(options.seeds) for arm in ARMS]
    for piece in [options.piece] if options.piece else pieces:
        arm, _, seed = piece.rpartition("-")
        run(arm, int(seed), options.out)
    if not options.piece:
        rows = figures(options.out, options.seeds)
        print(json.dumps({"rows": rows}, ensure_ascii=False) if options.json else tables(rows))


if __name__ == "__main__":
    main()
