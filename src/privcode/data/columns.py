"""The columns of a source, and the prompt and the answer in a row.

Promises:
- What is read from a row depends on that row and on the columns alone.
- A value that cannot be used is refused with field, reason and remedy.

Does not:
- Quote a value in an error, or the name of a column that nobody typed.
- Repair text.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from privcode.errors import UserError
from privcode.files import Row
from privcode.syntax import GAP


@dataclass(frozen=True)
class Columns:
    """The names of a source's columns. `a.b` is the field b of a nested column a.

    `input` is an extra prompt column, appended after a blank line where it is not empty. With
    `suffix`, the prompt is the text before `GAP`, and `suffix` the text behind it. A column of
    chat turns is both `prompt` and `code`. Without `unit`, every row is a unit of its own, even
    among duplicates.
    """

    prompt: str
    code: str
    language: str | None = None
    unit: str | None = None
    input: str | None = None
    suffix: str | None = None


COLUMN_GUESSES: tuple[tuple[str, str], ...] = (
    ("problem", "solution"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "code"),
    ("prompt", "completion"),
    ("prompt", "code"),
    ("prompt", "response"),
    ("prompt", "canonical_solution"),
    ("question", "answer"),
    ("query", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("instruction", "completion"),
    ("func_documentation_string", "whole_func_string"),
    ("func_documentation_string", "func_code_string"),
    ("docstring", "code"),
    ("message", "new_contents"),
    ("subject", "new_contents"),
    ("prefix", "middle"),
    ("fim_prefix", "fim_middle"),
    ("messages", "messages"),
    ("conversations", "conversations"),
)
PROMPT_GUESSES = (
    *("prompt", "problem", "instruction", "question", "text", "query", "messages", "conversations"),
    *("func_documentation_string", "docstring", "message", "subject", "fim_prefix", "prefix"),
)
_LANGUAGE_GUESSES = ("language", "lang", "programming_language")
_INPUT_GUESSES = ("input", "context", "old_contents", "starter_code")
_SUFFIXES = {"prefix": "suffix", "fim_prefix": "fim_suffix"}


def guess_columns(names: Sequence[str], texts: Collection[str] | None = None) -> Columns | None:
    """The first of `COLUMN_GUESSES` present, whatever its case. The unit is never guessed.

    Args:
        names: all columns.
        texts: the columns that may be more prompt text. Default: all.
    """
    found = _by_plain_name(names)
    for prompt, code in COLUMN_GUESSES:
        if prompt in found and code in found:
            return with_guesses(Columns(found[prompt], found[code]), names, texts)
    return None


def with_guesses(
    columns: Columns, names: Sequence[str], texts: Collection[str] | None = None
) -> Columns:
    """`columns`, where those beside prompt and code are guessed from the names if they are None.

    Args:
        columns: the columns that are known.
        names: as for `guess_columns`, like `texts`.
    """
    found = _by_plain_name(names)
    language = columns.language or next(
        (found[name] for name in _LANGUAGE_GUESSES if name in found), None
    )
    suffix = columns.suffix or found.get(_SUFFIXES.get(_plain(columns.prompt), ""))
    free = [
        found[name]
        for name in _INPUT_GUESSES
        if name in found
        and found[name] not in (columns.prompt, columns.code)
        and (texts is None or found[name] in texts)
    ]
    extra = columns.input or (None if suffix else next(iter(free), None))
    return replace(columns, language=language, suffix=suffix, input=extra)


def guess_of_row(row: Row) -> Columns | None:
    """The columns by the names in one row alone."""
    texts = [str(name) for name, value in row.items() if value is None or isinstance(value, str)]
    return guess_columns([str(name) for name in row], texts)


def guess_prompt(row: Row) -> str | None:
    """The first of `PROMPT_GUESSES` in a row of prompts."""
    found = _by_plain_name([str(name) for name in row])
    return next((found[guess] for guess in PROMPT_GUESSES if guess in found), None)


def _plain(name: str) -> str:
    return name.strip().lower()


def _by_plain_name(names: Sequence[str]) -> dict[str, str]:
    return {_plain(name): name for name in names}


class BadField(Exception):
    """A value that cannot be used: in which field, why, and the remedy."""

    def __init__(self, field: str, reason: str, mend: str) -> None:
        super().__init__(field, reason, mend)
        self.field, self.reason, self.mend = field, reason, mend

    def at(self, source: str, row: int) -> UserError:
        """The line for the person, once source and row are known."""
        return UserError(f"{source}, row {row}, field {self.field}: {self.reason}; {self.mend}")


BLANK = ("null", "empty", "NaN")
"""The reasons for which a field has no text, and may have none if it is an extra one."""


def value_of(row: Row, field: str) -> Any:
    """The value in a row's field, or in a field of a nested column (`a.b`).

    Raises:
        BadField: there is no such field.
    """
    if field in row:
        return row[field]
    value: Any = row
    for part in field.split("."):
        if value is None:  # a nested column that this row leaves empty
            return None
        if not isinstance(value, dict) or part not in value:
            near = any(_plain(str(name)) == _plain(field) for name in row)
            raise BadField(
                field,
                "missing",
                "a column has this name with blanks around it or in another case: name it exactly"
                if near
                else "add it, or name the right column in the config",
            )
        value = value[part]
    return value


def text_field(row: Row, field: str) -> str:
    """The text in a row's field, unchanged.

    Raises:
        BadField: absent, null, NaN, not a string, blank, or not encodable (lone surrogates).
    """
    return _text(value_of(row, field), field)


def _text(value: Any, field: str) -> str:
    if value is None:
        raise BadField(field, "null", "fill it or drop the row")
    if isinstance(value, float) and math.isnan(value):
        raise BadField(field, "NaN", "fill it or drop the row")
    if not isinstance(value, str):
        mend = "write it as text"
        if isinstance(value, dict):
            mend = f"name the text in it, as {field}.NAME"
        elif _is_chat(value):
            mend = "a column of chat turns is read if it is both prompt and code"
        raise BadField(field, f"{type(value).__name__}, not a string", mend)
    if not value.strip():
        raise BadField(field, "empty", "fill it or drop the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadField(field, "broken Unicode", "remove the lone surrogates") from None
    return value


def prompt_text(row: Row, columns: Columns) -> str:
    """The prompt of a row, with the text of its extra columns.

    Raises:
        BadField: see `text_field`; an extra column may be null or blank.
    """
    if columns.suffix is not None:
        return _around(row, columns.prompt, columns.suffix)
    prompt = _said(row, columns.prompt, "user", columns)
    extra = "" if columns.input is None else _text_or_blank(row, columns.input)
    return f"{prompt}\n\n{extra}" if extra.strip() else prompt


def completion_text(row: Row, columns: Columns) -> str:
    """The answer in a row.

    Raises:
        BadField: see `text_field`.
    """
    return _said(row, columns.code, "assistant", columns)


def _text_or_blank(row: Row, field: str) -> str:
    try:
        return text_field(row, field)
    except BadField as bad:
        if bad.reason not in BLANK:
            raise
    value = value_of(row, field)
    return value if isinstance(value, str) else ""


def _around(row: Row, before: str, behind: str) -> str:
    """A prompt with a gap: `GAP` between two texts, of which one may be blank."""
    texts = {field: _text_or_blank(row, field) for field in (before, behind)}
    for field, text in texts.items():
        if GAP in text:
            raise BadField(field, f"holds {GAP}", "this text marks the gap: drop the row")
    if not "".join(texts.values()).strip():
        raise BadField(before, "empty", "fill it or drop the row")
    return GAP.join(texts.values())


_ROLES = {
    **{"system": "system", "user": "user", "human": "user"},
    **{"assistant": "assistant", "gpt": "assistant"},
}
_TURNS = (["user", "assistant"], ["user"], ["assistant"])


def _is_chat(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, dict) for t in value)


def _said(row: Row, field: str, who: str, columns: Columns) -> str:
    """The text of a field. If it holds chat turns: what the user or the assistant says."""
    value = value_of(row, field)
    both = columns.prompt == columns.code
    if not _is_chat(value):
        text = _text(value, field)
        if both:
            raise BadField(field, "not a list of turns", "name another column for the code")
        return text
    turns = [
        (
            _ROLES.get(str(turn.get("role", turn.get("from")))),
            turn.get("content", turn.get("value")),
        )
        for turn in value
    ]
    instead = "keep one question and its answer, or leave such rows out with data.on_bad_row: skip"
    if any(turn.get("tool_calls") or turn.get("function_call") for turn in value):
        raise BadField(field, "tool calls", instead)
    if any(role is None for role, _ in turns):
        raise BadField(field, "a turn of neither system, user nor assistant", instead)
    first = 1 if turns[0][0] == "system" else 0
    roles = [role for role, _ in turns[first:]]
    if roles not in _TURNS:
        raise BadField(field, "several turns", instead)
    for needed in ("user", "assistant") if both else (who,):
        if needed not in roles:
            raise BadField(field, f"no turn of the {needed}", instead)
    text = _text(turns[first + roles.index(who)][1], field)
    system = _text_or_blank({field: turns[0][1]}, field) if first and who == "user" else ""
    return f"{system}\n\n{text}" if system.strip() else text
