"""Public prompts, which synthesis samples from (paper, stage 2, step 1).

Promises:
- The prompts of a file are returned in its order, without exact repeats.
- A row that is not usable text is refused with file, row and field.

Does not: decide whether prompts are public. That is the owner's statement. The guarantee covers
only what was not put into the prompts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from privcode.data.records import BadField, text_field
from privcode.data.rows import read_rows
from privcode.errors import UserError, why
from privcode.files import LINE, Row, open_regular

COLUMN_GUESSES = ("prompt", "problem", "instruction", "question", "text")


def read_prompts(
    source: str,
    column: str | None = None,
    limit: int | None = None,
    *,
    duplicates: Callable[[int], None] | None = None,
) -> list[str]:
    """The distinct prompts of `source`, in order, at most `limit`.

    Args:
        source: a .txt file (one prompt a line), or whatever `rows.read_rows` reads.
        column: the prompts' column; without it the first of `COLUMN_GUESSES` in the first row.
        limit: stop after this many distinct prompts.
        duplicates: called once with the number of exact repeats that were found and left out.

    Raises:
        UserError: what `read_rows` raises; no column fits; a prompt is missing, empty, not a
            string or broken Unicode; `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"the limit on prompts is {limit}; it must be at least 1")
    prompts: dict[str, None] = {}
    repeats = 0
    plain = Path(source).suffix == ".txt"
    for number, row in _lines(Path(source)) if plain else read_rows(source):
        if column is None:
            column = "text" if plain else _guess(row, source)
        try:
            prompt = text_field(row, column)
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


def _guess(row: Row, source: str) -> str:
    found = {str(name).lower(): str(name) for name in row}
    for guess in COLUMN_GUESSES:
        if guess in found:
            return found[guess]
    raise UserError(
        f"{source}: none of its {len(found)} columns has a usual name for prompts "
        f"({', '.join(COLUMN_GUESSES)}); name one in prompts.column, or add a header where there "
        "is none"
    )


def _lines(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with open_regular(path) as file:
            lines = iter(partial(file.readline, LINE + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > LINE:
                    raise UserError(
                        f"{path}, row {number}: is longer than {LINE >> 20} MB; write one prompt "
                        "a line"
                    )
                yield number, {"text": line.decode("utf-8-sig").rstrip("\r\n")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({why(error)})") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path}, row {number}: not valid UTF-8; re-encode the file as UTF-8"
        ) from None


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
