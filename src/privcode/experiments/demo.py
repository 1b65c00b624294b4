"""The files behind `privcode demo` and `configs/compare.yaml`: private records, prompts, tasks.

    python -m privcode.experiments.demo FOLDER

Promises:
- The files are the same every time, and nothing is fetched.
- Records, prompts, validation and test tasks share no held-out composition.

Does not: run anything.
"""

import sys
from importlib.resources import files
from pathlib import Path

from privcode.config import Config, load_config
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.files import write_jsonl, write_text

RECORDS, PROMPTS, TASKS, MORE_TASKS = 64_000, 4_000, 200, 1_000


def write_world(folder: Path) -> None:
    """Write private.jsonl, prompts.jsonl, house.py, and the tasks.

    Tasks are validation.jsonl, and of the test split tasks.jsonl (200) and tasks-1000.jsonl.
    """
    write_jsonl(folder / "private.jsonl", private_records(RECORDS, seed=0))
    write_jsonl(folder / "prompts.jsonl", public_prompts(PROMPTS, seed=0))
    write_jsonl(folder / "validation.jsonl", tasks(TASKS, seed=0, split="validation"))
    write_jsonl(folder / "tasks.jsonl", tasks(TASKS, seed=3, split="test"))
    write_jsonl(folder / "tasks-1000.jsonl", tasks(MORE_TASKS, seed=4, split="test"))
    write_text(folder / "house.py", prelude())


def prepare(out: Path) -> Config:
    """Write OUT/data and OUT/demo.yaml, and return the config."""
    write_world(out / "data")
    text = files("privcode.experiments").joinpath("demo.yaml").read_text(encoding="utf-8")
    write_text(out / "demo.yaml", text)
    return load_config(out / "demo.yaml")


if __name__ == "__main__":
    write_world(Path(sys.argv[1]))
