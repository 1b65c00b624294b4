"""The bundled models' tokenizer and the text formats they are trained in.

Promises: a byte-level BPE that gives any Unicode text back exactly and reports offsets; the
formats `solve` (problem to code), `describe` (code to problem) and `write` (a problem). A context
and its target are tokenised apart and joined, so the target's tokens do not depend on the context.
"""

from itertools import islice
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from privcode.data.settings import Prompts
from privcode.exercises.corpus import Pair, public_documents

VOCABULARY = 1280
CONTEXT = 1024
PAD, EOS = "<pad>", "<eos>"
# Names, single digits, punctuation, and a line break with its indent are the units of code.
_PIECES = r"\n *| ?[A-Za-z]+| ?[0-9]|[^\sA-Za-z0-9]+| +"


def solve(pair: Pair) -> tuple[str, str]:
    """(context, target) for writing code: loss on the code and the end of sequence only."""
    return f"Question: {pair.prompt}\n\nAnswer:\n", pair.code


def describe(pair: Pair) -> tuple[str, str]:
    """(context, target) for describing code; with empty code it models the prompt alone."""
    return f"Answer:\n{pair.code}\n\nQuestion:\n", pair.prompt


def write(pair: Pair) -> tuple[str, str]:
    """(context, target) for writing a problem, after the opening that `prompts.opening` has."""
    return solve(Pair(Prompts.model_fields["opening"].default, ""))[0], pair.prompt


def build_tokenizer(documents: int = 20_000, seed: int = 0) -> Any:
    """Train a `PreTrainedTokenizerFast` of 1,280 tokens on public documents in both formats."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pairs = islice(public_documents(seed), documents)
    core.train_from_iterator(
        ("".join(form(pair)) for pair in pairs for form in (solve, describe)), trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
