"""Pairs of prompt and completion as training examples, and examples as batches.

Promises:
- Tokens come from `models.tokens`, as in every other stage.
- An example is one whole pair. If it is longer than the context, its end is cut off. It is never
  split into several examples.
- The padded length of an example depends on the example's own length alone.
- Records become tokens when a step draws them, and not before.

Does not: read files, or decide what is an error. The caller decides how many cut pairs are too
many.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import torch

from privcode.data.prompts import Written
from privcode.data.records import Record
from privcode.errors import UserError
from privcode.models import answer_tokens, around, prompt_tokens
from privcode.syntax.spans import Span, completion_spans, spans_between, token_mask

_PADDED_TO = 16


@dataclass(frozen=True, slots=True)
class Example:
    """One record as tokens.

    Attributes:
        ids: prompt and completion tokens.
        start: index of the completion's first token.
        structure: for each token, whether it belongs to the structure of the code.
        read: tokens of the whole record, prompt and code, where `ids` teach to write its prompt
            after a prefix for it (`training.latent`). The first of `ids` hold the prefix's place.
        read_start: index in `read` of the code's first token.
    """

    ids: tuple[int, ...]
    start: int
    structure: tuple[bool, ...]
    read: tuple[int, ...] = ()
    read_start: int = 0

    @property
    def size(self) -> int:
        """How many tokens the model must have room for."""
        return max(len(self.ids), len(self.read))


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples: all [examples, width].

    `seen` is what the frozen model reads: `Example.read` where there is one, or else `ids`.
    `parts` is, of what is read, the share of each token in the mean over the prompt, and over the
    code: [examples, 2, width]. It is 0 for examples that read nothing.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    scored: torch.Tensor
    structure: torch.Tensor
    seen: torch.Tensor
    parts: torch.Tensor


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
    length = max(width, *(e.size for e in examples))

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        full = [row + [fill] * (length - len(row)) for row in rows]
        return torch.tensor(full, device=device)

    ids = padded([list(e.ids) for e in examples], pad)
    reading = any(e.read for e in examples)
    return Batch(
        ids=ids,
        attention=padded([[1] * len(e.ids) for e in examples], 0),
        scored=padded([[int(i >= e.start) for i in range(len(e.ids))] for e in examples], 0).bool(),
        structure=padded([[int(s) for s in e.structure] for e in examples], 0).bool(),
        seen=padded([list(e.read or e.ids) for e in examples], pad) if reading else ids,
        parts=_parts(examples, length).to(device),
    )


def _parts(examples: Sequence[Example], width: int) -> torch.Tensor:
    """See `Batch`."""
    parts = torch.zeros(len(examples), 2, width)
    for row, example in enumerate(examples):
        start, stop = example.read_start, len(example.read)
        parts[row, 0, :start] = 1 / max(1, start)
        parts[row, 1, start:stop] = 1 / max(1, stop - start)
    return parts


class Examples(Sequence[Example]):
    """Examples that are made already."""

    def __init__(self, made: Sequence[Example]) -> None:
        self._made = made

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self.one(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.one(index % len(self))

    def one(self, index: int) -> Example:
        """The example with this number, from 0."""
        return self._made[index]

    def length(self, index: int) -> int:
        """How many tokens it has; see `Example.size`."""
        return self.one(index).size

    @property
    def longest(self) -> int:
        """No example has more tokens."""
        return max((example.size for example in self._made), default=0)

    @cached_property
    def facts(self) -> str:
        """A digest of all of them. Equal where the examples are equal."""
        digest = hashlib.sha256()
        for example in self._made:
            digest.update(repr(example).encode())
        return digest.hexdigest()


class Encoded(Examples):
    """Records as examples, each made whenever it is asked for. Nothing is kept."""

    def __init__(
        self,
        records: Sequence[Record],
        make: Callable[[Record, bool], tuple[Example, bool]],
        max_tokens: int,
        how: str,
    ) -> None:
        """What is made of which records.

        Args:
            records: one for each example.
            make: `encode` for a record, with or without its structure. It depends on the record
                alone, and may be called in another thread.
            max_tokens: the most tokens of an example.
            how: whatever else decides what `make` returns: the template, the tokenizer.
        """
        self._records, self._make, self._most, self._how = records, make, max_tokens, how

    def __len__(self) -> int:
        return len(self._records)

    def one(self, index: int) -> Example:
        """The example with this number, from 0."""
        return self._make(self._records[index], True)[0]

    def length(self, index: int) -> int:
        """How many tokens it has. Its structure is not looked for."""
        return self.look(index)[0].size

    def look(
        self, index: int, progress: Callable[[int], object] = lambda examples: None
    ) -> tuple[Example, bool]:
        """The example with this number without its structure, and whether it was cut."""
        made = self._make(self._records[index], False)
        progress(1)
        return made

    @property
    def longest(self) -> int:
        """No example has more tokens."""
        return self._most

    @cached_property
    def facts(self) -> str:
        """A digest of the records and of how they are encoded, in place of the examples."""
        digest = hashlib.sha256(f"{self._how}\n{self._most}\n".encode())
        for record in self._records:
            digest.update(repr(record).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def lengths(examples: Examples, units: Iterable[Sequence[int]]) -> dict[int, int]:
    """The length in tokens of each example of these units, by its index."""
    return {index: examples.length(index) for unit in units for index in unit}


def ahead(
    examples: Examples, groups: Sequence[Sequence[int]], worker: Executor
) -> Iterator[list[Example]]:
    """The examples of each group. A worker makes the next groups while one is in use.

    Args:
        examples: all.
        groups: indices.
        worker: of one thread, so that one example is made at a time.
    """

    def made(group: Sequence[int]) -> list[Example]:
        return [examples[index] for index in group]

    for waiting in [worker.submit(made, group) for group in groups]:
        yield waiting.result()


def refuse_unknown_tokens(
    texts: Iterable[str], examples: Sequence[Example], tokenizer: Any, embeddings: int
) -> None:
    """Refuse examples with a token for which the model has no embedding.

    A text may quote a special token that the tokenizer knows and the model does not. If the
    tokenizer knows no such token, no example is made. If it knows some by their words alone, only
    the examples with these words are.

    Args:
        texts: for each example, the text that it is made of.
        examples: made when they are asked for.
        tokenizer: a fast tokenizer.
        embeddings: how many the model has.

    Raises:
        UserError: says that there is one. It does not say where, because that is private.
    """
    unknown = {id: text for text, id in tokenizer.get_vocab().items() if id >= embeddings}
    if not unknown:
        return
    quoted = list(unknown.values()) if _only_quoted(unknown, tokenizer) else [""]
    for text, index in zip(texts, range(len(examples)), strict=True):
        if (
            any(word in text for word in quoted)
            and max(examples[index].ids, default=0) >= embeddings
        ):
            raise UserError(
                "data.source: a prompt quotes a special token for which the model has no "
                "embedding; take such text out of the data"
            )


def _only_quoted(tokens: Collection[int], tokenizer: Any) -> bool:
    """Whether a text has one of these tokens only if it holds the token's own words."""
    learned = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values()
    put = {tokenizer.eos_token_id, *tokenizer("a")["input_ids"]}  # put around every text
    # The words of some tokens are looked for in a text that the tokenizer has changed before.
    changed = {id for id, token in tokenizer.added_tokens_decoder.items() if token.normalized}
    return not any(set(tokens) & set(others) for others in (learned, put, changed))


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


