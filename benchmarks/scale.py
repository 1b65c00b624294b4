"""What the start and a step of `sanitize` cost as the private data grow, up to ten million records.

For each size a file of made-up records of 500 characters is written, and `sanitize` trains a random
model of one layer on it, in a process of its own: a few steps with the same expected batch. One
more process reads the rows of the file and does nothing with them: one pass over the file. Then the
file is removed. A size that was measured is not measured again while `--results` holds it.

Reported: seconds of the pass; seconds of the start, which is all until the first step is noted; the
median step; each with the processor's seconds in brackets, which other work on the machine changes
less. The peak of resident memory, and of the part that is the process's own: pages of the mapped
file belong to the other part, which the system takes back where it needs memory. The load of the
machine while it was measured.

    python benchmarks/scale.py [--sizes 10000 100000 1000000 10000000] [--unit record|column]
        [--folder /tmp] [--results scale.json] [--steps 12]
"""

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = (10**4, 10**5, 10**6, 10**7)
CHARACTERS = 500
BATCH = 16
CONFIG = """\
data: {{source: private.jsonl, language: python, columns: {columns}}}
privacy: {{epsilon: null, noise_multiplier: 1.0, delta: 1.0e-9, units: {units}, batch: {batch},
  steps: {steps}, unit: {unit}, max_records_per_unit: {most}}}
prompts: {{source: public, file: prompts.jsonl}}
junior: {{model: tiny, lora: {{r: 2, alpha: 4}}, max_tokens: 256}}
premium: {{model: tiny, max_tokens: 256, lora: {{r: 2, alpha: 4}}}}
sanitize: {{micro_batch: 8}}
"""
COLUMNS = {
    "record": "{prompt: prompt, code: code}",
    "column": "{prompt: prompt, code: code, unit: owner}",
}
PER_OWNER = 3
"""Records of one owner, on average. Of a unit 4 are kept."""


def rows(count: int) -> Iterator[str]:
    """Lines of JSON of 500 characters of prompt and code each, all different."""
    rng = random.Random(0)
    words = [f"{rng.getrandbits(40):x}" for _ in range(2000)]
    bodies = []
    for _ in range(5000):
        lines = (f"    v{i} = x + '{word}'" for i, word in enumerate(rng.choices(words, k=15)))
        bodies.append(("words " + " ".join(rng.choices(words, k=12)), "\\n".join(lines)))
    for number in range(count):
        prompt, body = bodies[number * 7919 % len(bodies)]
        prompt = f"Write function {number} of {prompt}"
        head = f"def f_{number}(x):"
        body = body[: CHARACTERS + 11 - len(prompt) - len(head)].rstrip("\\")
        owner = number * 104_729 % max(1, count // PER_OWNER)
        yield f'{{"prompt": "{prompt}", "code": "{head}\\n{body}", "owner": "team {owner}"}}\n'


def prepare(folder: Path, count: int, unit: str, steps: int) -> None:
    """Write what a run needs."""
    from privcode.doctor.replay import _tiny_model

    with (folder / "private.jsonl").open("w") as file:
        file.writelines(rows(count))
    (folder / "prompts.jsonl").write_text('{"prompt": "Add."}\n')
    _tiny_model(folder / "tiny")
    owners = unit == "column"
    text = CONFIG.format(
        columns=COLUMNS[unit],
        units=count // PER_OWNER if owners else count,
        unit=unit,
        most=4 if owners else 1,
        batch=BATCH,
        steps=steps,
    )
    (folder / "run.yaml").write_text(text)


def once(folder: Path) -> dict[str, Any]:
    """One pass over the file."""
    from privcode.data.rows import read_rows

    started, worked = time.perf_counter(), time.process_time()
    found = sum(1 for _ in read_rows(str(folder / "private.jsonl")))
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    return {"rows": found, "pass_s": seconds, "pass_cpu_s": cpu}


def train(folder: Path) -> dict[str, Any]:
    """Sanitize, in this process."""
    os.environ["PRIVCODE_STATE"] = str(folder / "state")
    from privcode.config import load_config
    from privcode.pipeline.run import Run
    from privcode.privacy.ledger import Ledger

    noted: list[float] = []
    worked: list[float] = []
    real = Ledger.step

    def step(ledger: Ledger, number: int) -> None:
        noted.append(time.perf_counter())
        worked.append(time.process_time())
        real(ledger, number)

    Ledger.step = step  # type: ignore[method-assign]
    own = _watched()
    started, before = time.perf_counter(), time.process_time()
    with Run(load_config(folder / "run.yaml"), folder / "run") as run:
        run.do("sanitize")
    ended = time.perf_counter()
    steps, cpu = ([b - a for a, b in itertools.pairwise(times)] for times in (noted, worked))
    return {
        "start_s": noted[0] - started,
        "start_cpu_s": worked[0] - before,
        "step_s": statistics.median(steps[1:]),
        "step_cpu_s": statistics.median(cpu[1:]),
        "all_s": ended - started,
        "peak_mb": _status("VmHWM") / 1024,
        "own_peak_mb": max(own) / 1024,
    }


def _status(field: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _watched() -> list[int]:
    """KiB of the process's own memory, looked at twenty times a second from now on."""
    seen = [0]

    def watch() -> None:
        while True:
            seen[0] = max(seen[0], _status("RssAnon"))
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    return seen


def measure(count: int, unit: str, steps: int, folder: Path) -> dict[str, Any]:
    """All figures of one size."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        here = Path(place)
        prepare(here, count, unit, steps)
        size = (here / "private.jsonl").stat().st_size
        found: dict[str, Any] = {"records": count, "unit": unit, "file_mb": size / 1e6}
        for work in ("once", "train"):
            ran = [sys.executable, __file__, "--work", work, "--folder", place]
            done = subprocess.run(ran, check=True, stdout=subprocess.PIPE, cwd=here)
            found |= json.loads(done.stdout.splitlines()[-1])
    return found | {"load": os.getloadavg()[1]}


def table(results: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    head = "| records | unit | file | one pass | start | a step | peak | own peak | load |"
    lines = [head, "|---" * 9 + "|"]
    for r in sorted(results, key=lambda r: (r["unit"], r["records"])):
        lines.append(
            f"| {r['records']:,} | {r['unit']} | {r['file_mb']:,.0f} MB "
            f"| {r['pass_s']:,.1f} s ({r['pass_cpu_s']:,.1f}) "
            f"| {r['start_s']:,.1f} s ({r['start_cpu_s']:,.1f}) "
            f"| {r['step_s']:.3f} s ({r['step_cpu_s']:.3f}) "
            f"| {r['peak_mb']:,.0f} MB | {r['own_peak_mb']:,.0f} MB | {r['load']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--unit", choices=tuple(COLUMNS), default="record")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, default=Path("scale.json"))
    parser.add_argument("--work", choices=("once", "train"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work = {"once": once, "train": train}[given.work]
        print(json.dumps(work(given.folder)))
        return
    kept = json.loads(given.results.read_text()) if given.results.exists() else {"results": []}
    done = {(r["records"], r["unit"]) for r in kept["results"]}
    for count in given.sizes:
        if (count, given.unit) in done:
            continue
        found = measure(count, given.unit, given.steps, given.folder)
        kept["results"].append(found)
        kept["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}"
        given.results.write_text(json.dumps(kept, indent=2) + "\n")
        print(table([found]), file=sys.stderr)
    print(table(kept["results"]))


if __name__ == "__main__":
    main()
