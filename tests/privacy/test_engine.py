"""The product's loss through the clipper against one example at a time, written out plainly.

The reference shares nothing with the engine: whole logits, `cross_entropy`, `kl_div`, plain
autograd, a loop.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from privcode.data.records import Record, Unit
from privcode.doctor import _SNIPPETS
from privcode.errors import UserError
from privcode.languages import LANGUAGES
from privcode.models import attach_lora, load_tokenizer
from privcode.privacy.clipping import Clipper
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import make_plan
from privcode.training import loss as loss_module
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example, collate, encode
from privcode.training.learner import Learner, try_out
from privcode.training.loss import per_example_losses, split_head
from privcode.training.settings import Sanitize
from tests.helpers.device import DEVICE

TOKENIZER = load_tokenizer("bundled:junior")
FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),  # caps its logits: the head cannot be split off
}
WEIGHT = 2.0
RECORDS = [
    Record(f"Write {language}.", _SNIPPETS[language], language, Unit("row", str(i)), i)
    for i, language in enumerate(LANGUAGES)
]
EXAMPLES = [encode(r, f"Question: {r.prompt}\n\nAnswer:\n", TOKENIZER, 128)[0] for r in RECORDS]


def tiny(
    family: str = "llama",
    rank: int = 4,
    targets: list[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    torch.manual_seed(0)
    config, make = FAMILIES[family]
    base = make(
        config(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=128,
            pad_token_id=0,
        )
    ).to(dtype)
    model = attach_lora(base, rank, 2 * rank, 0.0, targets)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # away from zero, where half of the gradient and the KL vanish
            nn.init.normal_(weight, std=0.2)
    return model.to(DEVICE).train()


def plain_loss(model: Any, example: Example) -> torch.Tensor:
    """One example's loss as the paper writes it."""
    ids = torch.tensor([example.ids], device=model.device)
    predicted = slice(example.start - 1, len(example.ids) - 1)
    logits = model(input_ids=ids).logits[0, predicted].float()
    loss = cross_entropy(logits, ids[0, example.start :])
    marked = torch.tensor(example.structure[example.start :])
    if not marked.any():
        return loss
    training = model.training
    with torch.no_grad(), model.eval().disable_adapter():
        teacher = log_softmax(model(input_ids=ids).logits[0, predicted].float()[marked], -1)
    model.train(training)
    student = log_softmax(logits[marked], -1)
    return loss + WEIGHT * kl_div(student, teacher, reduction="batchmean", log_target=True)


def weights(model: Any) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def plain_gradient(model: Any, example: Example) -> torch.Tensor:
    parts = torch.autograd.grad(plain_loss(model, example), weights(model))
    return torch.cat([part.flatten() for part in parts]).double()


