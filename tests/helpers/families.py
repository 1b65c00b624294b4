"""Tiny models of the families that users bring, each with a tokenizer made as its family makes it.

The vocabularies are small and made here. What is the family's own: the kind of tokenizer, its
special tokens, what it puts before a text, its chat template (in short, for text turns alone) and
its tokens to fill in the middle.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
)
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN3 = CHATML + (
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}"
    "{% set messages = messages[1:] %}{% endif %}{{ '<|eot_id|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}"
    "{{ eos_token }}{% endif %}"
)
MIXTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN_FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
STAR_FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")

_TEXT = [
    "def add(first, second):\n    return first + second\n",
    "Write a function that adds two numbers and returns their sum.\n",
    "class Account:\n\tdef __init__(self, owner: str) -> None:\n\t\tself.owner = owner\n",
    "for (int i = 0; i < count; i++) {\n    total += values[i];\n}\n",
]


@dataclass(frozen=True)
class Family:
    """How a family makes its models and tokenizers.

    Attributes:
        config: the class of its configuration.
        pieces: "bytes" (byte-level BPE), "words" (SentencePiece, with a space before the text) or
            "spaces" (SentencePiece, without it).
        special: its special tokens.
        eos, bos, pad: which of them have these roles.
        puts_bos: whether the tokenizer puts its first token before every text.
        chat: its chat template.
        end: the token that ends a turn of a chat.
        system: whether its chat has a system turn.
        fim: its tokens to fill in the middle.
        stops: what its generation config names as ends.
        more: of the configuration.
    """

    config: Any
    pieces: str
    special: Sequence[str]
    eos: str
    bos: str | None = None
    pad: str | None = None
    puts_bos: bool = False
    chat: str | None = None
    end: str = ""
    system: bool = True
    fim: Sequence[str] = ()
    stops: Sequence[str] = ()
    more: dict[str, Any] = field(default_factory=dict)


_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *QWEN_FIM)
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_HEADS = {"head_dim": 8, "num_key_value_heads": 2}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        tf.LlamaConfig,
        "bytes",
        ("<|begin_of_text|>", "<|end_of_text|>", *_HEADERS),
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        puts_bos=True,
        chat=LLAMA3,
        end="<|eot_id|>",
        stops=("<|end_of_text|>", "<|eot_id|>"),
        more=_HEADS,
    ),
    "qwen2": Family(
        tf.Qwen2Config,
        "bytes",
        _QWEN,
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        chat=CHATML + "{% endif %}",
        end="<|im_end|>",
        fim=QWEN_FIM,
        more={"num_key_value_heads": 2},
    ),
    "qwen3": Family(
        tf.Qwen3Config,
        "bytes",
        (*_QWEN, "<think>", "</think>"),
        eos="<|im_end|>",
        pad="<|endoftext|>",
        chat=QWEN3,
        end="<|im_end|>",
        fim=QWEN_FIM,
        stops=("<|im_end|>", "<|endoftext|>"),
        more=_HEADS,
    ),
    "gemma2": Family(
        tf.Gemma2Config,
        "spaces",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *QWEN_FIM),
        eos="<eos>",
        bos="<bos>",
        pad="<pad>",
        puts_bos=True,
        chat=GEMMA,
        end="<end_of_turn>",
        system=False,
        fim=QWEN_FIM,  # CodeGemma
        more=_HEADS | {"sliding_window": 64},
    ),
    "gemma3": Family(
        tf.Gemma3TextConfig,
        "spaces",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        bos="<bos>",
        pad="<pad>",
        puts_bos=True,
        chat=GEMMA,
        end="<end_of_turn>",
        system=False,
        stops=("<eos>", "<end_of_turn>"),
        more=_HEADS | {"sliding_window": 64},
    ),
    "starcoder2": Family(
        tf.Starcoder2Config,
        "bytes",
        ("<|endoftext|>", *STAR_FIM),
        eos="<|endoftext|>",
        bos="<|endoftext|>",
        fim=STAR_FIM,
        more={"num_key_value_heads": 2},
    ),
    "phi3": Family(
        tf.Phi3Config,
        "words",
        ("<s>", "</s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        eos="<|endoftext|>",
        bos="<s>",
        pad="<|endoftext|>",
        chat=PHI3,
        end="<|end|>",
        more={"num_key_value_heads": 2},
    ),
    "gpt2": Family(
        tf.GPT2Config, "bytes", ("<|endoftext|>",), eos="<|endoftext|>", bos="<|endoftext|>"
    ),
    "mixtral": Family(
        tf.MixtralConfig,
        "words",
        ("<s>", "</s>"),
        eos="</s>",
        bos="<s>",
        puts_bos=True,
        chat=MIXTRAL,
        end="</s>",
        system=False,
        more={"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}


@cache
def _pieces(kind: str) -> str:
    """A tokenizer without special tokens, as JSON."""
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        whole = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if kind == "words":
            core.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
            whole.append(decoders.Strip(" ", 1, 0))
        else:
            core.normalizer = normalizers.Replace(" ", "▁")
        core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
        core.decoder = decoders.Sequence(whole)
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[] if kind == "bytes" else ["<unk>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(_TEXT, trainer)
    made = json.loads(core.to_str())
    if kind != "bytes":  # a token for each byte, which is not special
        vocabulary = made["model"]["vocab"]
        for byte in range(256):
            vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    return json.dumps(made)


def tokenizer(name: str) -> Any:
    """The family's tokenizer."""
    family = FAMILIES[name]
    core = Tokenizer.from_str(_pieces(family.pieces))
    core.add_special_tokens(list(family.special))
    if family.puts_bos:
        core.post_processor = TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, core.token_to_id(family.bos))]
        )
    roles = {"eos_token": family.eos, "bos_token": family.bos, "pad_token": family.pad}
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        chat_template=family.chat,
        extra_special_tokens=[t for t in family.special if t not in roles.values()],
        **{role: token for role, token in roles.items() if token},
    )


def save(name: str, folder: Path) -> str:
    """A tiny model of the family in FOLDER/name, with its tokenizer. Returns the folder."""
    family, words = FAMILIES[name], tokenizer(name)
    number: Callable[[str | None], int | None] = lambda token: (  # noqa: E731
        words.convert_tokens_to_ids(token) if token else None
    )
    torch.manual_seed(0)
    common = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": number(family.pad),
        "eos_token_id": number(family.eos),
        "bos_token_id": number(family.bos),
        "initializer_range": 0.1,
    }
    if name != "gpt2":
        common["intermediate_size"] = 64
    model = tf.AutoModelForCausalLM.from_config(family.config(**common, **family.more))
    if family.stops:
        model.generation_config.eos_token_id = [number(token) for token in family.stops]
    model.save_pretrained(folder / name)
    words.save_pretrained(folder / name)
    return str(folder / name)
