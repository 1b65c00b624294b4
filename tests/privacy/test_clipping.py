"""The clipping engine against plain autograd, one record at a time."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from privcode.errors import UserError
from privcode.privacy.clipping import Clipper

FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
}
LENGTHS = (5, 9, 3, 12, 7, 7, 2, 10)
CLIP = 0.7  # below some of the records' norms and above others: both branches are taken


def tiny_model(family: str = "llama", dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    config, make = FAMILIES[family]
    base = make(
        config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=32,
            pad_token_id=0,
        )
    ).to(dtype)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.3)
    return model.train()


def records(count: int = 8, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 64, (n,), generator=generator) for n in LENGTHS[:count]]


def losses(model: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
    ids = nn.utils.rnn.pad_sequence(list(batch), batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(x) for x in batch], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    labels = ids.masked_fill(mask == 0, -100)[:, 1:]
    token_losses = cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
    return token_losses.sum(1) / mask[:, 1:].sum(1)


def plain_gradient(model: nn.Module, record: torch.Tensor) -> torch.Tensor:
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(losses(model, [record]).sum(), weights)
    return torch.cat([g.flatten() for g in gradients])


def looped_sum(
    model: nn.Module, batch: Sequence[torch.Tensor], units: Sequence[int], clip: float = CLIP
) -> torch.Tensor:
    total = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))
    for unit in sorted(set(units)):
        own = [plain_gradient(model, r) for r, u in zip(batch, units, strict=True) if u == unit]
        gradient = torch.stack(own).sum(0)
        total += gradient * min(1.0, clip / gradient.double().norm().item())
    return total


def clipped_sum(
    model: nn.Module,
    batch: Sequence[torch.Tensor],
    units: Sequence[int],
    size: int = 8,
    clip: float = CLIP,
) -> torch.Tensor:
    clipper = Clipper(model, clip)
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        with clipper.recording(len(part)):
            losses(model, part).sum().backward()
        clipper.accumulate(torch.tensor(units[start : start + size]))
    return clipper.take_sum()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).double().norm() / b.double().norm()).item()


@pytest.fixture(params=["one by one", "together"])
def adding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way in which a processor adds the rows of a micro-batch, and that of a GPU."""
    if request.param == "together":
        monkeypatch.setattr(Clipper, "_add_one_by_one", Clipper._add_together)


