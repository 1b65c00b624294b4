"""What every stage has: a name, what it makes, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privcode.pipeline.layout import RunDirectory


def _nothing(run: RunDirectory) -> None:
    """Nothing to refuse, or to do."""


@dataclass(frozen=True)
class Stage:
    """One stage of the method.

    Attributes:
        name: also the command's.
        made: what it makes first of all, which is what a person is shown.
        work: does it; called in the stage's turn, where it is not done yet. Returns what to show.
        outputs: all that it makes outside `private/`: what the manifest has hashes of.
        private: names of files and folders that it leaves in `private/` for later stages and the
            run's figures.
        passed_on: whether later stages read what it made.
        check: raises UserError where the config asks for nothing that it could do.
        done: called when what it made is noted.
    """

    name: str
    made: Callable[[RunDirectory], Path]
    work: Callable[[RunDirectory], Path]
    outputs: Callable[[RunDirectory], list[Path]]
    private: tuple[str, ...] = ()
    passed_on: bool = True
    check: Callable[[RunDirectory], None] = _nothing
    done: Callable[[RunDirectory], None] = _nothing
