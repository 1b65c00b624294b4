"""The files behind `privcode demo`: made-up private records, public prompts, held-out tasks.

Promises: the same files every time; nothing is fetched. Does not: run anything.
"""

from importlib.resources import files
from pathlib import Path

from privcode.config import Config, load_config
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.files import write_jsonl, write_text

RECORDS, PROMPTS, TASKS = 64_000, 1_600, 200


def prepare(out: Path) -> Config:
    """Write OUT/data and OUT/demo.yaml, and return the config."""
    data = out / "data"
    write_jsonl(data / "private.jsonl", private_records(RECORDS, seed=0))
    write_jsonl(data / "prompts.jsonl", public_prompts(PROMPTS, seed=0))
    write_jsonl(data / "tasks.jsonl", tasks(TASKS, seed=0, domain="private", split="test"))
    write_text(data / "house.py", prelude())
    text = files("privcode.exercises").joinpath("demo.yaml").read_text(encoding="utf-8")
    write_text(out / "demo.yaml", text)
    return load_config(out / "demo.yaml")
