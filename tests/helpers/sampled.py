"""A run whose junior is made up, so that a test can begin with its second stage."""

import shutil
from pathlib import Path

import torch

from privcode.config import load_config
from privcode.exercises.corpus import prelude, public_prompts, tasks
from privcode.files import write_jsonl
from privcode.models import attach_lora, load_model, save_model
from privcode.pipeline.run import Run
from privcode.privacy.ledger import Ledger

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-3, units: 40, batch: 2, steps: 3}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
premium: {model: "bundled:premium"}
synthesize: {max_new_tokens: 64}
validate: {execution: {prelude: house.py, cpu_seconds: 2}, round_trip: {threshold: -1}}
evaluate:
  tasks: [{name: house, file: tasks.jsonl, prelude: house.py, instruction: "{problem}"}]
  models: [base, junior]
  max_new_tokens: 24
  batch_size: 4
"""


def begin(root: Path, prompts: int) -> Path:
    """A run in ROOT/run, of which `sanitize` is done."""
    write_jsonl(root / "prompts.jsonl", public_prompts(prompts, seed=1))
    write_jsonl(root / "tasks.jsonl", tasks(10, seed=1))
    (root / "house.py").write_text(prelude())
    (root / "privcode.yaml").write_text(CONFIG)
    with (
        Run(load_config(root / "privcode.yaml"), root / "run") as run,
        run.stage("sanitize", [], [run.junior]),
    ):
        ledger = Ledger(run.ledger)
        ledger.begin(run.plan, data="0" * 64, run="1" * 32)
        for step in range(run.plan.steps):
            ledger.step(step)
        torch.manual_seed(0)
        model = attach_lora(load_model("bundled:junior"), 2, 4, 0.0, ["q_proj"])
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        save_model(model, run.junior, base="bundled:junior")
    return root / "run"


def on_cluster(run: Path, copy: Path, scale: str) -> Path:
    """A copy of the run, and a config in which its work is done on a cluster."""
    shutil.copytree(run, copy)
    config = run.parent / f"{copy.name}.yaml"
    config.write_text(f"{CONFIG}scale: {scale}\n")
    return config
