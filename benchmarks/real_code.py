"""What a real model learns of real code under a guarantee for each author.

Records of `privcode collect --unit author` are divided by author. One author in ten is held out.
The model learns the others' records with DP-SGD, or without privacy as many records as DP-SGD
draws authors. Then it is asked for the code of the held-out authors: how many bits a token this
takes, and how much of what it writes parses.
Secrets are planted in 1, 10 and 50 records. Every arm is a run of its own under --out: kill it, and
it goes on where it was.

    privcode collect REPOSITORY ... -o records.jsonl --unit author
    python benchmarks/real_code.py records.jsonl --model real-models/smollm2-135m-instruct \\
        --out runs/real-code [--arm "DP ε 4"] [--json]

With --arm only that arm is run; without, all that are missing, and then the table is printed. The
records must be public: held-out figures are shown.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from privcode.config import load_config
from privcode.data.records import Record, Unit
from privcode.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from privcode.generation import Sampling
from privcode.models import asking, load_tokenizer
from privcode.pipeline.models import loaded
from privcode.pipeline.run import Run
from privcode.syntax.fences import code_in
from privcode.syntax.spans import parse
from privcode.training.likelihood import record_log_probabilities

TOKENS, PER_AUTHOR, ONE_IN, SCORED, ASKED = 256, 2, 10, 400, 100
TEMPLATE = "{prompt}\n\n"
CONFIG = """\
method: {method}
data:
  source: ../private.jsonl
  columns: {{prompt: prompt, code: completion, unit: author}}
  language: python
  public: true
privacy:
  unit: column
  units: {units}
  max_records_per_unit: {per_author}
  epsilon: {epsilon}
  delta: {delta}
  batch: {batch}
  steps: {steps}
  clip_norm: 0.1
prompts: {{source: public, file: ../held-out.jsonl}}  # dpft and nondpft answer none
junior: {{model: "bundled:junior"}}  # and have none
premium:
  model: {model}
  dtype: {dtype}
  template: "{{prompt}}\\n\\n"
  lora: {{r: 1, alpha: 2}}
  max_tokens: {tokens}
sanitize:
  learning_rate: {rate}
  schedule: cosine
  weight_decay: 0
  micro_batch: 8
  checkpoint_every: 2
  syntax: {{schedule: "off"}}
boost: {{learning_rate: {plain_rate}, epochs: 1, limit: {seen}, batch_size: 16, micro_batch: 8}}
audit: {{repetitions: [1, 10, 50], candidates: 0, samples: 10, max_new_tokens: 64}}
"""
ARMS = {
    "DP ε 4": {"method": "dpft", "epsilon": 4},
    "DP ε 8": {"method": "dpft", "epsilon": 8},
    "without privacy": {"method": "nondpft", "epsilon": 8},
}


def divided(records: Path, model: str, out: Path) -> int:
    """Write `private.jsonl` and `held-out.jsonl`. Returns how many authors the first has."""
    tokenizer, of = load_tokenizer(model), defaultdict(list)
    for _, row in read_jsonl(records):
        text = TEMPLATE.format(prompt=row["prompt"]) + row["completion"]
        owned = row["author"] is not None
        if owned and row["language"] == "python" and len(tokenizer(text).input_ids) < TOKENS:
            kept = {name: row[name] for name in ("prompt", "completion", "author")}
            of[row["author"]].append(kept)
    held = {author for author in of if blake2b(author.encode()).digest()[0] % ONE_IN == 0}
    rest = [row for author, rows in of.items() if author not in held for row in rows]
    write_jsonl(out / "private.jsonl", rest)
    some = [row for author in sorted(held) for row in of[author][:PER_AUTHOR]]
    write_jsonl(out / "held-out.jsonl", some[:SCORED])
    return len(of) - len(held)


def run(arm: str, options: argparse.Namespace) -> None:
    """One arm, from where it was, and what it makes of the held-out authors' code."""
    folder = options.out / arm.replace(" ", "-")
    if (folder / "held-out.json").exists():
        return
    if not (options.out / "units.json").exists():
        options.out.mkdir(parents=True, exist_ok=True)
        units = divided(options.records, options.model, options.out)
        write_json(options.out / "units.json", {"units": units})
    units = read_json(options.out / "units.json")["units"]
    if not (folder / "privcode.yaml").exists():
        text = CONFIG.format(
            **ARMS[arm],
            units=units,
            delta=f"{1 / (10 * units):.1e}",
            per_author=PER_AUTHOR,
            batch=options.batch,
            steps=options.steps,
            seen=options.batch * options.steps,
            model=Path(options.model).resolve() if Path(options.model).exists() else options.model,
            dtype=options.dtype,
            tokens=TOKENS,
            rate=options.rate,
            plain_rate=options.plain_rate,
        )
        write_text(folder / "privcode.yaml", text)
    with Run(load_config(folder / "privcode.yaml"), folder / "run") as piece:
        piece.all()
        held = [row for _, row in read_jsonl(options.out / "held-out.jsonl")]
        results = {"base": options.out / "base.json", "tuned": folder / "held-out.json"}
        for label, path in results.items():
            if not path.exists():
                write_json(path, judged(piece, label, held))


