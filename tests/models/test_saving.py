"""What is saved is the model in memory, or nothing is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from privcode.errors import UserError
from privcode.models import (
    attach_lora,
    facts,
    load_adapter,
    load_model,
    load_tokenizer,
    save_merged,
    save_model,
)
from privcode.models.settings import Lora, Model

SHAPE: dict[str, Any] = {
    "vocab_size": 1280,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
IDS = torch.arange(2, 40)[None]


def tied() -> Any:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)).eval()


def untied() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)).eval()


def moved(model: Any) -> Any:
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def test_the_head_of_a_tied_model_is_refused_as_a_target(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lora\.targets: lm_head has the same weights as"):
        attach_lora(tied(), 2, 4, 0.0, ["q_proj", "lm_head"])
    save_model(tied(), tmp_path / "m", load_tokenizer("bundled:junior"))
    section = Model(model=str(tmp_path / "m"), max_tokens=64, lora=Lora(targets=["lm_head"]))
    for field in ("junior", "premium"):
        with pytest.raises(UserError, match=rf"^{field}\.lora\.targets: lm_head has the same"):
            facts.check(section, field)


def test_a_merge_that_changes_what_the_model_computes_is_not_written(tmp_path: Path) -> None:
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["lm_head"], task_type="CAUSAL_LM")
    wrong = moved(get_peft_model(tied(), config))
    with pytest.raises(UserError, match=r"merging changed what the model computes, .* adapter"):
        save_merged(wrong, tmp_path / "merged", load_tokenizer("bundled:junior"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [tied, untied])
def test_a_merged_model_is_the_model_with_its_adapter(
    tmp_path: Path, make: Any, dtype: str
) -> None:
    targets = ["lm_head", "q_proj"] if make is untied else None
    model = moved(attach_lora(make().to(getattr(torch, dtype)), 2, 4, 0.0, targets))
    expected = logits(model)
    save_merged(model, tmp_path / "merged", load_tokenizer("bundled:junior"))
    found = logits(load_model(str(tmp_path / "merged"), dtype))
    rounding = 1e-5 if dtype == "float32" else 0.1
    assert float((found - expected).norm()) < rounding * float(expected.norm())


def test_an_adapter_of_an_untied_head_is_a_plain_one(tmp_path: Path) -> None:
    model = moved(attach_lora(untied(), 2, 4, 0.0, ["lm_head"]))
    save_model(model, tmp_path / "adapter", base="base")
    assert torch.equal(logits(load_adapter(untied(), tmp_path / "adapter")), logits(model))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 20_000


def test_a_whole_model_that_does_not_come_back_is_not_written(tmp_path: Path) -> None:
    model = untied().bfloat16()
    model.model.layers[1].mlp.down_proj.float()  # its config has one type for all
    with pytest.raises(UserError, match="what was written is not the model in memory"):
        save_model(model, tmp_path / "model", load_tokenizer("bundled:junior"))
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_does_not_come_back_is_not_written(tmp_path: Path) -> None:
    model = moved(attach_lora(untied(), 2, 4, 0.0, ["q_proj"]))
    with torch.no_grad():  # not what its file can hold: the libraries save what is contiguous
        model.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight[0] = (
            torch.nan
        )
    with pytest.raises(UserError, match="what was written is not the model in memory"):
        save_model(model, tmp_path / "adapter", base="base")
    assert not list(tmp_path.iterdir())


def test_saving_leaves_the_model_and_the_random_state_as_they_were(tmp_path: Path) -> None:
    model = moved(attach_lora(untied(), 2, 4, 0.0)).train()
    before = {n: (w.clone(), w.requires_grad) for n, w in model.named_parameters()}
    state = torch.random.get_rng_state()
    save_model(model, tmp_path / "adapter", base="base")
    assert torch.equal(torch.random.get_rng_state(), state)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for name, (weight, trained) in before.items():
        assert torch.equal(after[name], weight)
        assert after[name].requires_grad == trained
    assert model.training
    assert list(model.peft_config) == ["default"]
