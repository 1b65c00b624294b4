"""Run model-written programs in the sandbox, then score samples of a model on your own tasks.

    python examples/execute_and_score.py

The same for files of any size: `privcode execute --help` and `privcode score --help`.
"""

import tempfile
from pathlib import Path

from privcode.execution import Limits, Program, execute
from privcode.files import write_jsonl
from privcode.scoring.score import score_files

PROGRAMS = [
    Program("sum", "print(sum(map(int, input().split())))", stdin="1 2 3"),
    Program("loop", "while True: pass"),
    Program("network", 'import socket; socket.create_connection(("192.0.2.1", 80))'),
    Program("shell", "echo $((6 * 7))", language="bash"),
]

# Tasks in HumanEval's format. Their own solutions are run first, to see that the tests work here.
TASKS = [
    {
        "task_id": "mine/0",
        "prompt": "def largest(numbers: list[int]) -> int:\n",
        "entry_point": "largest",
        "canonical_solution": "    return max(numbers)\n",
        "test": "def check(candidate):\n    assert candidate([3, 9, -1]) == 9\n",
    },
    {
        "task_id": "mine/1",
        "prompt": "def vowels(word: str) -> int:\n",
        "entry_point": "vowels",
        "canonical_solution": "    return sum(letter in 'aeiou' for letter in word)\n",
        "test": "def check(candidate):\n    assert candidate('privacy') == 2\n",
    },
]

# What a model answered: two samples for each task.
SAMPLES = [
    {"task_id": "mine/0", "completion": "    return sorted(numbers)[-1]\n"},
    {"task_id": "mine/0", "completion": "    return numbers[0]\n"},
    {"task_id": "mine/1", "completion": "    return len([x for x in word if x in 'aeiou'])\n"},
    {"task_id": "mine/1", "completion": "    while True: pass\n"},
]


def main() -> None:
    """Print what became of every program, then pass@1 and pass@2."""
    for outcome in execute(PROGRAMS, Limits(cpu_seconds=1)):
        print(f"{outcome.id:8} {outcome.status:8} {outcome.stdout.strip() or outcome.error}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "tasks.jsonl", TASKS)
        write_jsonl(folder / "samples.jsonl", SAMPLES)
        facts = score_files(
            folder / "tasks.jsonl", folder / "samples.jsonl", k=(1, 2), cpu_seconds=1
        )
    truth = facts["conditions"]["ground_truth"]
    print(f"\nof the tasks' {truth['checked']} own solutions {truth['passed']} pass here")
    print(f"pass@1 {facts['pass@1']:.2f}, pass@2 {facts['pass@2']:.2f}; errors {facts['errors']}")


if __name__ == "__main__":
    main()