@pytest.mark.usefixtures("adding")
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["none", "reentrant", "non"])
@pytest.mark.parametrize("size", [8, 4, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_clipped_sum_equals_a_loop_over_single_records(
    family: str, size: int, checkpointing: bool | None
) -> None:
    model = tiny_model(family)
    expected = looped_sum(model, records(), range(8))
    if checkpointing is not None:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    assert distance(clipped_sum(model, records(), range(8), size), expected) < 1e-5


def test_the_clip_norm_of_these_tests_clips_some_records_and_not_others() -> None:
    model = tiny_model()
    norms = [plain_gradient(model, r).norm().item() for r in records()]
    clip = sorted(norms)[4]
    assert min(norms) < clip < max(norms)
    got = clipped_sum(model, records(), range(8), clip=clip)
    assert distance(got, looped_sum(model, records(), range(8), clip)) < 1e-5


@pytest.mark.usefixtures("adding")
@pytest.mark.parametrize("size", [8, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_unit_of_several_records_is_summed_then_clipped_once(family: str, size: int) -> None:
    model = tiny_model(family)
    units = [7, 7, 3, 7, 9, 11, 9, 12]
    got = clipped_sum(model, records(), units, size)
    assert distance(got, looped_sum(model, records(), units)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_in_fp32_on_a_bf16_base_agree_to_bf16_rounding(family: str) -> None:
    # Batched and single matrix products of the frozen bf16 base round differently, about 2^-8 a
    # layer; what is tested is that nothing worse than this rounding is added.
    model = tiny_model(family, torch.bfloat16)
    got = clipped_sum(model, records(), range(8))
    assert got.dtype == torch.float64
    assert distance(got, looped_sum(model, records(), range(8))) < 3e-2


@pytest.mark.usefixtures("adding")
def test_each_units_contribution_is_at_most_the_clip_norm() -> None:
    model = tiny_model()
    for clip in (1e-3, 0.1, 1.0):
        for record in records():
            norm = clipped_sum(model, [record], [0], clip=clip).double().norm().item()
            assert norm <= clip


@pytest.mark.usefixtures("adding")
def test_sums_are_exact_so_their_order_changes_no_bit() -> None:
    model, batch = tiny_model(), records()
    clipper = Clipper(model, CLIP)
    given = torch.stack([plain_gradient(model, record) for record in batch])
    sums = []
    for order in (range(8), reversed(range(8)), (3, 1, 4, 0, 5, 7, 2, 6)):
        for unit in order:
            clipper.accumulate(torch.tensor([unit]), given[unit : unit + 1].clone())
        sums.append(clipper.take_sum())
    clipper.accumulate(torch.arange(8), given.clone())
    whole = clipper.take_sum()
    assert all(torch.equal(total, whole) for total in sums)
    assert torch.equal(whole, clipper.round(whole))


@pytest.mark.usefixtures("adding")
def test_the_rounding_of_many_coordinates_stays_within_the_clip_norm() -> None:
    model = tiny_model()
    for clip in (0.3, 1.0, 7.0):
        clipper = Clipper(model, clip)
        for seed in range(20):
            rows = torch.randn(1, clipper.parameters, generator=torch.Generator().manual_seed(seed))
            clipper.accumulate(torch.zeros(1, dtype=torch.long), rows * 10.0 ** (seed - 4))
            norm = float(clipper.take_sum().norm())
            assert norm <= clip
            assert seed < 5 or norm > 0.9999 * clip


def test_noise_has_all_the_low_bits_that_the_sum_has() -> None:
    model = tiny_model()
    clipper = Clipper(model, CLIP)
    noise = torch.randn(200_000, dtype=torch.float64) * CLIP
    steps = clipper.round(noise) / clipper.grid
    assert torch.equal(steps, steps.round())
    for bit in range(8):  # of whole steps of the grid; noise from fp32 numbers would have zeros
        share = float((steps.long() >> bit & 1).double().mean())
        assert abs(share - 0.5) < 0.01


@pytest.mark.usefixtures("adding")
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), clip=st.floats(1e-3, 10))
def test_adding_a_unit_moves_the_sum_by_at_most_the_sensitivity(seed: int, clip: float) -> None:
    model = tiny_model()
    batch, units = records(seed=seed), [0, 1, 2, 3, 4, 5, 6, 6]
    both = clipped_sum(model, batch, units, clip=clip)
    without = clipped_sum(model, batch[:6], units[:6], clip=clip)
    # 2e-6: seven fp32 summands each round at the sum's own scale.
    bound = Clipper(model, clip).sensitivity + 2e-6 * both.norm().item()
    assert (both - without).double().norm().item() <= bound


@pytest.mark.usefixtures("adding")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_record_that_is_not_finite_contributes_exactly_nothing(bad: float) -> None:
    model, batch = tiny_model(), records()
    clipper = Clipper(model, CLIP)
    weights = torch.ones(8)
    weights[3] = bad
    with clipper.recording(8):
        (losses(model, batch) * weights).sum().backward()
    clipper.accumulate(torch.arange(8))
    got = clipper.take_sum()
    others = [r for i, r in enumerate(batch) if i != 3]
    assert got.isfinite().all()
    assert distance(got, looped_sum(model, others, range(7))) < 1e-5

    with clipper.recording(1):
        (losses(model, [batch[3]]) * bad).sum().backward()
    clipper.accumulate(torch.zeros(1, dtype=torch.long))
    assert not clipper.take_sum().any()


@pytest.mark.usefixtures("adding")
def test_a_unit_with_one_record_that_is_not_finite_contributes_exactly_nothing() -> None:
    model, batch = tiny_model(), records(2)
    clipper = Clipper(model, CLIP)
    with clipper.recording(2):
        (losses(model, batch) * torch.tensor([1.0, float("nan")])).sum().backward()
    clipper.accumulate(torch.tensor([5, 5]))
    assert not clipper.take_sum().any()


def test_gradients_land_on_the_parameters_they_came_from() -> None:
    model = tiny_model()
    clipper = Clipper(model, 1e3)
    record = records(1)
    with clipper.recording(1):
        losses(model, record).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    clipper.accumulate(torch.zeros(1, dtype=torch.long))
    clipper.set_gradients(clipper.take_sum())
    written = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    losses(model, record).sum().backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(written[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_the_forward_pass_is_restored_after_recording_even_when_it_fails() -> None:
    model = tiny_model()
    before = losses(model, records())
    with pytest.raises(ZeroDivisionError), Clipper(model, CLIP).recording(8):
        raise ZeroDivisionError
    assert not any("forward" in m.__dict__ for m in model.modules() if type(m) is nn.Linear)
    assert torch.equal(losses(model, records()), before)


@pytest.mark.parametrize(
    ("freed", "name"), [("model.norm", "model.norm"), ("embed_tokens", "embed_tokens")]
)
def test_a_trainable_parameter_that_is_not_covered_is_refused_by_name(
    freed: str, name: str
) -> None:
    model = tiny_model()
    next(m for n, m in model.named_modules() if n.endswith(freed)).weight.requires_grad_(True)
    with pytest.raises(UserError, match=name):
        Clipper(model, CLIP)


def test_a_linear_layer_with_a_bias_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="module 0: "):
        Clipper(nn.Sequential(nn.Linear(3, 3)), CLIP)
    frozen_bias = nn.Linear(3, 3)
    frozen_bias.bias.requires_grad_(False)  # the tap would leave it out of the forward pass
    with pytest.raises(UserError, match="module 0: "):
        Clipper(nn.Sequential(frozen_bias), CLIP)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        Clipper(tiny_model().requires_grad_(False), CLIP)


def test_a_weight_shared_by_two_layers_is_refused() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    with pytest.raises(UserError, match="shares its weight"):
        Clipper(nn.Sequential(first, second), CLIP)


def test_a_layer_used_twice_is_refused() -> None:
    layer = nn.Linear(4, 4, bias=False)
    clipper = Clipper(layer, CLIP)
    with pytest.raises(UserError, match="got 2 gradients"), clipper.recording(2):
        layer(layer(torch.randn(2, 3, 4))).sum().backward()


def test_a_layer_that_is_not_used_is_refused() -> None:
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    clipper = Clipper(model, CLIP)
    with pytest.raises(UserError, match="module 1: got 0 gradients"), clipper.recording(2):
        model[0](torch.randn(2, 3, 4)).sum().backward()


@pytest.mark.parametrize("shape", [(6, 4), (2, 4), (1, 6, 4)])
def test_a_layer_fed_a_flattened_batch_is_refused(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    clipper = Clipper(model, CLIP)
    with pytest.raises(UserError, match="flattens or mixes"), clipper.recording(2):
        model(torch.randn(2, 3, 4).reshape(-1, 4)[: shape[-2]].reshape(shape)).sum().backward()
