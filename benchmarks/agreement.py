"""Do our verdicts agree with evalplus's? On canonical solutions with one mistake each.

    python benchmarks/agreement.py TASKS... --evalplus PYTHON --mutants 1100 --out FILE.jsonl

TASKS are HumanEvalPlus.jsonl.gz and MbppPlus.jsonl.gz; PYTHON is an interpreter of an environment
of its own that has evalplus's checker (docs/evidence/agreement.md says how). Both judge the same
mutants; what they disagree about is judged by both once more, so that what a busy machine did to
evalplus's wall-clock limits is told from a difference of rules. Called again, it goes on.
"""

import argparse
import ast
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from privcode.console import progress_bar
from privcode.execution import execute
from privcode.scoring import Task, limits_for, load_tasks, program_for, verdict

THEIRS = r"""
import json, sys, types
sys.set_int_max_str_digits(0)
sys.modules["datasets"] = types.ModuleType("datasets")  # imported for another benchmark
sys.modules["datasets"].load_dataset = None
from evalplus.data.mbpp import mbpp_deserialize_inputs
from evalplus.eval import untrusted_check
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
from evalplus.gen.util import trusted_exec

def main():
    known = {}
    for line in sys.stdin:
        row = json.loads(line)
        task, name = row["task"], row["task"]["task_id"]
        dataset = "humaneval" if name.startswith("HumanEval") else "mbpp"
        if name not in known:
            known.clear()
            found = {}
            for phase in ("base", "plus"):
                inputs = list(task[phase + "_input"])
                if dataset == "mbpp":
                    inputs = mbpp_deserialize_inputs(name, inputs)
                found[phase] = inputs, *trusted_exec(
                    task["prompt"] + task["canonical_solution"], inputs, task["entry_point"],
                    record_time=True,
                    output_not_none=dataset == "mbpp"
                    and task["entry_point"] in MBPP_OUTPUT_NOT_NONE_TASKS,
                )
            known[name] = found
        answer = [
            untrusted_check(
                dataset, row["solution"], inputs, task["entry_point"], expected=expected,
                atol=task["atol"], ref_time=times, fast_check=True,
            )[0]
            for inputs, expected, times in known[name].values()
        ]
        print(json.dumps(answer), flush=True)

main()
"""

_SWAPS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    **{ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot},
    **{ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add},
    **{ast.Div: ast.FloorDiv, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
    **{ast.And: ast.Or, ast.Or: ast.And, ast.UAdd: ast.USub, ast.USub: ast.UAdd},
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "len": "sum"}


def mutations(tree: ast.Module) -> Iterator[tuple[str, Callable[[], None]]]:
    """(what it does, a function that does it to `tree`) for every place that can be changed."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                if new := _SWAPS.get(type(op)):
                    yield f"{line}: {_names(op, new)}", _put(node.ops, i, new())
        elif isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp, ast.UnaryOp)):
            if isinstance(node.op, ast.Not):
                yield f"{line}: not not", _set(node, "op", ast.UAdd())
            elif new := _SWAPS.get(type(node.op)):
                yield f"{line}: {_names(node.op, new)}", _set(node, "op", new())
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            for by in (-1, 1):
                yield f"{line}: {node.value} {by:+}", _set(node, "value", node.value + by)
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield f"{line}: not {node.value}", _set(node, "value", not node.value)
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield f"{line}: if not", _set(node, "test", ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in _CALLS:
            name = node.func.id  # type: ignore[attr-defined]
            yield f"{line}: {name} to {_CALLS[name]}", _set(node.func, "id", _CALLS[name])
        elif isinstance(node, ast.Return) and node.value is not None:
            yield f"{line}: return None", _set(node, "value", ast.Constant(None))
            for to in ("list", "tuple", "str", "float"):
                call = ast.Call(ast.Name(to, ast.Load()), [node.value], [])
                yield f"{line}: return {to}", _set(node, "value", call)


def _names(old: ast.AST, new: type) -> str:
    return f"{type(old).__name__} to {new.__name__}"


def _set(node: ast.AST, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(node, name, value)


def _put(items: list[Any], place: int, value: Any) -> Callable[[], None]:
    return lambda: items.__setitem__(place, value)


def mutants(task: Task, count: int, seed: int) -> list[tuple[str, str]]:
    """(what was changed, the program) for `count` different mutants, or as many as there are."""
    source = task.prompt + task.canonical_solution
    places = len(list(mutations(ast.parse(source))))
    chosen = random.Random(f"{seed} {task.task_id}").sample(range(places), places)
    found: dict[str, str] = {}
    for place in chosen:
        tree = ast.parse(source)
        name, change = list(mutations(tree))[place]
        change()
        found.setdefault(ast.unparse(ast.fix_missing_locations(tree)), name)
        if len(found) == count:
            break
    return [(name, code) for code, name in found.items()]


class Evalplus:
    """evalplus's checker in a process of its own."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", THEIRS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def judge(self, row: dict[str, Any], solution: str) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"task": row, "solution": solution}), file=self.process.stdin, flush=True)
        found: list[str] = json.loads(self.process.stdout.readline())
        return found


def ours(task: Task, solution: str) -> list[str | None]:
    (outcome,) = execute([program_for(task, {"solution": solution})], limits_for(task.format))
    found = verdict(task, outcome)
    return [found.base, found.plus]


def same(one: list[Any], other: list[Any]) -> bool:
    """Both pass or both do not, in base and plus: a timeout is a failure."""
    return [status == "pass" for status in one] == [status == "pass" for status in other]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("tasks", nargs="+", type=Path)
    arguments.add_argument("--evalplus", required=True, help="a Python that can import evalplus")
    arguments.add_argument("--mutants", type=int, default=1100)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    from privcode.data.rows import read_rows

    rows = {row["task_id"]: row for path in given.tasks for _, row in read_rows(str(path))}
    tasks = [task for path in given.tasks for task in load_tasks(path)]
    each = -(-given.mutants // len(tasks))
    done = set()
    if given.out.exists():
        done = {(r["task_id"], r["solution"]) for r in map(json.loads, given.out.open())}
    todo = [(task, name, code) for task in tasks for name, code in mutants(task, each, given.seed)]
    theirs = Evalplus(given.evalplus)
    with given.out.open("a") as file, progress_bar("agreement", len(todo)) as progress:
        for task, name, code in todo:
            progress(1)
            if (task.task_id, code) in done:
                continue
            row = rows[task.task_id]
            here, there = ours(task, code), theirs.judge(row, code)
            found = {"task_id": task.task_id, "change": name, "ours": here, "evalplus": there}
            if not same(here, there):
                found["again"] = {"ours": ours(task, code), "evalplus": theirs.judge(row, code)}
            print(json.dumps(found | {"solution": code}), file=file, flush=True)
    report([json.loads(line) for line in given.out.open()])


def report(found: list[dict[str, Any]]) -> None:
    """Figures, and every disagreement."""
    differ = [row for row in found if not same(row["ours"], row["evalplus"])]
    stay = [row for row in differ if not same(row["again"]["ours"], row["again"]["evalplus"])]
    verdicts = Counter(" ".join(map(str, row["ours"])) for row in found)
    print(f"{len(found)} mutants of {len({row['task_id'] for row in found})} tasks: {verdicts}")
    for name, rows in (("at first", differ), ("again", stay)):
        print(f"agree {name}: {len(found) - len(rows)} ({1 - len(rows) / len(found):.4%})")
    for row in differ:
        print({key: row[key] for key in ("task_id", "change", "ours", "evalplus", "again")})


if __name__ == "__main__":
    sys.exit(main())