def looped_sum(gradients: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The clipped sum, and a clip norm that clips half of the examples."""
    norms = [float(g.norm()) for g in gradients]
    clip = sorted(norms)[len(norms) // 2]
    scaled = [g * min(1.0, clip / n) for g, n in zip(gradients, norms, strict=True)]
    return torch.stack(scaled).sum(0), clip


def clipped_sum(
    model: Any, examples: Sequence[Example], clip: float, size: int = 4
) -> torch.Tensor:
    clipper, head = Clipper(model, clip), split_head(model)
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        with clipper.recording(len(part)):
            per_example_losses(model, collate(part, 0, model.device), WEIGHT, head).sum().backward()
        clipper.accumulate(torch.arange(len(part)))
    return clipper.take_sum()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())


def test_every_language_has_structure_in_these_tests() -> None:
    assert {r.language for r in RECORDS} == set(LANGUAGES)
    assert all(any(example.structure) for example in EXAMPLES)


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["none", "reentrant", "non"])
@pytest.mark.parametrize("size", [11, 4, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_clipped_sum_in_every_language_equals_a_loop_over_single_examples(
    family: str, size: int, checkpointing: bool | None
) -> None:
    model = tiny(family)
    expected, clip = looped_sum([plain_gradient(model, e) for e in EXAMPLES])
    if checkpointing is not None:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    assert distance(clipped_sum(model, EXAMPLES, clip, size), expected) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("targets", [None, ["q_proj", "v_proj"], ["down_proj"], ["lm_head"]])
@pytest.mark.parametrize("rank", [4, 16, 64])
def test_any_rank_and_any_linear_layers_will_do(rank: int, targets: list[str] | None) -> None:
    model = tiny("qwen2", rank, targets=targets)
    expected, clip = looped_sum([plain_gradient(model, e) for e in EXAMPLES])
    assert distance(clipped_sum(model, EXAMPLES, clip), expected) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_a_bf16_base_under_fp32_adapters_agrees_with_the_loop_to_bf16_rounding(family: str) -> None:
    model = tiny(family, dtype=torch.bfloat16)
    assert {p.dtype for p in weights(model)} == {torch.float32}
    expected, clip = looped_sum([plain_gradient(model, e) for e in EXAMPLES])
    assert distance(clipped_sum(model, EXAMPLES, clip), expected) < 3e-2


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [1, 3 * len(TOKENIZER), 1 << 22])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_losses_are_those_of_the_whole_logits_however_they_are_cut(
    family: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK", {"cpu": chunk, "cuda": chunk})
    model = tiny(family)
    head = split_head(model)
    assert (head is None) == (family == "gemma2")
    got = per_example_losses(model, collate(EXAMPLES, 0, model.device), WEIGHT, head)
    expected = torch.stack([plain_loss(model, e) for e in EXAMPLES])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


LARGE_VOCABULARY = """
import resource, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from privcode.models import attach_lora
from privcode.training.settings import Sanitize
from privcode.training.loss import per_example_losses, split_head
from privcode.training.examples import Example, collate
base = Qwen2ForCausalLM(Qwen2Config(vocab_size=150_000, hidden_size=16, intermediate_size=16,
    num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True))
model = attach_lora(base, 4, 8.0, 0.0).train()
ids = tuple(range(1, 257))
batch = collate([Example(ids, 2, tuple(i % 2 == 0 for i in ids))] * 8, 0)
head = split_head(model)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
per_example_losses(model, batch, 1.0, head).sum().backward()
print(peak() - before)
"""


def test_the_logits_of_a_large_vocabulary_are_never_held_whole() -> None:
    # 8 × 256 tokens × 150,000 logits in fp32 are 1,172 MB, and each copy as much again.
    done = subprocess.run(
        [sys.executable, "-c", LARGE_VOCABULARY], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) < 400


class Mixing(nn.Module):
    """Takes the batch's mean away from what a layer gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.inner(*args, **kwargs)
        return out - 0.1 * out.mean(0, keepdim=True)


class Twice(nn.Module):
    """Goes through a layer again, without a change in the shape."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x) + self.inner(2 * x)


class Flattening(nn.Module):
    """Takes all tokens of a batch as one row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x.flatten(0, 1)).view(*x.shape[:2], -1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("fault", "says"),
    [(Mixing, "depends on the others"), (Twice, "2 gradients"), (Flattening, "flattens")],
)
def test_a_model_that_cannot_be_clipped_per_record_is_refused_by_name_before_the_first_step(
    tmp_path: Path, fault: type[nn.Module], says: str
) -> None:
    model = tiny()
    layer = model.base_model.model.model.layers[0].mlp
    layer.up_proj = fault(layer.up_proj)  # type: ignore[call-arg]
    plan = make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-3, units=11, batch=11, steps=1, clip_norm=1.0
    )
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.begin(plan, "fingerprint")
    learner = Learner(model, 0, 256)
    units = [[i] for i in range(len(EXAMPLES))]
    with pytest.raises(UserError, match=rf"module .*layers\.\d\..*: .*{says}"):
        sanitize(learner, EXAMPLES, units, plan, Sanitize(), ledger, tmp_path / "checkpoint")
    assert ledger.steps == 0


def test_trying_a_model_out_leaves_no_trace() -> None:
    model = tiny()
    clipper = Clipper(model, 1.0)
    before = torch.get_rng_state()
    try_out(Learner(model, 0, 256), clipper, 8)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert not clipper.take_sum().any()
