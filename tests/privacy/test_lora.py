"""A LoRA layer as one operation: where it is taken, and that it is the layer."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from privcode.privacy import lora
from privcode.privacy.clipping import Clipper
from privcode.training.loss import without_adapter
from tests.helpers.device import DEVICE

pytestmark = pytest.mark.gpu
IDS = torch.arange(2, 26).view(2, 12)


def model_with(dtype: torch.dtype = torch.float32, **chosen: Any) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
    model = get_peft_model(Qwen2ForCausalLM(config).to(dtype), LoraConfig(**settings | chosen))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return model.to(DEVICE).train()


def layers_of(model: Any) -> list[nn.Module]:
    return [m for m in model.modules() if hasattr(m, "lora_A")]


def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS.to(DEVICE)).logits.float()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_forward_pass_is_the_layers_while_recording(dtype: torch.dtype) -> None:
    model = model_with(dtype)
    assert all(lora.halves(layer) for layer in layers_of(model))
    expected = logits(model)
    with Clipper(model, 1.0).recording(2):
        got = logits(model)
        got.sum().backward()
    apart = float((got - expected).norm() / expected.norm())
    assert apart < (1e-6 if dtype == torch.float32 else 2e-2)
    assert torch.equal(logits(model), expected)


def test_without_the_adapter_the_pass_is_the_bases_to_the_bit() -> None:
    model = model_with()
    with torch.no_grad(), model.disable_adapter():
        expected = logits(model)
    with Clipper(model, 1.0).recording(2):
        with torch.no_grad(), without_adapter(model):
            assert torch.equal(logits(model), expected)
        logits(model).sum().backward()


@pytest.mark.parametrize(
    "chosen",
    [{"use_dora": True}, {"lora_dropout": 0.5}, {"target_modules": ["embed_tokens"]}],
    ids=["dora", "dropout", "embedding"],
)
def test_any_other_layer_keeps_its_own_pass(chosen: dict[str, Any]) -> None:
    assert not any(lora.halves(layer) for layer in layers_of(model_with(**chosen)))


def test_a_layer_with_two_adapters_or_a_merged_one_keeps_its_own_pass() -> None:
    model = model_with()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "other"])
    assert not any(lora.halves(layer) for layer in layers_of(model))
    merged = model_with()
    merged.merge_adapter()
    assert not any(lora.halves(layer) for layer in layers_of(merged))


def test_dropout_that_is_off_does_not_matter() -> None:
    model = model_with(lora_dropout=0.5).eval()
    assert all(lora.halves(layer) for layer in layers_of(model))


def test_a_base_of_another_kind_keeps_its_own_pass() -> None:
    class Quantised(nn.Linear):
        """A product that is not its weight's."""

    model = model_with()
    for layer in layers_of(model):
        layer.base_layer.__class__ = Quantised
    assert not any(lora.halves(layer) for layer in layers_of(model))


def test_a_base_in_fp16_or_one_that_is_trained_keeps_its_own_pass() -> None:
    assert not any(lora.halves(layer) for layer in layers_of(model_with(torch.float16)))
    model = model_with()
    for layer in layers_of(model):
        layer.base_layer.weight.requires_grad_(True)
    assert not any(lora.halves(layer) for layer in layers_of(model))


def test_a_layer_without_an_active_adapter_or_with_a_pass_of_somebody_elses_keeps_it() -> None:
    model = model_with()
    for layer in layers_of(model):
        own = layer.forward
        layer.forward = lambda x, own=own: own(x)  # type: ignore[method-assign]
    assert not any(lora.halves(layer) for layer in layers_of(model))
    with Clipper(model, 1.0).recording(2):
        logits(model).sum().backward()
    assert all("forward" in vars(layer) for layer in layers_of(model))
    other = model_with()
    for layer in layers_of(other):
        layer._active_adapter = []
    assert not any(lora.halves(layer) for layer in layers_of(other))


def test_a_model_may_change_what_a_layer_gives_in_place() -> None:
    model = model_with()  # Qwen2's q_proj has a bias
    attention = model.get_base_model().model.layers[0].self_attn

    class Capped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(x)
            return found.clamp_(-0.1, 0.1)

    attention.q_proj = Capped(attention.q_proj)
    with Clipper(model, 1.0).recording(2):
        logits(model).sum().backward()


@pytest.mark.parametrize("part", ["base_layer", "lora_A", "lora_B"])
def test_a_layer_with_a_part_that_somebody_listens_to_keeps_its_own_pass(part: str) -> None:
    model, heard = model_with(), list[int]()
    for layer in layers_of(model):
        found = getattr(layer, part)
        inner = found if part == "base_layer" else found["default"]
        inner.register_forward_hook(lambda *_: heard.append(1))
    assert not any(lora.halves(layer) for layer in layers_of(model))
    with Clipper(model, 1.0).recording(2):
        logits(model).sum().backward()
    assert len(heard) == len(layers_of(model))
