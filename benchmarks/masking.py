"""What masking for jft finds, what it changes beside it, and how fast it is.

    python benchmarks/masking.py --data DIR

DIR holds HumanEval.jsonl.gz, mbpp-sanitized.json and gpteacher-code-instruct.json.gz. Under a
minute on one core; the solutions are run in the sandbox, as written and masked.
"""

import argparse
import gzip
import json
import random
import re
import time
from collections import Counter
from pathlib import Path

from privcode.audit.canaries import KINDS, plant
from privcode.data.masking import mask
from privcode.execution import Limits, Program, execute
from privcode.exercises.corpus import private_records

PERSONAL = re.compile(r"# (owner|host|token): (\S+)")


def canaries() -> None:
    found: Counter[str] = Counter()
    for seed in range(200):
        found.update(c.kind for c in plant([1], seed) if c.secret not in mask(c.completion))
    print("canaries found, of 200:", {kind: found[kind] for kind in KINDS})


def exercises() -> None:
    comments: Counter[tuple[str, str]] = Counter()
    others: Counter[bool] = Counter()
    for row in private_records(5000, seed=1):
        comment = PERSONAL.search(row["code"])
        if comment:
            masked = comment[2] not in mask(row["code"])
            comments[comment[1], "masked" if masked else "missed"] += 1
        else:
            others[mask(row["prompt"] + row["code"]) != row["prompt"] + row["code"]] += 1
    print("personal comments of the exercise world:", dict(comments))
    print(f"its other records: {others[True]} of {others.total()} changed")


def instructions(data: Path) -> None:
    with gzip.open(data / "gpteacher-code-instruct.json.gz", "rt") as file:
        rows = json.load(file)
    random.Random(0).shuffle(rows)
    texts = ["\n".join((r["instruction"], r["input"], r["response"])) for r in rows]
    began = time.process_time()
    masked = [mask(text) for text in texts]
    speed = len(texts) / (time.process_time() - began)
    changed = [text != new for text, new in zip(texts, masked, strict=True)]
    print(f"GPTeacher: {sum(changed[:500])} of 500, {sum(changed)} of {len(texts)} records changed")
    print(f"speed: {speed:.0f} of them per second of one core")


def solutions(data: Path) -> None:
    with gzip.open(data / "HumanEval.jsonl.gz", "rt") as lines:
        tasks = [json.loads(line) for line in lines]
    human = [
        (t["prompt"] + t["canonical_solution"], f"{t['test']}\ncheck({t['entry_point']})\n")
        for t in tasks
    ]
    rows = json.loads((data / "mbpp-sanitized.json").read_text())
    mbpp = [(r["code"], "\n".join(r["test_imports"] + r["test_list"])) for r in rows]
    for name, pairs in (("HumanEval", human), ("MBPP", mbpp)):
        passed = {}
        for way, change in (("as written", str), ("masked", mask)):
            programs = [
                Program(f"{n}", f"{change(code)}\n{test}\n", checked=True)
                for n, (code, test) in enumerate(pairs)
            ]
            outcomes = execute(programs, Limits(cpu_seconds=10, memory_mb=1024))
            passed[way] = sum(outcome.status == "ok" for outcome in outcomes)
        changed = sum(mask(code) != code for code, _ in pairs)
        print(f"{name}: {changed} of {len(pairs)} changed; pass their tests: {passed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    mask("")  # loads the lists of names
    canaries()
    exercises()
    instructions(data)
    solutions(data)


if __name__ == "__main__":
    main()
