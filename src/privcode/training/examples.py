"""Pairs of prompt and completion as training examples, and examples as batches.

Promises:
- Tokens come from `models.tokens`, as in every other stage.
- An example is one whole pair. If it is longer than the context, its end is cut off. It is never
  split into several examples.
- The padded length of an example depends on the example's own length alone.

Does not: read files, or decide what is an error. The caller decides how many cut pairs are too
many.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from privcode.data.records import Record
from privcode.errors import UserError
from privcode.models import answer_tokens, prompt_tokens
from privcode.syntax.spans import Span, completion_spans, spans_between, token_mask

_PADDED_TO = 16


@dataclass(frozen=True, slots=True)
class Example:
    """One record as tokens.

    Attributes:
        ids: prompt and completion tokens.
        start: index of the completion's first token.
        structure: for each token, whether it belongs to the structure of the code.
    """

    ids: tuple[int, ...]
    start: int
    structure: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples: all [examples, width]."""

    ids: torch.Tensor
    attention: torch.Tensor
    scored: torch.Tensor
    structure: torch.Tensor


def padded(length: int, most: int | None = None) -> int:
    """The padded length of an example of `length` tokens: a function of `length`, up to `most`.

    Only examples with the same padded length share a micro-batch. What an example gives then has
    the same bits whichever examples stand next to it, if the bits of one row of a matrix product
    do not depend on the other rows.
    """
    whole = -(-length // _PADDED_TO) * _PADDED_TO
    return whole if most is None else max(length, min(whole, most))


def collate(
    examples: Sequence[Example], pad: int, device: torch.device | str = "cpu", width: int = 0
) -> Batch:
    """Pad examples to the length of the longest one, or to `width` if that is more."""
    length = max(width, *(len(e.ids) for e in examples))

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        full = [row + [fill] * (length - len(row)) for row in rows]
        return torch.tensor(full, device=device)

    return Batch(
        ids=padded([list(e.ids) for e in examples], pad),
        attention=padded([[1] * len(e.ids) for e in examples], 0),
        scored=padded([[int(i >= e.start) for i in range(len(e.ids))] for e in examples], 0).bool(),
        structure=padded([[int(s) for s in e.structure] for e in examples], 0).bool(),
    )


def refuse_unknown_tokens(examples: Iterable[Example], embeddings: int) -> None:
    """Refuse examples with a token for which the model has no embedding.

    A text may quote a special token that the tokenizer knows and the model does not.

    Raises:
        UserError: says that there is one. It does not say where, because that is private.
    """
    if any(max(example.ids, default=0) >= embeddings for example in examples):
        raise UserError(
            "data.source: a prompt quotes a special token for which the model has no embedding; "
            "take such text out of the data"
        )


def encode(
    record: Record,
    prompt: str,
    tokenizer: Any,
    max_tokens: int,
    *,
    syntax: bool = True,
    code_around: tuple[str, str] = ("", ""),
) -> tuple[Example, bool]:
    """One record as one example, and whether it was cut to `max_tokens`.

    Args:
        record: the record. Its completion is the target, followed by the end token.
        prompt: the record's prompt, rendered by the run's template.
        tokenizer: a fast tokenizer (character offsets are needed).
        max_tokens: the context. The end of a longer record is cut off.
        syntax: False skips the search for structure.
        code_around: the code before and after the completion, where that fills a gap. Structure is
            then that of the whole code.
    """
    context = prompt_tokens(tokenizer, prompt)
    answer = answer_tokens(tokenizer, record.completion)
    spans: list[Span] = []
    if syntax and any(code_around):
        spans = spans_between(*code_around, record.completion, record.language)
    elif syntax:
        spans = completion_spans(record.completion, record.language)
    structure = token_mask(answer.offsets, spans)
    ids = [*context, *answer.ids, tokenizer.eos_token_id]
    marks = [*[False] * len(context), *structure, False]
    cut = len(ids) > max_tokens
    return Example(tuple(ids[:max_tokens]), len(context), tuple(marks[:max_tokens])), cut
