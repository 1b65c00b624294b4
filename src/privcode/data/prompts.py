"""Public prompts, which synthesis samples from (paper, stage 2, step 1).

Promises:
- The prompts of a file are returned in its order, without exact repeats.
- A row that is not usable text is refused with file, row and field.

Does not: decide whether prompts are public. That is the owner's statement. The guarantee covers
only what was not put into the prompts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from privcode.data.columns import (
    PROMPT_GUESSES,
    BadField,
    Columns,
    guess_prompt,
    prompt_text,
    with_guesses,
)
from privcode.data.records import Record
from privcode.data.rows import KINDS, files_of, kind_of_file, read_rows
from privcode.data.settings import Prompts
from privcode.errors import UserError
from privcode.files import Row
from privcode.inputs import text_lines, unpacked_name


def prompts_of(section: Prompts, duplicates: Callable[[int], None] | None = None) -> list[str]:
    """The public prompts that a config names. See `read_prompts`. None if they are written."""
    if section.public_file is None:
        return []
    return read_prompts(
        section.public_file,
        section.column,
        section.limit,
        input=section.input,
        suffix=section.suffix,
        duplicates=duplicates,
    )


def lessons(record: Record, section: Prompts) -> list[Record]:
    """What the model is taught of one private record: pairs, all of the record's unit.

    A pair that a record is made into is clipped together with the others, because they share a
    unit. So prompt and code are covered by one guarantee.

    - public: the record itself.
    - synthesised: to write the record's prompt after the public opening, and the record itself.
    - described: to write the record's code after the public opening.
    """
    if section.source == "public":
        return [record]
    if section.source == "described":
        return [replace(record, prompt=section.opening)]
    written = replace(record, prompt=section.opening, completion=record.prompt, language=None)
    return [written, record]


def read_prompts(
    source: str,
    column: str | None = None,
    limit: int | None = None,
    *,
    input: str | None = None,
    suffix: str | None = None,
    duplicates: Callable[[int], None] | None = None,
) -> list[str]:
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
    prompts: dict[str, None] = {}
    repeats = 0
    named = None if column is None else Columns(column, "", input=input, suffix=suffix)
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
        repeats += prompt in prompts
        prompts[prompt] = None
        if len(prompts) == limit:
            break
    if not prompts:
        raise UserError(f"{source}: holds no prompt; name a file with at least one")
    if duplicates:
        duplicates(repeats)
    return list(prompts)


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
    known = {prompt.strip() for prompt in private}
    same = sum(prompt.strip() in known for prompt in prompts)
    if not same:
        return ""
    return (
        f"{same} of the prompts occur word for word in the private data, and prompts are "
        "published: are they public?"
    )
