"""What is known of a model beforehand is refused before any budget, by the field of the config."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, normalizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from privcode.errors import UserError
from privcode.generation import Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import check_model, facts, load_model, load_tokenizer
from privcode.models.loading import UNLIMITED, context_length
from privcode.models.settings import Lora, Model
from privcode.models.trial import try_model
from tests.helpers import families
from tests.helpers.real import real_model

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


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        facts.check(Model(model=name, max_tokens=64, lora=Lora(r=2)), "premium")
    return str(caught.value)


def test_a_token_of_a_text_without_an_embedding_is_refused(tmp_path: Path) -> None:
    name = families.save("qwen2", tmp_path)
    tokenizer = load_tokenizer(name)
    tokenizer.add_tokens(["<image>"], special_tokens=True)  # as Gemma 3: only images use it
    tokenizer.save_pretrained(name)
    facts.check(Model(model=name, max_tokens=64, lora=Lora(r=2)), "premium")
    tokenizer.add_tokens(["return x"])
    tokenizer.save_pretrained(name)
    assert re.match(r"premium\.model: .* token 'return x' .* resize the model", refused(name))


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    name = families.save("gemma2", tmp_path)
    tokenizer = load_tokenizer(name)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(name)
    assert re.match(r"premium\.model: .* no end token; set eos_token", refused(name))


def test_a_tokenizer_that_loses_new_lines_is_refused(tmp_path: Path) -> None:
    name = families.save("mixtral", tmp_path)
    tokenizer = load_tokenizer(name)
    core = tokenizer.backend_tokenizer
    spaces = normalizers.Replace(Regex(r"\s+"), " ")  # as T5 and XGLM
    core.normalizer = normalizers.Sequence([spaces, core.normalizer])
    tokenizer.save_pretrained(name)
    assert "loses spaces or new lines" in refused(name)


def test_a_model_that_sees_the_tokens_that_follow_is_refused(tmp_path: Path) -> None:
    name = families.save("qwen2", tmp_path)
    file = Path(name, "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"is_causal": False}))
    check_model.cache_clear()
    assert "sees the tokens that follow" in refused(name)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=1280, initializer_range=0.3, **sizes)
    with pytest.raises(UserError, match="sees the tokens that follow"):
        check_model(folder_with(tmp_path, RobertaForMaskedLM(config)), "float32")


def test_a_model_that_reads_padding_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RwkvForCausalLM(RwkvConfig(vocab_size=1280, hidden_size=32, num_hidden_layers=2))
    with pytest.raises(UserError, match="reads padding"):
        check_model(folder_with(tmp_path, model), "float32")


@pytest.mark.parametrize("name", families.FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_models_that_write_pass_their_trial(tmp_path: Path, name: str, dtype: Any) -> None:
    check_model(families.save(name, tmp_path), dtype)


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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma3-270m"])
def test_real_models_pass_their_trial_in_any_dtype(name: str, dtype: Any) -> None:
    model = load_model(str(real_model(name)), dtype)
    try_model(name, model.cpu())
