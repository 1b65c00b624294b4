"""One prepared run on a GPU, of at most nine minutes: is the engine right there, and how fast?

    tests     the tests marked gpu
    bits      how records of a step may share a batch, and which numbers of rows round alike
    head      the loss over a large vocabulary, by the logits held at a time
    noise     how much of the time of the noise a step hides
    engine    DP training beside plain LoRA and Opacus, on random models
    method    the whole method on the house world with a real model

Each part says why if it fails, and the others go on. OUT/gpu.json has what is done so far. The exit
code is 1 if a part failed. With --small all of it is a few minutes of two processor cores.

    python benchmarks/gpu.py [--part tests --part engine …] [--small] [--config FILE] [--out FOLDER]
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dp_engine
import torch

from privcode.exercises import corpus
from privcode.experiments.demo import write_world
from privcode.files import write_jsonl, write_text

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = dp_engine.Shape(64, 2, 48, 128, 512, heads=4, kv_heads=2, records=4, rank=4)
SMOLLM, QWEN = "smollm2-135m", "qwen2.5-coder-1.5b"
LARGE = dp_engine.SHAPES[QWEN]
CHUNKS = [1 << power for power in (20, 22, 24, 26, 28, 30)]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else None
    found = {"device": DEVICE, "card": card, "cores": os.cpu_count(), "torch": torch.__version__}
    return found | {"python": platform.python_version(), "cuda": torch.version.cuda}


def seconds(work: Callable[[], object], least: float = 1.0) -> float:
    """Median seconds of a call, over calls that take `least` seconds together. One warms up."""
    taken: list[float] = []
    work()
    while sum(taken) < least or len(taken) < 3:
        synchronize()
        began = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def free() -> None:
    """Give back the memory of what was deleted."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """Gives a function for the most GB that were held beyond what was held at the start."""
    if DEVICE == "cpu":
        yield lambda: 0.0
        return
    free()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    yield lambda: (torch.cuda.max_memory_allocated() - start) / 1e9


def tests(small: bool, out: Path, config: Path) -> dict[str, Any]:
    """The tests marked gpu, in a process of their own."""
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text()]
    chosen = ["tests/invariants/test_devices.py"] if small else list(map(str, files))
    command = [sys.executable, "-m", "pytest", *chosen, "-m", "gpu and not slow", "-q"]
    command += ["-p", "no:cacheprovider", f"--junitxml={out / 'tests.xml'}"]
    if not small:
        command += ["-n", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (out / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    suite = ElementTree.parse(out / "tests.xml").getroot()[0]
    failed = {
        f"{case.get('classname')}::{case.get('name')}": (fault.get("message") or "")[:300]
        for case in suite
        for fault in case
        if fault.tag in ("failure", "error")
    }
    counts = {name: int(suite.get(name) or 0) for name in ("tests", "skipped")}
    if failed or done.returncode:
        raise Fault("tests fail, or none was run", counts | {"failed": failed})
    return counts | {"failed": {}}


class Fault(Exception):
    """A part that found something wrong: a message, and figures if there are any."""


def bits(small: bool, out: Path, config: Path) -> dict[str, Any]:
    """How records may share a batch, by the trial; and which numbers of rows round alike."""
    from privcode.privacy.clipping import Clipper
    from privcode.training.examples import collate
    from privcode.training.independence import made_up
    from privcode.training.learner import Learner, same_bits_each_time, try_out
    from privcode.training.loss import per_example_losses, split_head

    found: dict[str, Any] = {}
    shapes = {"small": (SMALL, 4)}
    if not small:
        shapes = {name: (dp_engine.SHAPES[name], 8) for name in (SMOLLM, QWEN)}
    for name, (shape, most) in shapes.items():
        model = dp_engine.random_model(shape, DEVICE)
        clipper, head = Clipper(model, 1.0), split_head(model)
        began = time.perf_counter()
        way = try_out(Learner(model, 0, shape.tokens), clipper, most)
        taken = time.perf_counter() - began
        vocabulary = torch.arange(shape.vocabulary)

        @same_bits_each_time()
        def first(rows: Sequence[Any], width: int, of: Any = (model, clipper, head)) -> Any:
            """The gradient of the first row, in the company of the others."""
            tuned, records, split = of
            with records.recording(len(rows)):
                batch = collate(rows, 0, DEVICE, width)
                per_example_losses(tuned, batch, 1.0, split).sum().backward()
            return records.take_rows()[0].cpu()

        alike = {}
        for length in sorted({16, max(16, shape.tokens // 3 // 16 * 16), shape.tokens}):
            rows = [made_up(length, vocabulary, seed) for seed in range(most)]
            whole = first(rows, length)
            alike[length] = [
                n for n in range(1, most + 1) if torch.equal(first(rows[:n], length), whole)
            ]
        found[name] = {"grouping": way, "trial_seconds": round(taken, 1), "rows_alike": alike}
        del model, clipper, head, first
        free()
    return found


def head(small: bool, out: Path, config: Path) -> list[dict[str, Any]]:
    """Milliseconds and memory of one layer and the loss, by `loss.CHUNK`."""
    from privcode.training import loss
    from privcode.training.examples import Example, collate

    shape = SMALL if small else replace(LARGE, layers=1)
    model = dp_engine.random_model(shape, DEVICE)
    split = loss.split_head(model)
    rows = [
        Example(
            tuple(torch.randint(shape.vocabulary, (shape.tokens,)).tolist()),
            shape.tokens // 4,
            tuple(i % 2 == 0 for i in range(shape.tokens)),
        )
        for _ in range(shape.records)
    ]
    batch = collate(rows, 0, DEVICE)
    default, found = loss.CHUNK, []
    for chunk in CHUNKS[:2] if small else CHUNKS:
        for weight in (0.0, 1.0):

            def work(weight: float = weight) -> None:
                loss.per_example_losses(model, batch, weight, split).sum().backward()

            loss.CHUNK = default | {DEVICE: chunk}
            try:
                with peak() as most:
                    taken = seconds(work, 0.0 if small else 0.5)
                    row = {"ms": round(1000 * taken, 1), "gb": round(most(), 2)}
            except torch.OutOfMemoryError:
                row = {"ms": None, "gb": None}
            found.append({"chunk": chunk, "privsa": bool(weight)} | row)
    loss.CHUNK = default
    return found


def noise(small: bool, out: Path, config: Path) -> dict[str, Any]:
    """Seconds of a step with noise beside the passes, after them, and without any."""
    shape, parts = (SMALL, 2) if small else (LARGE, 4)
    found: dict[str, Any] = {"records_a_step": parts * shape.records}
    for when in ("never", "after", "beside"):
        step = dp_engine.stepper("privcode", shape, parts, DEVICE, when)
        found[when] = round(seconds(step, 0.0 if small else 3.0), 4)
        del step
        free()
    cost = found["after"] - found["never"]
    found["hidden"] = round((found["after"] - found["beside"]) / cost, 2) if cost > 0 else None
    return found


def engine(small: bool, out: Path, config: Path) -> list[dict[str, Any]]:
    """`dp_engine.py` on the shapes of a real junior and of the paper's."""
    if small:
        return dp_engine.measure("small", SMALL, 1, DEVICE, 1)
    return [
        row
        for name, parts, rounds in ((SMOLLM, 2, 3), (QWEN, 2, 4))
        for row in dp_engine.measure(name, dp_engine.SHAPES[name], parts, DEVICE, rounds)
    ]