def judged(piece: Run, label: str, held: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Nats and tokens of each held-out record, by author, and how much of the answers parses."""
    generator = loaded(piece, label, 16)
    ask = asking(TEMPLATE, generator.tokenizer)
    records = [
        Record(row["prompt"], row["completion"], None, Unit("author", row["author"]), i)
        for i, row in enumerate(held)
    ]
    found = record_log_probabilities(generator, records, ask, TOKENS, 8)
    prompts = [ask(row["prompt"]) for row in held[:ASKED]]
    answers = generator.generate(prompts, Sampling(temperature=0.0, max_new_tokens=192))
    codes = [code_in(text, "python")[0] for (text,) in answers]
    return {
        "authors": [row["author"] for row in held],
        "nats": [-float(scores.sum()) for scores, _ in found],
        "tokens": [len(scores) for scores, _ in found],
        "parses": [bool(code) and not parse(code, "python").root_node.has_error for code in codes],
    }


def bits(found: dict[str, Any], base: dict[str, Any] | None = None) -> list[float]:
    """Bits a token, and a 95 % bootstrap interval over authors. With `base`: more than that."""
    owners = {author: i for i, author in enumerate(dict.fromkeys(found["authors"]))}
    place = np.array([owners[author] for author in found["authors"]])
    nats = np.array(found["nats"]) - (np.array(base["nats"]) if base else 0)
    per, tokens = np.bincount(place, nats), np.bincount(place, found["tokens"])
    drawn = np.random.default_rng(0).integers(len(owners), size=(10_000, len(owners)))
    many = per[drawn].sum(1) / tokens[drawn].sum(1) / np.log(2)
    whole = per.sum() / tokens.sum() / np.log(2)
    return [float(whole), *map(float, np.quantile(many, [0.025, 0.975]))]


def figures(out: Path) -> list[dict[str, Any]]:
    """One row a model, of all arms that are done."""
    base, rows = read_json(out / "base.json"), []
    for name in ("untuned", *ARMS):
        folder = out / name.replace(" ", "-")
        path = folder / "held-out.json" if name in ARMS else out / "base.json"
        if not path.exists():
            continue
        found = read_json(path)
        row = {"model": name, "bits": bits(found), "less": None, "leaks": {}}
        row["parses"] = [sum(found["parses"]), len(found["parses"])]
        if name in ARMS:
            more, low, high = bits(found, base)
            row["less"] = [-more, -high, -low]
            places = read_json(folder / "run" / "evaluation" / "audit.json")["places"]
            row["leaks"] = places["tuned model, asked for them"]["by_repetitions"]
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | bits a token, held-out authors | fewer than untuned | parses | secrets that came"
        " out, planted in 1, 10, 50 records |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        value, low, high = row["bits"]
        less = row["less"] and "{:.3f} ({:.3f} to {:.3f})".format(*row["less"])
        leaks = ", ".join("{leaked} of {planted}".format(**v) for v in row["leaks"].values())
        parses = "{} of {}".format(*row["parses"])
        cells = [row["model"], f"{value:.3f} ({low:.3f} to {high:.3f})", less or "", parses]
        lines.append("| " + " | ".join([*cells, leaks]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("--model", default="real-models/smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=192, help="authors a step")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.005, help="learning rate with DP")
    parser.add_argument("--plain-rate", type=float, default=1e-3)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for arm in [options.arm] if options.arm else ARMS:
        run(arm, options)
    if not options.arm:
        rows = figures(options.out)
        print(json.dumps({"rows": rows}, ensure_ascii=False) if options.json else table(rows))


if __name__ == "__main__":
    main()
