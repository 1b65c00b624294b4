"""How prompts and answers become tokens: one way for every stage.

Promises:
- Training sees a prompt as exactly the tokens that generation sends to the model.
- A prompt keeps the tokens that its tokenizer puts before a text (BOS), once, also where the
  template writes them. It loses the tokens that the tokenizer puts after a text (an end token),
  because an answer follows.
- An answer gets no special token but one end token after it. Generation stops at that token. In a
  chat, it is the template's end of turn. Code that quotes a special token is text.
- An answer comes back from its tokens as it was, spaces at its beginning included.

Does not: render a template, or cut anything to a length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from privcode.models.loading import load_tokenizer
from privcode.models.settings import Model
from privcode.models.templates import after_an_answer, is_chat


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as tokens.

    Attributes:
        ids: the tokens, without the end token.
        offsets: for each token, the characters [start, end) of the answer that it stands for.
    """

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]


def tokenizer_of(section: Model) -> Any:
    """The tokenizer of a section's model. Its end token is the one that ends answers.

    In a chat, this is the first special token that the template writes after an answer. If it
    writes none, it is the tokenizer's own end token, as without a chat.

    Raises:
        UserError: the tokenizer cannot be loaded, or has no chat template.
    """
    tokenizer = load_tokenizer(section.model)
    if is_chat(section.template):
        text = after_an_answer(section.template, tokenizer, section.system)
        after = tokenizer(text, add_special_tokens=False)["input_ids"]
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        if (end := next((token for token in after if token in special), None)) is not None:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    return tokenizer


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens of a rendered prompt. Empty for an empty prompt without a token before it."""
    # Not verbose: the tokenizer would print the length of a text that is too long for the model.
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    before = _put_before(tokenizer)
    # A chat template writes the first tokens itself.
    return ids if ids[: len(before)] == before else [*before, *ids]


def answer_tokens(tokenizer: Any, text: str) -> Answer:
    """The tokens of an answer. The tokenizer must be a fast one, because offsets are needed."""
    found = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    return Answer(found["input_ids"], found["offset_mapping"])


def answer_texts(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """The texts of answers, from their tokens. Special tokens are left out.

    SentencePiece tokenizers put a space before a text, some of them only before one that does not
    begin with a space. Their decoders drop a space from every text that begins with one. So the
    texts are decoded after another text, and lose the space that `answer_tokens` has put there.
    """

    def after_a(ids: Sequence[int]) -> str:
        text = tokenizer.decode(
            [*first, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text[len(alone) :])

    def put_before(text: str) -> int:
        return len(after_a(answer_tokens(tokenizer, text).ids)) - len(text)

    first = answer_tokens(tokenizer, "a").ids
    alone = tokenizer.decode(first, clean_up_tokenization_spaces=False)
    before_a_word, before_spaces = put_before("a"), put_before("  a")
    texts = []
    for text in map(after_a, rows):
        spaces = len(text) - len(text.lstrip(" "))
        drop = before_spaces if spaces > before_a_word else min(before_a_word, spaces)
        texts.append(text[drop:])
    return texts


def pair_tokens(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], int]:
    """The tokens of a prompt, its answer and the end token, and how many are the prompt's."""
    context = prompt_tokens(tokenizer, prompt)
    ids = answer_tokens(tokenizer, answer).ids
    return [*context, *ids, tokenizer.eos_token_id], len(context)


def end_tokens(tokenizer: Any, generation_config: Any) -> list[int]:
    """Where generation stops: the token that ended answers in training, and the model's own.

    The model's own are those of `generation_config` and the end token that its tokenizer came
    with, which `tokenizer_of` may have changed.
    """
    own = generation_config.eos_token_id
    named = own if isinstance(own, list) else [own]
    if first := tokenizer.init_kwargs.get("eos_token"):
        named = [*named, tokenizer.convert_tokens_to_ids(str(first))]
    ends = {token for token in (tokenizer.eos_token_id, *named) if token is not None}
    return sorted(ends)


def special_tokens_before(tokenizer: Any) -> str:
    """The special tokens that the tokenizer puts before a text, as text."""
    return "".join(tokenizer.convert_ids_to_tokens(_put_before(tokenizer)))


def _put_before(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    ids: list[int] = found["input_ids"]
    return ids[: found["special_tokens_mask"].index(0)]
