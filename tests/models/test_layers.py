"""The layers that get an adapter: all linear ones of the language model that can be clipped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from privcode.errors import UserError
from privcode.files import read_json
from privcode.models import attach_lora, load_adapter, load_model, load_tokenizer, save_model, sizes
from privcode.models.layers import layers_of
from privcode.privacy.clipping import Clipper
from privcode.training.learner import Learner, try_out

SHAPE: dict[str, Any] = {
    "vocab_size": 1280,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OTHER = {"vocab_size": 1280, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SEEING = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
GEMMA3 = {
    "text_config": SHAPE | {"head_dim": 8},
    "vision_config": SEEING | {"hidden_size": 32, "intermediate_size": 32},
    "mm_tokens_per_image": 4,
    "image_token_index": 5,
    "boi_token_index": 6,
    "eoi_token_index": 7,
}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}

MODELS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)), ATTENTION | MLP),
    "phi": (
        lambda: PhiForCausalLM(PhiConfig(**SHAPE)),
        {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    ),
    "phi3": (
        lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)),
        {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    ),
    "starcoder2": (
        lambda: Starcoder2ForCausalLM(Starcoder2Config(**SHAPE)),
        ATTENTION | {"c_fc", "c_proj"},
    ),
    "gpt2": (
        lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=1280, n_positions=128, n_embd=32, n_layer=2, n_head=4)
        ),
        {"c_attn", "c_fc", "c_proj"},
    ),
    "opt": (  # its fc1 and fc2 get the tokens of all records in one row
        lambda: OPTForCausalLM(OPTConfig(**OTHER, ffn_dim=64, word_embed_proj_dim=32)),
        {"q_proj", "k_proj", "v_proj", "out_proj"},
    ),
    "falcon": (
        lambda: FalconForCausalLM(FalconConfig(**OTHER)),
        {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    ),
    "mixtral": (
        lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4)),
        ATTENTION,
    ),
    "qwen3-moe": (lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **EXPERTS)), ATTENTION),
    "qwen2-moe": (  # its shared expert gets the tokens of all records in one row
        lambda: Qwen2MoeForCausalLM(
            Qwen2MoeConfig(**SHAPE, **EXPERTS, shared_expert_intermediate_size=16)
        ),
        ATTENTION,
    ),
    "gemma3": (
        lambda: Gemma3ForConditionalGeneration(Gemma3Config(**GEMMA3)),
        ATTENTION | MLP,
    ),
}


def made(family: str) -> Any:
    torch.manual_seed(0)
    return MODELS[family][0]().eval()


def adapted_in(model: Any) -> set[str]:
    return {
        name.partition(".lora_")[0].removeprefix("base_model.model.")
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@pytest.mark.parametrize("family", MODELS)
def test_the_default_layers_are_all_that_can_be_clipped(family: str) -> None:
    base = made(family)
    linear = {
        name
        for name, module in base.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
        if "lm_head" not in name and "vision" not in name and "multi_modal" not in name
    }
    found = adapted_in(attach_lora(base, 2, 4, 0.0))
    assert {name.rpartition(".")[2] for name in found} == MODELS[family][1]
    if family not in ("opt", "qwen2-moe"):
        assert found == linear
    assert not any("vision" in name for name in found)


@pytest.mark.parametrize("family", sorted(MODELS.keys() - {"llama"}))
def test_the_default_layers_are_clipped_per_record(family: str) -> None:
    model = attach_lora(made(family), 2, 4, 0.0)
    try_out(Learner(model, 0, 64), Clipper(model, 1.0), 4)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mixtral", "phi3"])
def test_an_adapter_of_the_default_layers_is_saved_and_loaded(tmp_path: Path, family: str) -> None:
    model = attach_lora(made(family), 2, 4, 0.0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    save_model(model, tmp_path / "adapter", base="base")
    again = load_adapter(made(family), tmp_path / "adapter")
    ids = torch.arange(8, 40)[None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_a_llama_gets_the_names_that_it_always_had(tmp_path: Path) -> None:
    save_model(attach_lora(load_model("bundled:junior"), 2, 4, 0.0), tmp_path / "a", base="b")
    config = read_json(tmp_path / "a" / "adapter_config.json")
    assert config["target_modules"] == sorted(ATTENTION | MLP)


def test_names_that_a_vision_tower_has_too_mean_the_language_model() -> None:
    found = layers_of(made("gemma3"), ["q_proj"])
    assert found.modules == found.names
    assert found.names == [f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(2)]
    assert adapted_in(attach_lora(made("gemma3"), 2, 4, 0.0, ["q_proj"])) == set(found.names)
    one = "language_model.layers.0.self_attn.q_proj"
    assert layers_of(made("gemma3"), [one]).names == [one]


@pytest.mark.parametrize("target", ["q_prj", "embed_tokens", "experts", "gate", "vision_tower"])
def test_a_target_that_is_no_linear_layer_is_refused_with_those_that_are(target: str) -> None:
    with pytest.raises(UserError, match=rf"^lora\.targets: {target} is no .* it has k_proj, lm_h"):
        attach_lora(made("mixtral"), 2, 4, 0.0, [target])


def test_what_peft_refuses_is_refused_in_one_line() -> None:
    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(UserError, match=r"^lora\.targets: cannot be adapted .*; name other"):
        attach_lora(mamba, 2, 4, 0.0)


def test_the_share_of_the_weights_and_what_is_left_out_are_counted(tmp_path: Path) -> None:
    for family, parts in (
        ("mixtral", {"embed_tokens", "mlp", "lm_head"}),
        ("gemma3", {"embed_tokens", "vision_tower", "multi_modal_projector"}),
        ("gpt2", {"wte", "wpe"}),
    ):
        base = made(family)
        save_model(base, tmp_path / family, load_tokenizer("bundled:junior"))
        found = sizes(str(tmp_path / family), 2)
        assert found.base == base.num_parameters()
        assert set(found.left_out) == parts
        vectors = sum(w.numel() for w in base.parameters() if w.dim() < 2)
        assert found.adapted + sum(found.left_out.values()) + vectors == found.base
        model = attach_lora(base, 2, 4, 0.0)
        assert found.adapter == sum(w.numel() for w in model.parameters() if w.requires_grad)
