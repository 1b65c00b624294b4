"""GGUF files: models in the format of llama.cpp, loaded like any other model.

Promises:
- All weights are unpacked. The model can then be tuned, merged and saved.
- The tokenizer splits a text as the file says. A file that names an unknown way is refused.

Does not: restore what quantising lost. Its rounded weights are the base of the adapter.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from privcode.errors import UserError

# Ways to split a text before byte pairs are merged, by `tokenizer.ggml.pre`, as in llama.cpp.
# transformers knows most of them. To it, those that follow are all GPT-2's.
_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo")
_GPT2_WITH_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return name.endswith(".gguf")


def source_of(name: str) -> tuple[str, dict[str, Any]]:
    """The folder and the options from which transformers loads the file.

    Raises:
        UserError: the extra [gguf] is not installed.
    """
    if find_spec("gguf") is None:
        raise UserError(f"model {name}: a GGUF file needs gguf; pip install 'privcode[gguf]'")
    if not Path(name).is_file():
        raise FileNotFoundError("there is no such file")
    return str(Path(name).parent), {"gguf_file": Path(name).name}


def unpacked() -> Any:
    """The option with which transformers unpacks all weights, and gives a model like any other."""
    from transformers import GgufConfig

    return GgufConfig(dequantize=True)


def split_as_in(tokenizer: Any, name: str) -> None:
    """Let the tokenizer split a text as the file says.

    Raises:
        UserError: this way to split is unknown here.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    facts, _ = read_gguf_metadata(name)
    way = facts.get("tokenizer.ggml.pre", "gpt-2")
    if facts.get("tokenizer.ggml.model") != "gpt2" or way in (*_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        return
    if way not in _GPT2_WITH_SINGLE_DIGITS:
        raise UserError(
            f"tokenizer {name}: splits text in a way that is unknown here ({way}); "
            "give the model's folder with its tokenizer.json"
        )
    core = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([digits, core.pre_tokenizer])


@contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bar that transformers shows while it unpacks weights."""
    with redirect_stderr(io.StringIO()):
        yield