SMALLEST = """\
data: {source: private.jsonl, language: python, public: true}
privacy: {epsilon: 4, delta: 1.0e-5, units: 64000, batch: 8, steps: 2, clip_norm: 0.1}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 256}
validate: {execution: {prelude: house.py}, round_trip: {method: "off"}}
premium: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 256}
boost: {epochs: 1, batch_size: 4, micro_batch: 4}
evaluate:
  tasks:
    - {name: house, file: tasks.jsonl, prelude: house.py, instruction: "{problem}", response: ""}
  max_new_tokens: 48
compare: {methods: [base, privcode]}
"""


def smallest(world: Path) -> Path:
    """A comparison of seconds on the bundled junior, whose answers are already good."""
    world.mkdir(parents=True, exist_ok=True)
    rows = {
        "private": corpus.private_records(64, seed=0),
        "prompts": corpus.public_prompts(24, seed=0),
        "tasks": corpus.tasks(4, seed=0),
    }
    for name, found in rows.items():
        write_jsonl(world / f"{name}.jsonl", found)
    write_text(world / "house.py", corpus.prelude())
    write_text(world / "smallest.yaml", SMALLEST)
    return world / "smallest.yaml"


def method(small: bool, out: Path, config: Path) -> dict[str, Any]:
    """`privcode compare` on the house world."""
    world = ROOT / "runs" / "exercises"
    if small:
        config = smallest(out / "world")
    elif not (world / "house.py").exists():
        write_world(world)
    began = time.perf_counter()
    command = [sys.executable, "-m", "privcode", "compare", str(config)]
    done = subprocess.run(
        [*command, "--out", str(out / "method"), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Fault((done.stderr.strip().splitlines() or ["no message"])[-1])
    facts = json.loads((out / "method" / "results.json").read_text(encoding="utf-8"))
    table = (out / "method" / "table.md").read_text(encoding="utf-8")
    taken = round(time.perf_counter() - began, 1)
    return {"config": config.name, "seconds": taken, "rows": facts["rows"], "table": table}


PARTS: dict[str, Callable[[bool, Path, Path], Any]] = {
    "tests": tests,
    "bits": bits,
    "head": head,
    "noise": noise,
    "engine": engine,
    "method": method,
}


def shown(name: str, found: Any) -> str:
    """A part's figures for a reader."""
    if isinstance(found, dict) and "error" in found:
        return f"{name}: FAILED: {found['error']}"
    if name == "engine":
        return dp_engine.table(found)
    if name == "method":
        return f"{found['table']}\n{found['seconds']} seconds"
    rows = found if isinstance(found, list) else [found]
    return "\n".join(f"{name}: {json.dumps(row, ensure_ascii=False)}" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--small", action="store_true", help="small models, few repetitions")
    parser.add_argument("--config", type=Path, help="of the comparison in the part method")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    chosen = parser.parse_args()
    default = ROOT / "configs" / "real" / "house.yaml"
    chosen.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine()}
    failed = False
    for name in chosen.part or PARTS:
        began = time.perf_counter()
        try:
            figures = PARTS[name](chosen.small, chosen.out, chosen.config or default)
        except Exception as error:
            failed = True
            figures = {"error": f"{type(error).__name__}: {error}"}
            if isinstance(error, Fault):
                figures = {"error": error.args[0], **(error.args[1] if error.args[1:] else {})}
            else:
                traceback.print_exc()
        found[name] = figures
        taken = time.perf_counter() - began
        print(f"{shown(name, figures)}\n({name}: {taken:.0f} s)\n", file=sys.stderr, flush=True)
        (chosen.out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found, ensure_ascii=False))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
