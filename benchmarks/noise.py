"""What cryptographic noise costs: per number, and as a share of a training step.

Times are processor seconds of one core (the best of several), so that a busy machine changes them
little. The step of the bundled junior is taken here, at the demo's plan and settings. That of a
large model is arithmetic: 18,464,768 adapter parameters (Qwen2.5-Coder-1.5B, r 16 on all linear
layers), 256 records of 1,024 tokens, at a given token rate of the accelerator. `sanitize` draws the
noise in a thread beside the step, so on an accelerator the share is spare processor time, not time
that training waits.

    python benchmarks/noise.py [--tokens-per-second 10000 --tokens-per-second 50000] [--json]
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from privcode.data.records import Record, Unit
from privcode.exercises.corpus import private_records
from privcode.models import attach_lora, load_model, load_tokenizer
from privcode.privacy.noise import gaussian
from privcode.privacy.plan import make_plan
from privcode.training.dp_sgd import micro_batches
from privcode.training.examples import collate, encode, padded
from privcode.training.loss import per_example_losses

COUNTS = (10**5, 10**6, 10**7, 2 * 10**7)
LARGE, TOKENS = 18_464_768, 256 * 1024
BATCH, MICRO_BATCH, CLIP = 256, 32, 0.3  # the demo's


def seconds(act: Callable[[], object], times: int) -> float:
    """Least processor time of one call."""
    best = float("inf")
    for _ in range(times):
        began = time.process_time()
        act()
        best = min(best, time.process_time() - began)
    return best


def junior_step() -> tuple[int, Callable[[], None]]:
    """Adapter parameters, and the forward and backward passes of one step of the demo."""
    tokenizer = load_tokenizer("bundled:junior")
    model = attach_lora(load_model("bundled:junior"), r=4, alpha=8, dropout=0.0).train()
    records = [
        Record(r["prompt"], r["code"], "python", Unit("row", f"row-{i}"), i)
        for i, r in enumerate(private_records(BATCH, seed=0))
    ]
    template = "Question: {}\n\nAnswer:\n"
    examples = [
        encode(r, template.format(r.prompt), tokenizer, 512, syntax=False)[0] for r in records
    ]
    plan = make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-5, units=16_000, batch=BATCH, steps=1
    )
    clipper = plan.clipper(model)
    lengths = [len(e.ids) for e in examples]

    def step() -> None:
        for group in micro_batches([[i] for i in range(BATCH)], lengths, MICRO_BATCH):
            width = padded(max(lengths[i] for i in group))
            batch = collate([examples[i] for i in group], tokenizer.pad_token_id, width=width)
            with clipper.recording(len(group)):
                per_example_losses(model, batch, 0.0).sum().backward()
            clipper.accumulate(torch.tensor(group))
        clipper.take_sum()

    return clipper.parameters, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tokens-per-second", action="append", type=float, help="of the large model; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    gaussian(10**6, 1.0, os.urandom)  # warm

    rows: list[dict[str, Any]] = []
    for count in COUNTS:
        drawn = seconds(lambda n=count: gaussian(n, 1.0, os.urandom), 5)
        bits = seconds(lambda n=count: os.urandom(8 * n), 5)
        rows.append({"numbers": count, "ns": drawn / count * 1e9, "ns_urandom": bits / count * 1e9})
    each = rows[-1]["ns"] * 1e-9

    parameters, step = junior_step()
    step()
    taken = seconds(step, 2)
    drawn = seconds(lambda: gaussian(parameters, 1.0, os.urandom), 20)
    shares = [
        {
            "step": "bundled junior, r 4, the demo's plan, measured",
            "parameters": parameters,
            "step_seconds": taken,
            "noise_seconds": drawn,
            "share": drawn / taken,
        }
    ]
    for rate in chosen.tokens_per_second or (10_000.0, 50_000.0):
        shares.append(
            {
                "step": f"Qwen2.5-Coder-1.5B, r 16, 256 × 1,024 tokens at {rate:,.0f} a second",
                "parameters": LARGE,
                "step_seconds": TOKENS / rate,
                "noise_seconds": LARGE * each,
                "share": LARGE * each * rate / TOKENS,
            }
        )
    if chosen.json:
        print(json.dumps({"rows": rows, "shares": shares}, ensure_ascii=False))
        return
    print("| numbers | ns each | of it os.urandom |\n|---|---|---|")
    for row in rows:
        print(f"| {row['numbers']:,} | {row['ns']:.1f} | {row['ns_urandom']:.1f} |")
    print("\n| step | parameters | step, s | noise, s | share |\n|---|---|---|---|---|")
    for row in shares:
        print(
            f"| {row['step']} | {row['parameters']:,} | {row['step_seconds']:.2f} "
            f"| {row['noise_seconds']:.4f} | {row['share']:.2%} |"
        )


if __name__ == "__main__":
    main()
