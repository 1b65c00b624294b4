"""The one exception meant for the person at the keyboard.

Promises: whoever raises `UserError` has written one line that says what is wrong, where
(file, row, field) and how to mend it; the command line prints it and exits with code 2.
Does not: carry private content. A message may name a row, never quote one.
"""


class UserError(Exception):
    """Bad input, stated in one line: what, where, and the mend."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
