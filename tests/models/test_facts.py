"""What is known of a model beforehand is refused before any budget, by the field of the config."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from privcode.errors import UserError
from privcode.generation import Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import facts, load_model, load_tokenizer
from privcode.models.loading import UNLIMITED, context_length
from privcode.models.settings import Lora, Model

PROMPT = "Question: add\n\nAnswer:\n"


def folder_with(tmp_path: Path, model: Any, tokenizer: Any = None) -> str:
    model.save_pretrained(tmp_path / "model")
    (tokenizer or load_tokenizer("bundled:junior")).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def gpt2() -> Any:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(vocab_size=1280, n_positions=64, **sizes))


def bloom() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "n_layer": 1, "n_head": 2, "eos_token_id": 1, "pad_token_id": 0}
    return BloomForCausalLM(BloomConfig(vocab_size=1280, **sizes))


@pytest.mark.parametrize("kind", ["pad", "eos"])
def test_a_special_token_without_an_embedding_is_refused(tmp_path: Path, kind: str) -> None:
    tokenizer = load_tokenizer("bundled:junior")
    model = load_model("bundled:junior")
    tokenizer.add_special_tokens({f"{kind}_token": "[NEW]"})
    rows = model.get_input_embeddings().weight.shape[0]
    while tokenizer.convert_tokens_to_ids("[NEW]") < rows:  # the model has rows to spare
        tokenizer.add_tokens([f"[MORE {len(tokenizer)}]"])
        tokenizer.add_special_tokens({f"{kind}_token": f"[NEW {len(tokenizer)}]"})
        if getattr(tokenizer, f"{kind}_token_id") >= rows:
            break
    name = folder_with(tmp_path, model, tokenizer)
    with pytest.raises(UserError, match=rf"^junior\.model: the {kind} token .*{rows} embeddings"):
        facts.check(Model(model=name, max_tokens=64), "junior")


def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path: Path) -> None:
    name = folder_with(tmp_path, gpt2())
    lora = Lora(r=2, targets=["c_attn"])
    facts.check(Model(model=name, max_tokens=64, lora=lora), "premium")
    with pytest.raises(UserError, match=r"^premium\.max_tokens: is 65, .* 64 positions"):
        facts.check(Model(model=name, max_tokens=65, lora=lora), "premium")


@pytest.mark.parametrize("field", ["junior", "premium"])
def test_layers_that_a_model_lacks_are_refused_by_the_section(field: str) -> None:
    section = Model(model="bundled:junior", lora=Lora(targets=["c_attn"]))
    with pytest.raises(UserError, match=rf"^{field}\.lora\.targets: .*c_attn"):
        facts.check(section, field)


def test_a_model_without_positions_has_no_longest_prompt(tmp_path: Path) -> None:
    name = folder_with(tmp_path, bloom())
    lora = Lora(r=2, targets=["query_key_value"])
    facts.check(Model(model=name, max_tokens=100_000, lora=lora), "junior")
    model = load_model(name)
    assert context_length(model.config) == UNLIMITED
    generator = LocalGenerator(model, load_tokenizer(name))
    assert generator.fits(PROMPT * 500)
    assert len(generator.generate([PROMPT], Sampling(max_new_tokens=3))) == 1