def lesson(
    record: Record,
    asking: Callable[[str], str],
    tokenizer: Any,
    max_tokens: int,
    *,
    syntax: bool = False,
    template: str = "",
    prefix: int = 0,
) -> tuple[Example, bool]:
    """A record as training sees it, and whether it was cut.

    Args:
        record: the record, or a pair that teaches to write its prompt (`data.prompts.Written`).
        asking: puts a prompt to the model; see `models.asking`.
        tokenizer: a fast tokenizer.
        max_tokens: the context. The end of a longer record is cut off.
        syntax: whether to look for structure.
        template: the model's, which may be to fill gaps.
        prefix: virtual tokens before a prompt that is written for a record's latent vector.
    """

    def made(one: Record, syntax: bool) -> tuple[Example, bool]:
        put, gap = asking(one.prompt), around(template, one.prompt)
        return encode(one, put, tokenizer, max_tokens, syntax=syntax, code_around=gap)

    example, cut = made(record, syntax)
    if not (prefix and isinstance(record, Written) and record.whole):
        return example, cut
    read, _ = made(record.whole, False)
    ids = (example.ids[0],) * prefix + example.ids
    structure = (False,) * len(ids)
    kept = slice(max_tokens)
    conditioned = Example(
        ids[kept], prefix + example.start, structure[kept], read.ids, min(read.start, len(read.ids))
    )
    return conditioned, cut or len(ids) > max_tokens
