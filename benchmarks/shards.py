"""Memory and time of one process where several share a model (`sanitize.shard`).

    python benchmarks/shards.py                  # a table; --json; a few minutes of two cores

A random Llama whose layers are most of it takes the same DP-SGD steps by one process, by two and
four that each hold the whole model, and by two and four that share it. Every process says what it
held: after loading, and at most while it trained. All end with the same adapter, which is checked.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, VOCABULARY, TOKENS, BATCH, STEPS = 1024, 16, 2048, 16, 4, 3
WAYS = ((1, False), (2, False), (2, True), (4, False), (4, True))


def held(field: str) -> float:
    """MB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(x for x in lines if x.startswith(field)).split()[1]) / 1024)


def work(folder: Path, divided: bool) -> None:
    """One rank: train, and leave what it held in `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from privcode.distributed import from_first, in_turn, rank, start
    from privcode.models.sharding import mesh_of, shard
    from privcode.privacy.ledger import Ledger
    from privcode.privacy.plan import make_plan
    from privcode.training.dp_sgd import sanitize
    from privcode.training.examples import Example
    from privcode.training.fitting import _give_back
    from privcode.training.learner import Learner
    from privcode.training.settings import Sanitize, Syntax

    start()
    plan = make_plan(
        epsilon=None,
        noise_multiplier=1.0,
        delta=1e-4,
        units=40,
        batch=BATCH,
        steps=STEPS,
        reproducible_seed=0,
    )
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2816,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        num_key_value_heads=4,
        pad_token_id=0,
    )
    begin = held("VmRSS")
    mesh = mesh_of("cpu") if divided else None

    def make() -> Any:
        torch.manual_seed(0)
        model = get_peft_model(
            LlamaForCausalLM(config), LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
        )
        return shard(model, mesh) if mesh is not None else model

    model = in_turn(make)
    _give_back()
    loaded = held("VmRSS")
    generator = torch.Generator().manual_seed(1)
    examples = []
    for index in range(40):
        length = TOKENS - index % 8
        ids = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        examples.append(Example(tuple(ids), 2, tuple(i % 2 == 0 for i in range(length))))

    def begun() -> Ledger:
        ledger = Ledger(folder / "ledger.jsonl")
        ledger.begin(plan, "made up")
        return ledger

    ledger = from_first(begun)
    times = [time.monotonic()]
    Path("/proc/self/clear_refs").write_text("5")
    sanitize(
        Learner(model, 0, TOKENS, "any number"),
        examples,
        [[i] for i in range(40)],
        plan,
        Sanitize(micro_batch=2, checkpoint_every=STEPS, syntax=Syntax(lambda_max=1.0)),
        ledger,
        folder / "checkpoint.pt",
        lambda steps: times.append(time.monotonic()) if steps else None,
    )
    trained = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    whole = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    facts = {
        "before": begin,
        "loaded": loaded,
        "most": held("VmHWM"),
        "seconds": round((times[-1] - times[1]) / (STEPS - 1), 2),
        "model": round(whole),
    }
    torch.save(trained, folder / f"adapter-{rank()}.pt")
    (folder / f"rank-{rank()}.json").write_text(json.dumps(facts))


def measure(ranks: int, divided: bool, root: Path) -> dict[str, Any]:
    """Figures of the rank that held most."""
    folder = root / f"{ranks}-{divided}"
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    subprocess.run(
        [sys.executable, *launcher, __file__, "--rank", str(folder), *["--shard"] * divided],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    found = [json.loads(file.read_text()) for file in folder.glob("rank-*.json")]
    worst = max(found, key=lambda facts: facts["most"])
    return {"processes": ranks, "shared": divided, **worst}


def main() -> None:
    """Measure every way, check that all end alike, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shard", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank:
        work(chosen.rank, chosen.shard)
        return
    import torch

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rows = [measure(ranks, divided, root) for ranks, divided in WAYS]
        one = torch.load(root / "1-False" / "adapter-0.pt").double()
        for row in rows:
            other = torch.load(root / f"{row['processes']}-{row['shared']}" / "adapter-0.pt")
            row["apart"] = float((other.double() - one).norm() / one.norm())
    if chosen.json:
        print(json.dumps(rows))
        return
    print("| processes | model | loaded, MB | at most, MB | s a step | apart from one process |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        how = "shared" if row["shared"] else "whole in each"
        print(
            f"| {row['processes']} | {how} | {row['loaded']:,} | {row['most']:,} "
            f"| {row['seconds']} | {row['apart']:.1g} |"
        )
    print(f"\nThe model: {rows[0]['model']:,} MB. Before it is made: {rows[0]['before']:,} MB.")


if __name__ == "__main__":
    main()
