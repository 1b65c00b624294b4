"""What `torchrun` or `accelerate launch` tells a process about itself, in its environment.

Promises:
- Reads the environment and nothing else.
- A value that is not a number is an error of one line.

Does not: import torch, so every command can ask.
"""

import os

from privcode.errors import UserError

_MOST = 1_000_000


def launched() -> int:
    """The number of processes that were started together.

    Raises:
        UserError: WORLD_SIZE is not a number of processes.
    """
    return _number("WORLD_SIZE", 1, _MOST, default=1)


def rank() -> int:
    """This process's number among them, from 0. Also 0 where it is not a number (see `check`)."""
    try:
        return _number("RANK", 0, launched() - 1, default=0) if launched() > 1 else 0
    except UserError:
        return 0


def on_this_machine() -> int:
    """The number of those processes that run on this machine.

    Raises:
        UserError: LOCAL_WORLD_SIZE is not a number of processes.
    """
    return _number("LOCAL_WORLD_SIZE", 1, launched(), default=launched())


def check() -> None:
    """Insist that what processes need to join is present and makes sense.

    Raises:
        UserError: it is not.
    """
    if launched() == 1:
        return
    _number("RANK", 0, launched() - 1)
    _number("LOCAL_RANK", 0, launched() - 1, default=0)
    _number("MASTER_PORT", 1, 65535)
    if not os.environ.get("MASTER_ADDR"):
        raise UserError("MASTER_ADDR: is not set; start with torchrun, or unset WORLD_SIZE")


def _number(name: str, least: int, most: int, default: int | None = None) -> int:
    text = os.environ.get(name, "").strip()
    if not text and default is not None:
        return default
    if text.isascii() and text.isdigit() and len(text) < 8 and least <= int(text) <= most:
        return int(text)
    raise UserError(
        f"{name}: is {text or 'not set'}, not a whole number from {least} to {most}; start with "
        "torchrun, or unset WORLD_SIZE"
    )
