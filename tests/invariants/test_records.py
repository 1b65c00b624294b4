"""A run trains on one example for each record, however long: what is drawn is a whole record."""

import json
from pathlib import Path

from privcode.config import load_config
from privcode.exercises.corpus import private_records
from privcode.files import write_jsonl
from privcode.pipeline.run import Run

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-2, units: 6, batch: 6, steps: 1}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 64}
premium: {model: "bundled:premium"}
sanitize: {syntax: {schedule: "off"}}
"""


def test_a_step_with_everybody_takes_as_many_examples_as_there_are_records(tmp_path: Path) -> None:
    rows = private_records(6, seed=1)
    rows[0]["code"] = "\n".join(row["code"] for row in private_records(40, seed=2))
    write_jsonl(tmp_path / "private.jsonl", rows)
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    run = Run(load_config(tmp_path / "privcode.yaml"), tmp_path / "run")
    before = Path("/proc/self/maps").read_text().count("(deleted)")
    run.do("sanitize")
    # Stages that run model-written code come next: no process of theirs inherits the records.
    assert Path("/proc/self/maps").read_text().count("(deleted)") == before
    run.close()
    assert json.loads((run.private / "data.json").read_text())["truncated"] >= 1
    (step,) = map(json.loads, (run.private / "curve.jsonl").read_text().splitlines())
    assert step["records"] == len(rows)  # at rate 1 all are drawn: one example each
