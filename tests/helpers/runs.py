"""A whole run for the tests, made in seconds: its files are those that the stages write."""

from pathlib import Path
from typing import Any

from privcode.config import load_config
from privcode.exercises.corpus import tasks
from privcode.files import write_json, write_jsonl
from privcode.models import attach_lora, load_model, save_model
from privcode.pipeline.run import Run
from privcode.privacy.ledger import Ledger

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-3, units: 40, batch: 2, steps: 3}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
premium: {model: "bundled:premium", lora: {r: 2, alpha: 4, targets: [q_proj]}}
sanitize: {syntax: {schedule: "off"}}
evaluate: {tasks: [{name: house, file: tasks.jsonl}], max_new_tokens: 4}
audit: {repetitions: [2], samples: 1, candidates: 0, max_new_tokens: 4}
"""
ROWS = [{"id": f"{n}-0", "prompt": f"Problem {n}", "completion": f"x = {n}"} for n in range(3)]
FIGURES = {"mode": "complete", "pass@1": 0.5, "tasks": 2, "samples": 2, "errors": {"NameError": 1}}
LEAKS = {"planted": 5, "leaked": 0, "by_repetitions": {"2": {"planted": 5, "leaked": 0}}}
AUDIT = {"samples_per_prompt": 1, "places": {"anywhere": LEAKS}, "exposure": None}


def make_run(root: Path) -> Run:
    """A finished run in ROOT/run, released and reported, whose training and answers are made up."""
    root.mkdir(parents=True, exist_ok=True)
    write_jsonl(root / "tasks.jsonl", tasks(2, seed=1))
    (root / "privcode.yaml").write_text(CONFIG)
    run = Run(load_config(root / "privcode.yaml"), root / "run")
    with run.stage("sanitize", [], [run.junior]):
        ledger = Ledger(run.ledger)
        ledger.begin(run.plan, data="0" * 64, run="1" * 32)
        for step in range(run.plan.steps):
            ledger.step(step)
        write_json(run.private / "data.json", {"rows": 40}, mode=0o600)
        _save(run.junior, "bundled:junior", ["q_proj"])
    with run.stage("synthesize", [run.junior], [run.raw]):
        write_jsonl(run.raw, [*ROWS, {"id": "3-0", "prompt": "Problem 3", "completion": "x ="}])
    with run.stage("validate", [run.raw], [run.accepted]):
        write_jsonl(run.accepted, ROWS)
        verdicts: list[Any] = [{"id": r["id"], "accepted": True, "reason": ""} for r in ROWS]
        verdicts.append({"id": "3-0", "accepted": False, "reason": "execution: SyntaxError"})
        write_jsonl(run.verdicts, verdicts, mode=0o600)
    with run.stage("boost", [run.accepted], [run.premium]):
        _save(run.premium, "bundled:premium", ["q_proj"])
    with run.stage("evaluate", [run.junior, run.raw, run.accepted, run.premium], [run.evaluation]):
        for label in ("base", "tuned"):
            facts = {"task": "house", "model": label} | FIGURES
            write_json(run.evaluation / f"house.{label}.json", facts)
            write_jsonl(run.evaluation / f"house.{label}.samples.jsonl", [])
    audit = run.evaluation / "audit.json"
    with run.stage("audit", [run.junior, run.raw, run.accepted, run.premium], [audit]):
        write_json(audit, AUDIT)
    run.report()
    run.release()
    run.close()
    return run


def _save(folder: Path, base: str, targets: list[str]) -> None:
    save_model(attach_lora(load_model(base), 2, 4, 0.0, targets), folder, base=base)
