"""Public prompts, which synthesis samples from (paper, stage 2, step 1).

Promises:
- The prompts of a file are returned in its order, without exact repeats. They lie on disk.
- A row that is not usable text is refused with file, row and field.

Does not: decide whether prompts are public. That is the owner's statement. The guarantee covers
only what was not put into the prompts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np

from privcode.data.columns import (
    PROMPT_GUESSES,
    BadField,
    Columns,
    guess_prompt,
    prompt_text,
    with_guesses,
)
from privcode.data.records import Record, unit_numbers
from privcode.data.rows import KINDS, files_of, kind_of_file, read_rows
from privcode.data.settings import Prompts
from privcode.data.texts import Texts, digest, distinct
from privcode.data.topics import about, topic_of
from privcode.errors import UserError
from privcode.files import Row
from privcode.inputs import text_lines, unpacked_name


def prompts_of(section: Prompts, duplicates: Callable[[int], None] | None = None) -> Texts:
    """The public prompts that a config names (see `read_prompts`). Empty if they are written."""
    if section.public_file is None:
        return Texts([])
    return read_prompts(
        section.public_file,
        section.column,
        section.limit,
        input=section.input,
        suffix=section.suffix,
        duplicates=duplicates,
    )


@dataclass(frozen=True, slots=True)
class Written(Record):
    """A pair that teaches to write the prompt of a record.

    Attributes:
        whole: the record, where the prompt is written for its latent vector.
    """

    whole: Record | None = None


class Lessons(Sequence[Record]):
    """What the model is taught of private records: pairs of prompt and answer, made when asked for.

    The pairs of a record follow each other and belong to its unit. Each kind of pair has its share
    of the unit's clip norm.
    Prompt and code are thereby covered by one guarantee.

    - public: the record itself.
    - synthesised: to write the record's prompt after the public opening, and the record itself.
      With a histogram, the opening names the record's topic. Made-up records keep the plain one,
      with which the audit asks for them.
    - latent: the same. The pair that teaches to write a prompt knows the record (`Written`).
    - described: to write the record's code after the public opening.

    Attributes:
        each: the number of pairs of a record.
    """

    def __init__(self, records: Sequence[Record], section: Prompts) -> None:
        """The pairs of `records`, as the source in `section` asks."""
        self._records, self._section = records, section
        self.each = 2 if section.by_junior else 1

    def __len__(self) -> int:
        return self.each * len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        wanted = range(len(self))[index]
        if isinstance(wanted, range):
            return [self[place] for place in wanted]
        return self._pairs(self._records[wanted // self.each])[wanted % self.each]

    def __iter__(self) -> Iterator[Record]:
        return (pair for record in self._records for pair in self._pairs(record))

    @property
    def unit_numbers(self) -> np.ndarray:
        """[pairs] int64, equal where two pairs belong to one unit."""
        return np.repeat(unit_numbers(self._records), self.each)

    def _pairs(self, record: Record) -> list[Record]:
        opening = self._section.opening
        if self._section.source == "public":
            return [record]
        if self._section.source == "described":
            return [replace(record, prompt=opening)]
        steered = self._section.histogram.noise_multiplier is not None
        if steered and record.unit.kind in ("owner", "row"):
            opening = about(opening, topic_of(record))
        whole = record if self._section.source == "latent" else None
        written = Written(opening, record.prompt, None, record.unit, record.row, whole)
        return [written, record]


def read_prompts(
    source: str,
    column: str | None = None,
    limit: int | None = None,
    *,
    input: str | None = None,
    suffix: str | None = None,
    duplicates: Callable[[int], None] | None = None,
) -> Texts:
    """The distinct prompts of `source`, in order, at most `limit`.

    Args:
        source: a .txt file (one prompt a line), or whatever `rows.read_rows` reads.
        column: the prompts' column. Without it, the first of `PROMPT_GUESSES` in the first row,
            and in each row the usual columns with more prompt text.
        limit: stop after this many distinct prompts.
        input: see `Columns`, like `suffix`.
        suffix: the column with the text behind the gap.
        duplicates: called once with the number of exact repeats that were found and left out.

    Raises:
        UserError: what `read_rows` raises; no column fits; a prompt is missing, empty, not a
            string or broken Unicode; `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"the limit on prompts is {limit}; it must be at least 1")
    named = None if column is None else Columns(column, "", input=input, suffix=suffix)
    given = 0

    def each() -> Iterator[str]:
        nonlocal given
        guessed = None
        for number, row in _rows(source):
            if named is None:
                guessed = guessed or _guess(row, source)
                columns = _with_extras(Columns(guessed, "", input=input, suffix=suffix), row)
            else:
                columns = named
            try:
                prompt = prompt_text(row, columns)
            except BadField as bad:
                raise bad.at(source, number) from None
            given += 1
            yield prompt

    prompts = Texts(islice(distinct(each()), limit))
    if not prompts:
        raise UserError(f"{source}: holds no prompt; name a file with at least one")
    if duplicates:
        duplicates(given - len(prompts))
    return prompts


def how_many(source: str) -> str:
    """How many prompts a file holds and how many of its rows repeat one, in words.

    Raises:
        UserError: see `read_prompts`.
    """
    repeats: list[int] = []
    prompts = len(read_prompts(source, duplicates=repeats.append))
    return f"{prompts:,} prompts; rows that repeat one: {repeats[0]:,}"


def _with_extras(columns: Columns, row: Row) -> Columns:
    texts = [str(name) for name, value in row.items() if value is None or isinstance(value, str)]
    found = with_guesses(columns, [str(name) for name in row], texts)
    return replace(found, language=None)


def _guess(row: Row, source: str) -> str:
    if found := guess_prompt(row):
        return found
    raise UserError(
        f"{source}: none of its {len(row)} columns has a usual name for prompts "
        f"({', '.join(PROMPT_GUESSES)}); name one in prompts.column, or add a header where there "
        "is none"
    )


def _rows(source: str) -> Iterator[tuple[int, Row]]:
    path = Path(source)
    if unpacked_name(path).endswith(".txt"):
        return (
            (number, {"text": line.rstrip("\r\n")})
            for number, line in text_lines(path, "write one prompt a line")
        )
    if files_of(source) == [path] and kind_of_file(path) is None:
        raise UserError(
            f"{source}: is not read as prompts; write one prompt a line into a .txt file, or rows "
            f"into {KINDS}"
        )
    return read_rows(source)


def private_prompts(prompts: Sequence[str], private: Iterable[str]) -> str:
    """What the owner should know if private records hold some prompts. It is itself private."""
    if not prompts:  # they are written: no record need be read
        return ""
    public = Counter(digest(prompt.strip()) for prompt in prompts)
    found = {known for prompt in private if (known := digest(prompt.strip())) in public}
    same = sum(public[known] for known in found)
    if not same:
        return ""
    return (
        f"{same} of the prompts occur word for word in the private data, and prompts are "
        "published: are they public?"
    )
