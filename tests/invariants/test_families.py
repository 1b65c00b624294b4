"""Llama, Qwen2 and Gemma models from disk through the product's own path: the same update.

What is compared is the gradient that the optimizer saw in one step without noise, because
Adam's first update is close to a sign and would hide its size.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from privcode.data.records import Record, Unit, units_of
from privcode.exercises.corpus import private_records
from privcode.models import Dtype, attach_lora, load_model, load_tokenizer, save_model
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import encode
from privcode.training.learner import Learner
from privcode.training.settings import Sanitize, Syntax

FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM),  # deepseek-coder
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),  # Qwen2.5-Coder, CodeQwen1.5
    "gemma": (GemmaConfig, GemmaForCausalLM),  # codegemma
}
CLIP = {"llama": 0.8, "qwen2": 0.9, "gemma": 0.25}  # near the median: some units are clipped
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
TOKENIZER = load_tokenizer("bundled:junior")
RECORDS = [  # the first eight records belong to three owners
    Record(r["prompt"], r["code"], "python", Unit("owner", str(i % 3 if i < 8 else i)), i)
    for i, r in enumerate(private_records(24, seed=4))
]
EXAMPLES = [encode(r, f"Question: {r.prompt}\n\nAnswer:\n", TOKENIZER, 256)[0] for r in RECORDS]


@dataclass(frozen=True)
class Case:
    """One way to take the step."""

    dtype: Dtype = "float32"
    checkpointing: bool = False
    micro_batch: int = 8
    noise: float = 0.0


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of each family and dtype, with its tokenizer, on disk."""
    root = tmp_path_factory.mktemp("models")
    for family, (config, make) in FAMILIES.items():
        torch.manual_seed(0)
        model = make(
            config(
                vocab_size=len(TOKENIZER),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                max_position_embeddings=256,
                initializer_range=0.1,  # larger than usual, so that attention does something
                pad_token_id=TOKENIZER.pad_token_id,
                eos_token_id=TOKENIZER.eos_token_id,
            )
        )
        for dtype in DTYPES:
            save_model(model.to(getattr(torch, dtype)), root / f"{family}-{dtype}", TOKENIZER)
    return root


def trained(saved: Path, folder: Path, family: str, case: Case) -> tuple[Any, torch.Tensor]:
    """The model after one step, and the gradient it was taken with."""
    path = str(saved / f"{family}-{case.dtype}")
    tokenizer = load_tokenizer(path)
    model = load_model(path, case.dtype).cpu()
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(1)
    adapted = attach_lora(model, r=4, alpha=8, dropout=0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # away from zero, where the syntax term has no gradient
            torch.nn.init.normal_(parameter, std=0.05)
    plan = make_plan(
        epsilon=None,
        noise_multiplier=case.noise,
        delta=1e-3,
        units=len(units_of(RECORDS)),
        batch=len(units_of(RECORDS)),
        steps=1,
        clip_norm=CLIP[family],
        owner_column="owner",
        max_records_per_unit=3,
        reproducible_seed=0,
    )
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.begin(plan, "fingerprint")
    settings = Sanitize(
        learning_rate=1e-2, micro_batch=case.micro_batch, syntax=Syntax(lambda_max=1.0)
    )
    checkpoint = folder / "checkpoint.pt"
    sanitize(
        Learner(adapted, tokenizer.pad_token_id, 256),
        EXAMPLES,
        units_of(RECORDS),
        plan,
        settings,
        ledger,
        checkpoint,
    )
    state = torch.load(checkpoint, weights_only=True)["optimizer"]["state"]
    return adapted, torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]) / 0.1


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("micro_batch", [1, 8, 24])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_update_is_the_same_however_the_step_is_cut(
    saved: Path, tmp_path: Path, family: str, micro_batch: int, checkpointing: bool
) -> None:
    _, expected = trained(saved, tmp_path / "a", family, Case())
    case = Case(checkpointing=checkpointing, micro_batch=micro_batch)
    _, got = trained(saved, tmp_path / "b", family, case)
    assert float(expected.norm()) > 0.01
    assert distance(got, expected) < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("micro_batch", [1, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bf16_base_gives_the_update_to_bf16_rounding(
    saved: Path, tmp_path: Path, family: str, micro_batch: int, checkpointing: bool
) -> None:
    # A bf16 number has 8 significant bits: each product of the frozen base is off by up to 2^-9,
    # and the dozen one after the other in these two layers add up to about 1 % of the gradient
    # (measured: 0.6 to 0.8 %). The adapters, their gradients and the clipped sum stay in fp32.
    _, expected = trained(saved, tmp_path / "a", family, Case())
    case = Case("bfloat16", checkpointing, micro_batch)
    model, got = trained(saved, tmp_path / "b", family, case)
    weights = {p.requires_grad: p.dtype for p in model.parameters()}
    assert weights == {True: torch.float32, False: torch.bfloat16}
    assert distance(got, expected) < 0.02


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_no_bit(
    saved: Path, tmp_path: Path, family: str, dtype: Dtype
) -> None:
    _, expected = trained(saved, tmp_path / "a", family, Case(dtype, False))
    _, got = trained(saved, tmp_path / "b", family, Case(dtype, True))
    assert torch.equal(got, expected)


PLAIN = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
for base, adapter, logits in zip(*[iter(sys.argv[1:])] * 3):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    ids, expected = torch.load(logits)
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    with model.disable_adapter():
        assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-3)
assert "privcode" not in sys.modules
"""


def test_the_adapter_is_loaded_by_peft_alone_and_says_the_same(saved: Path, tmp_path: Path) -> None:
    arguments: list[str] = []
    for family in FAMILIES:
        model, _ = trained(saved, tmp_path / family, family, Case(noise=0.1))
        save_model(model, tmp_path / family / "adapter")
        ids = torch.tensor([EXAMPLES[0].ids])
        with torch.no_grad():
            torch.save((ids, model.eval()(input_ids=ids).logits), tmp_path / family / "logits")
        base = str(saved / f"{family}-float32")
        arguments += [base, *(str(tmp_path / family / name) for name in ("adapter", "logits"))]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
