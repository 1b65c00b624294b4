"""The bundled junior as a GGUF file, as llama.cpp would write it."""

import json
from pathlib import Path

import gguf
import torch

from privcode.models import load_model
from tests.helpers.bundled import ASSETS

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, pre: str = "smollm") -> Path:
    """The junior's weights in fp32, its vocabulary, and `pre` as the way to split texts."""
    model = load_model("bundled:junior")
    shape, core = model.config, json.loads((ASSETS / "junior" / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = sorted(core["model"]["vocab"], key=core["model"]["vocab"].__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])  # <pad> and <eos> are control tokens
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            writer.add_tensor(*_tensor(name, weight.detach(), shape.num_attention_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensor(name: str, weight: torch.Tensor, heads: int) -> tuple[str, object]:
    short = name.removeprefix("model.").removesuffix(".weight")
    if not short.startswith("layers."):
        named = {"embed_tokens": "token_embd", "norm": "output_norm"}[short]
        return f"{named}.weight", weight.numpy()
    _, number, kind = short.split(".", 2)
    if kind in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp's order of rotated halves
        rows = weight.view(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
        weight = rows.swapaxes(1, 2).reshape(weight.shape)
    return f"blk.{number}.{_NAMES[kind]}.weight", weight.contiguous().numpy()
