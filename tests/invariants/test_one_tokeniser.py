"""In whole runs: the ids that the models see in training begin with those that generation sends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from privcode.audit import canaries
from privcode.config import load_config
from privcode.files import read_jsonl, write_jsonl
from privcode.models import answer_tokens, asking, load_tokenizer, prompt_tokens, tokenizer_of
from privcode.models.templates import GAP
from privcode.pipeline.run import Run
from privcode.scoring import in_language, load_tasks, prompt_for
from tests.helpers.families import FAMILIES, save
from tests.helpers.real import real_model

pytestmark = pytest.mark.slow

TEXT = "Question: {prompt}\n\nAnswer:\n"
JINJA = (
    "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}### answer\n{% endif %}"
)
TASK = {
    "task_id": "X/0",
    "prompt": 'def one():\n    """Return 1."""\n',
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
CASES = [
    *((name, TEXT) for name in FAMILIES),
    *((name, JINJA) for name in ("gemma3", "gpt2")),
    *((name, "chat") for name, family in FAMILIES.items() if family.chat),
    *((name, "fim") for name, family in FAMILIES.items() if family.fim),
]


@contextmanager
def seen(vocabulary: int) -> Iterator[list[list[int]]]:
    """Every row of token ids that an embedding of any model gets."""
    rows: list[list[int]] = []
    forward = torch.nn.Embedding.forward

    def spy(self: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if ids.dim() == 2 and not ids.is_meta and self.num_embeddings == vocabulary:
            rows.extend(ids.tolist())
        return forward(self, ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Embedding, "forward", spy)
        yield rows


def holds(rows: list[list[int]], ids: list[int], *, at: str) -> bool:
    """Whether a row begins with `ids`, or ends with them."""
    if at == "start":
        return any(row[: len(ids)] == ids for row in rows)
    return any(row[-len(ids) :] == ids for row in rows)


@pytest.mark.parametrize(("name", "template"), CASES)
def test_every_stage_of_a_run_puts_a_prompt_in_the_same_ids(
    tmp_path: Path, name: str, template: str
) -> None:
    check_run(tmp_path, save(name, tmp_path), template)


def test_every_stage_puts_a_prompt_to_smollm2_in_the_same_ids(tmp_path: Path) -> None:
    check_run(tmp_path, str(real_model("smollm2-135m-instruct")), "chat")


def check_run(root: Path, model: str, template: str) -> None:
    """Run all stages on a model, and look at the ids that it sees in each."""
    fills = template == "fim"
    prompt = f"def add(x):\n{GAP}\nadd(1)\n" if fills else "Write a function that adds."
    codes = [
        f"    return x + {n}\n" if fills else f"def add(x):\n    return x + {n}\n" for n in range(8)
    ]
    write_jsonl(root / "private.jsonl", [{"problem": prompt, "solution": c} for c in codes * 5])
    write_jsonl(root / "prompts.jsonl", [{"prompt": prompt}])
    write_jsonl(root / "tasks.jsonl", [TASK])
    section = {
        "model": model,
        "template": template,
        "max_tokens": 500,
        "lora": {"r": 2, "alpha": 4, "targets": ["c_attn"]} if "gpt2" in model else {"r": 2},
    }
    mode = "complete" if fills else "instruct"
    settings = {
        "data": {"source": "private.jsonl", "language": "python"},
        "privacy": {"epsilon": None, "noise_multiplier": 1.0, "delta": 1e-3, "units": 40}
        | {"batch": 20, "steps": 1},
        "prompts": {"source": "public", "file": "prompts.jsonl"},
        "junior": section,
        "sanitize": {"syntax": {"schedule": "off"}},
        "synthesize": {"max_new_tokens": 8, "samples_per_prompt": 8},
        "validate": {
            "execution": {"enabled": False},
            "round_trip": {"method": "off" if fills else "likelihood", "threshold": -1e9},
        },
        "premium": section,
        "boost": {"epochs": 1, "batch_size": 4, "micro_batch": 4},
        "evaluate": {"tasks": [{"name": "house", "file": "tasks.jsonl", "mode": mode}]}
        | {"max_new_tokens": 4},
        "audit": {"repetitions": [1], "samples": 1, "candidates": 1, "max_new_tokens": 4},
    }
    (root / "privcode.yaml").write_text(json.dumps(settings))
    config = load_config(root / "privcode.yaml")
    tokenizer = tokenizer_of(config.junior)
    put = asking(template, tokenizer)
    asked = prompt_tokens(tokenizer, put(prompt))

    def whole(before: list[int], answer: str) -> list[int]:
        return [*before, *answer_tokens(tokenizer, answer).ids, tokenizer.eos_token_id]

    with Run(config, root / "run") as run:
        with seen(len(tokenizer)) as rows:
            run.do("sanitize")
        assert any(holds(rows, whole(asked, code), at="start") for code in codes)
        with seen(len(tokenizer)) as rows:
            run.do("synthesize")
        assert [row for row in rows if len(row) > 1] == [asked] * 8
        with seen(len(tokenizer)) as rows:
            run.do("validate")
        if not fills:
            puts = put if config.describer and config.describer.template != "{prompt}" else str
            asks = config.validate_.round_trip.template.replace("{code}", "")
            assert holds(rows, prompt_tokens(load_tokenizer(model), puts(asks)), at="start")
        with seen(len(tokenizer)) as rows:
            run.do("boost")
        samples = [row["completion"] for _, row in read_jsonl(run.accepted)]
        assert samples
        assert any(holds(rows, whole(asked, text), at="start") for text in samples)
        with seen(len(tokenizer)) as rows:
            run.do("evaluate")
        ((task,), file) = load_tasks(str(root / "tasks.jsonl")), config.evaluate.tasks[0]
        text = prompt_for(task, file.mode, file.instruction)
        text = text if fills else put(text) + in_language(file.response, task)
        assert holds(rows, prompt_tokens(tokenizer, text), at="end")
        with seen(len(tokenizer)) as rows:
            run.do("audit")
        canary = canaries.plant((1,), config.audit.seed)[0]
        before = prompt_tokens(tokenizer, put(canary.prompt))
        assert holds(rows, whole(before, canary.completion), at="start")
        assert holds(rows, before, at="end")
