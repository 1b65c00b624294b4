"""Samples per second of `validate`, in this process and on a Ray cluster of one and two machines.

    python benchmarks/cluster.py [--samples 768] [--rounds 5] [--json cluster.json]

Promises: all machines are raylets on this computer. Each is kept on one core, with all that it
starts. This process runs on one core, and on all. The contenders take turns, and every ratio is of
one round. Each judges the same samples with the filters of the stage (sandbox, and round trip by
likelihood with the bundled premium) after some to warm up, so that loading a model does not count.
They give the same verdicts, or the benchmark fails.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: 4, delta: 1.0e-3, units: 400, batch: 2, steps: 3}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
validate: {round_trip: {threshold: -9}}
"""
STORE = 150 << 20
CHUNK = 64  # smaller than the stage's 256, so that few samples are many chunks


@contextmanager
def kept_on(core: int) -> Iterator[None]:
    """What is started meanwhile, and all that it starts, runs on this core alone."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def validating(folder: Path, scale: dict[str, Any]) -> Iterator[Any]:
    """A function from samples to their verdicts, by this engine."""
    from privcode.cluster import Scale, engine
    from privcode.config import load_config
    from privcode.pipeline.layout import RunDirectory
    from privcode.pipeline.stages.validate import _execution, _round_trip
    from privcode.validation.verdicts import judge, validate

    config = load_config(folder / "privcode.yaml").model_copy(update={"scale": Scale(**scale)})
    run = RunDirectory(config, folder / "run", look=True)
    with ExitStack() as stack:
        chosen: Any = stack.enter_context(engine(config.scale))
        filters = [*_execution(run, "python", chosen), *_round_trip(run, chosen, stack)]
        while scale and chosen._crews[0]._idle.qsize() < chosen._count:  # models are loaded
            time.sleep(0.1)
        judgement = partial(judge, language="python", filters=filters)

        def do(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
            with tempfile.TemporaryDirectory() as place:
                return list(validate(samples, judgement, Path(place) / "p", CHUNK, engine=chosen))

        yield do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()

    from ray.cluster_utils import Cluster

    from privcode.exercises.corpus import private_records

    rows = private_records(chosen.samples, seed=1)
    samples = [
        {"id": f"{n}-0", "prompt": row["prompt"], "completion": row["code"]}
        for n, row in enumerate(rows)
    ]
    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    with kept_on(0):
        cluster = Cluster(initialize_head=True, head_node_args=head)
    rates: dict[str, list[float]] = {"one core": [], "local": [], "ray 1": [], "ray 2": []}
    seen: list[Any] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "privcode.yaml").write_text(CONFIG)
        for _ in range(chosen.rounds):
            for contender in rates:
                node = None
                if contender == "ray 2":
                    with kept_on(1):
                        node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
                    cluster.wait_for_nodes()
                by_ray = contender.startswith("ray")
                ray = {"engine": "ray", "address": cluster.address} if by_ray else {}
                one = kept_on(0) if contender == "one core" else nullcontext()
                with one, validating(folder, ray) as validate:
                    validate(samples[: 4 * CHUNK])
                    begin = time.perf_counter()
                    seen.append(validate(samples))
                    rates[contender].append(len(samples) / (time.perf_counter() - begin))
                if node:
                    cluster.remove_node(node)
                if any(verdicts != seen[0] for verdicts in seen):
                    raise SystemExit(f"{contender}: gave other verdicts than local")
    cluster.shutdown()

    def ratios(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rates[one], rates[other], strict=True)]

    facts = {
        "samples": len(samples),
        "rounds": chosen.rounds,
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "samples_per_second": {n: [round(r, 2) for r in found] for n, found in rates.items()},
        "ratios": {
            f"{one} / {other}": [round(r, 3) for r in ratios(one, other)]
            for one, other in (
                ("local", "one core"),
                ("ray 2", "ray 1"),
                ("ray 1", "one core"),
                ("ray 2", "local"),
            )
        },
    }
    print("| contender | samples per second (median; least to most) |\n|---|---|")
    for name_, found in rates.items():
        middle = statistics.median(found)
        print(f"| {name_} | {middle:.1f} ({min(found):.1f} to {max(found):.1f}) |")
    print("\n| ratio within a round | median; least to most |\n|---|---|")
    for name_, found in facts["ratios"].items():
        middle = statistics.median(found)
        print(f"| {name_} | {middle:.2f} ({min(found):.2f} to {max(found):.2f}) |")
    if chosen.json:
        chosen.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
