"""The exceptions meant for the person at the keyboard.

Promises:
- Whoever raises `UserError` has written one line that says what is wrong, where (file, row, field)
  and how to fix it.
- The command line prints that line and exits with code 2, or 3 (`NothingLeft`).
- The line has at most `LONGEST` characters. None of them is a control character that a terminal
  would obey.

Does not: carry private content. A message may name a row, never quote one.
"""

import os

LONGEST = 480
"""The most characters of a line."""
_WORD = 200


class UserError(Exception):
    """Bad input, stated in one line: what, where, and the fix."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        words = (_short(word, _WORD) for word in message.split())
        super().__init__(_short(" ".join(words), LONGEST))


class NothingLeft(UserError):
    """What models wrote leaves nothing for the next stage.

    After DP training this is a result: other settings may do better.
    """

    exit_code = 3


def _short(text: str, most: int) -> str:
    """`text`, printable, and without its middle where it is longer than `most` characters."""
    if len(text) > most:
        text = f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def why(error: BaseException) -> str:
    """The reason of an error in words: the system's message, or the kind of error."""
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    if isinstance(error, ValueError):
        return "not a name of a file"
    return type(error).__name__
