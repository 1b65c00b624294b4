"""Measure pre-trained models on held-out public tasks and put them into the package.

Promises: `sample` writes greedy answers in HumanEval's file formats for `privcode score`, and
never runs them; `install` copies the weights and states where they come from, hashes included.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from privcode.errors import UserError
from privcode.exercises.corpus import Pair, tasks
from privcode.files import Row, read_json, sha256_file, write_jsonl, write_text
from tools.bundled_models.tokenizer import solve

MODELS = ("junior", "premium", "writer")
ASSETS = Path(__file__).resolve().parents[2] / "src" / "privcode" / "assets"

_README = """# Bundled models

Three tiny Llama-style models that `privcode demo`, comparisons and tests run on. They know the
public half of a made-up world (`privcode.exercises`) and nothing else: public exercises in plain
Python, two public libraries, 64 invented libraries that recur, and libraries invented for a single
document.
They have never seen the private house library, a private record, or a held-out composition.

They share a byte-level BPE tokenizer of 1,280 tokens, trained on the same public documents.
`junior` was trained to solve ("Question: ... Answer: ..."); `premium` to solve and, in 30 % of its
documents, to describe ("Answer: ... Question: ..."), one in twenty of those with empty code;
`writer` to solve and, in 20 % of its documents, to write a problem ("Question: Write a programming
problem. Answer: ..."), as code models can. It is the junior where no prompts are public.
Weights are stored in fp16; load them in fp32 on a CPU.

{table}

Loss is the mean over the last hundred or so steps, in nats per target token; much of it is the
names of invented libraries, which no model can guess. Pass@1 is greedy, on held-out public tasks
(test split, seed 0), run inside bubblewrap. The cosine schedule follows the clock, so training
again gives models like these, not these bits.

Made by, in a checkout, on one CPU core each (AMD EPYC with AVX-512, bf16 autocast):

{commands}
"""


def greedy(model: Any, tokenizer: Any, prompts: list[str], batch: int = 100) -> list[str]:
    """Greedy answers to `prompts`, in order; at most 200 new tokens each."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        contexts = [solve(Pair(prompts[row], ""))[0] for row in rows]
        inputs = tokenizer(
            contexts,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=200)
        texts = tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text
    return answers


def sample(folder: Path, n: int = 300, seed: int = 0) -> tuple[Path, Path]:
    """Answer `n` held-out public tasks; write and return tasks.jsonl and samples.jsonl.

    They lie beside `folder`; score them with `privcode score TASKS SAMPLES`.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    problems = tasks(n, seed, "public", "test")
    answers = greedy(model, tokenizer, [problem["prompt"] for problem in problems])
    tasks_file, samples_file = folder.parent / "tasks.jsonl", folder.parent / "samples.jsonl"
    write_jsonl(tasks_file, problems)
    write_jsonl(
        samples_file,
        [
            {"task_id": problem["task_id"], "solution": answer}
            for problem, answer in zip(problems, answers, strict=True)
        ],
    )
    return tasks_file, samples_file


def install(root: Path, assets: Path = ASSETS) -> Path:
    """Copy ROOT/NAME/final into `assets` and write its README from training.json and score.json.

    Raises:
        UserError: a model has not been trained, or its samples have not been scored.
    """
    facts: dict[str, Row] = {}
    for name in MODELS:
        source, score = root / name / "final", root / name / "score.json"
        if not source.is_dir():
            raise UserError(f"{source}: missing; run `pretrain train {name}` to its end")
        if not score.exists():
            raise UserError(f"{score}: missing; run `pretrain sample` and score its two files")
        facts[name] = {
            **read_json(root / name / "training.json"),
            **{"pass@1": read_json(score)["pass@1"], "tasks": read_json(score)["tasks"]},
            "sha256": sha256_file(source / "model.safetensors"),
        }
        shutil.rmtree(assets / name, ignore_errors=True)
        shutil.copytree(source, assets / name)
        for file in (assets / name).iterdir():
            file.chmod(0o644)
    commands = [
        f"    python -m tools.bundled_models.pretrain train {name} --minutes "
        f"{fact['minutes']:g} --out ROOT"
        for name, fact in facts.items()
    ]
    write_text(
        assets / "README.md", _README.format(table=_table(facts), commands="\n".join(commands))
    )
    return assets / "README.md"


def _table(facts: dict[str, Row]) -> str:
    rows = {
        "hidden, layers, heads, feed-forward": "{hidden}, {layers}, {heads}, {feed_forward}",
        "parameters": "{parameters:,}",
        "steps": "{steps:,}",
        "documents": "{documents:,}",
        "tokens (contexts included)": "{tokens:,}",
        "minutes": "{minutes:g}",
        "last training loss": "{loss:.3f}",
        "public held-out pass@1": "{pass@1:.3f} of {tasks} tasks",
        "SHA-256 of model.safetensors": "`{sha256}`",
    }
    lines = ["| | " + " | ".join(facts) + " |", "|---" * (len(facts) + 1) + "|"]
    for name, form in rows.items():
        lines.append(f"| {name} | " + " | ".join(form.format(**f) for f in facts.values()) + " |")
    return "\n".join(lines)
