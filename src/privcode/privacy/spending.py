"""What was spent on the same data: on the same records, or on many of them.

Promises:
- Every run that is known counts once and with its whole plan, wherever it lies. It counts if it
  read the same file, the same records, or records of which a material share is in both (`sketch`).
- A run also counts where that cannot be decided, because a sketch is lost or was made with another
  key. The owner then sees a warning.

Does not: see what no registry and no neighbouring folder of this machine holds; or read records.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from privcode.console import say
from privcode.files import Row
from privcode.privacy.accounting import Spent, read_spent
from privcode.privacy.ledger import (
    identity,
    lost_steps,
    planned_in,
    read_ledger,
    sketch_in,
    source_in,
    spent_in,
)
from privcode.privacy.registry import kept, registered, registry, secret
from privcode.privacy.sketch import SHARE, Sketch, shared


@dataclass(frozen=True)
class Other:
    """Another run over the same data.

    Attributes:
        spent: what it spent.
        ledger: where its ledger lies or lay; "" where it has none.
        share: of the smaller data set, what is in both: a private figure. None where another file
            was named, or where it cannot be told.
    """

    spent: Spent
    ledger: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Data:
    """What a ledger, the registry, or the records at hand say of a run's data.

    Attributes:
        source: the place of the file.
        fingerprint: of the records, if it is known.
        sketch: the name under which the registry keeps their sketch.
        draw: makes the sketch of the records at hand with the user's secret.
    """

    source: str
    fingerprint: str | None = None
    sketch: str | None = None
    draw: Callable[[bytes], Sketch] | None = None

    def drawn(self) -> Sketch | None:
        """The sketch, if there is one."""
        if self.draw is not None:
            return self.draw(secret())
        return kept(self.sketch) if self.sketch else None

    def sketched(self) -> bool:
        """Whether there is, or ought to be, a sketch."""
        return bool(self.draw or self.sketch)


def runs_elsewhere(ours: Data) -> dict[str, Other]:
    """The runs over the same data that the registry knows, by name.

    Each counts with its whole plan: how far it went would be its ledger's word, which may have been
    put back from a backup. All trials of a sweep count as one.
    """
    found: dict[str, Other] = {}
    for entry in registered():
        same, share = _same(ours, Data(entry["source"], entry["data"], entry.get("sketch")))
        if not same:
            continue
        name = entry["sweep"] or entry["run"]
        _count(found, name, Other(read_spent(entry["spent"]), entry["ledger"] or "", share))
    return found


def add_neighbours(
    found: dict[str, Other], ours: Data, ledgers: Iterable[Path], source_of: Callable[[Path], str]
) -> None:
    """Add the runs over the same data that have these ledgers; of copies the largest counts.

    Args:
        found: runs by name; changed.
        ours: the data.
        ledgers: of other runs.
        source_of: the source of a run whose ledger does not say it, by the ledger's path.
    """
    for path in ledgers:
        entries = read_ledger(path)
        if not entries:
            continue
        noted = source_in(entries)
        theirs = Data(source_of(path) if noted is None else noted, entries[0]["data"])
        if (name := sketch_in(entries)) and kept(name):  # else of another registry
            theirs = replace(theirs, sketch=name)
        same, share = _same(ours, theirs)
        if same:
            _count(found, _named(entries) or str(path), Other(_spent(entries), str(path), share))


def leave_out(found: dict[str, Other], own: list[Row]) -> None:
    """Leave out the run whose ledger has these entries, but for what it took twice."""
    found.pop(_named(own) or "", None)
    if lost := lost_steps(own):  # their results are gone, but other bits came of them
        _count(
            found,
            str(own[0].get("run")),
            Other(replace(spent_in(own), steps=lost, histogram_noise_multiplier=None)),
        )


def _same(ours: Data, theirs: Data) -> tuple[bool, float | None]:
    """Whether two runs read the same data, and what share of the smaller is in both, if known."""
    known = ours.source == theirs.source or (
        ours.fingerprint is not None and ours.fingerprint == theirs.fingerprint
    )
    if not (ours.sketched() and theirs.sketched()):
        return known, None  # noted before there were sketches, or nothing is said of the records
    one, other = ours.drawn(), theirs.drawn()
    share = shared(one, other) if one and other else None
    if share is None and not known:
        _warn()
    return known or share is None or share >= SHARE, share


@lru_cache(maxsize=1)
def _warn() -> None:
    """Once: why a run counts that may have read something else."""
    say(
        f"{registry().parent}: a sketch of private data is lost, made with another key or too "
        "coarse, so a run that may have read other data is counted; restore sketches and key from "
        "a backup"
    )


def overlaps(found: dict[str, Other]) -> Iterator[str]:
    """A line for each run that shares a part of the data: private, for the owner alone."""
    for other in found.values():
        if other.share is not None:
            run = str(Path(other.ledger).parent.parent) if other.ledger else "a sweep"
            part = f"{other.share:.0%} of the smaller data set"
            yield f"{part} is both in these data and in those of {run}"


def _count(found: dict[str, Other], name: str, other: Other) -> None:
    """Ledgers under one name are copies; the largest counts."""
    if name not in found or found[name].spent.steps < other.spent.steps:
        found[name] = other


def _named(entries: list[Row]) -> str | None:
    """What a run counts as: the trials of one sweep are one."""
    return entries[0].get("sweep") or identity(entries)


def _spent(entries: list[Row]) -> Spent:
    """What another run may spend: its plan, and what it took twice."""
    plan = planned_in(entries)
    return replace(
        spent_in(entries),
        steps=plan["steps"] + lost_steps(entries),
        histogram_noise_multiplier=plan.get("histogram_noise_multiplier"),
    )
