"""How prompts and answers become tokens: one way for every stage.

Promises:
- Training sees a prompt as exactly the tokens that generation sends to the model.
- A prompt keeps the tokens that its tokenizer puts before a text (BOS). It loses the tokens that
  the tokenizer puts after a text (an end token), because an answer follows.
- An answer gets no special token but one end token after it. Generation stops at that token.

Does not: render a template, or cut anything to a length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as tokens.

    Attributes:
        ids: the tokens, without the end token.
        offsets: for each token, the characters [start, end) of the answer that it stands for.
    """

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens of a rendered prompt. Empty for an empty prompt without a token before it."""
    # Not verbose: the tokenizer would print the length of a text that is too long for the model.
    ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    behind = _appended(tokenizer)
    return ids[: len(ids) - behind] if behind else ids


def answer_tokens(tokenizer: Any, text: str) -> Answer:
    """The tokens of an answer. The tokenizer must be a fast one, because offsets are needed."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return Answer(found["input_ids"], found["offset_mapping"])


def pair_tokens(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], int]:
    """The tokens of a prompt, its answer and the end token, and how many are the prompt's."""
    context = prompt_tokens(tokenizer, prompt)
    ids = answer_tokens(tokenizer, answer).ids
    return [*context, *ids, tokenizer.eos_token_id], len(context)


def end_tokens(tokenizer: Any, model: Any) -> list[int]:
    """Where generation stops: the token that ended answers in training, and the model's own."""
    own = model.generation_config.eos_token_id
    named = own if isinstance(own, list) else [own]
    ends = {token for token in (tokenizer.eos_token_id, *named) if token is not None}
    return sorted(ends)


def _appended(tokenizer: Any) -> int:
    """How many special tokens the tokenizer puts after a text."""
    marks = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return next((n for n, special in enumerate(reversed(marks)) if not special), 0)
