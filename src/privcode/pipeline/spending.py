"""What other runs spent on the data of a run: on the same records, or on many of them.

Promises: every run that is known counts once and with its whole plan, wherever it lies, if it read
the same file, the same records, or records of which a material share is in both
(`privacy.sketch`). Where that cannot be told, since a sketch is lost or was made with another key,
it counts, and the owner is told.
Does not: see what no registry and no neighbouring folder of this machine holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from privcode.config import Config, load_config
from privcode.console import say
from privcode.files import Row
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.private import DataIdentity
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
from privcode.privacy.registry import kept, place, registered, registry, secret
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
class _Data:
    """What a ledger, the registry, or the records at hand say of a run's data.

    `sketch` is its name; that of the records at hand is made where it is asked for.
    """

    source: str
    fingerprint: str | None = None
    sketch: str | None = None
    records: DataIdentity | None = None

    def drawn(self) -> Sketch | None:
        if self.records:
            return self.records.sketch(secret())
        return kept(self.sketch) if self.sketch else None

    def sketched(self) -> bool:
        """Whether there is, or ought to be, a sketch."""
        return bool(self.records or self.sketch)


def spent_beside(run: RunDirectory, data: DataIdentity | None = None) -> tuple[Spent, ...]:
    """What other runs spent on the same data, each run once.

    Those in the folders next to this one, and those that the registry knows. `data` are the records
    at hand, where the run has no ledger yet that says which they are.
    """
    return tuple(other.spent for other in runs_beside(run, data).values())


def runs_beside(run: RunDirectory, data: DataIdentity | None = None) -> dict[str, Other]:
    """The runs of `spent_beside`, by name."""
    own = read_ledger(run.ledger)
    source = source_in(own) or place(run.config.data.source)
    ours = _Data(source, records=data)
    if data:
        ours = replace(ours, fingerprint=data.fingerprint)
    elif own:
        ours = _Data(source, own[0]["data"], sketch_in(own))
    found = {} if is_public(run.config, own) else _elsewhere(ours)
    for path in sorted(run.out.resolve().parent.glob("*/private/ledger.jsonl")):
        entries = read_ledger(path)
        if not entries or path == run.ledger.resolve():
            continue
        config, noted = path.parent.parent / "config.yaml", source_in(entries)
        if noted is None:  # begun before it was
            noted = place(load_config(config).data.source) if config.exists() else ""
        theirs = _Data(noted, entries[0]["data"])
        if (name := sketch_in(entries)) and kept(name):  # else of another registry
            theirs = replace(theirs, sketch=name)
        same, share = _same(ours, theirs)
        if same:
            _count(found, _named(entries) or str(path), Other(_spent(entries), str(path), share))
    if own:
        found.pop(_named(own) or "", None)
        if lost := lost_steps(own):  # their results are gone, but other bits came of them
            _count(found, str(own[0].get("run")), Other(replace(spent_in(own), steps=lost)))
    return found


def spent_elsewhere(config: Config, data: DataIdentity | None = None) -> dict[str, Spent]:
    """What the registry says was spent on these data, by name; without `data`, on their file."""
    return {name: other.spent for name, other in runs_elsewhere(config, data).items()}


def runs_elsewhere(config: Config, data: DataIdentity | None = None) -> dict[str, Other]:
    """The runs over the same data that the registry knows, by name.

    Each counts with its whole plan: how far it went would be its ledger's word, which may have been
    put back from a backup. All trials of a sweep count as one. Runs over public data are not
    registered and look up nothing.
    """
    source = place(config.data.source)
    if config.data.public:
        return {}
    return _elsewhere(_Data(source, data.fingerprint if data else None, records=data))


def is_public(config: Config, entries: list[Row]) -> bool:
    """Whether the owner declared the data public before the run spent anything."""
    return bool(entries[0].get("public", config.data.public) if entries else config.data.public)


def _elsewhere(ours: _Data) -> dict[str, Other]:
    found: dict[str, Other] = {}
    for entry in registered():
        same, share = _same(ours, _Data(entry["source"], entry["data"], entry.get("sketch")))
        if not same:
            continue
        name = entry["sweep"] or entry["run"]
        _count(found, name, Other(read_spent(entry["spent"]), entry["ledger"] or "", share))
    return found


def _same(ours: _Data, theirs: _Data) -> tuple[bool, float | None]:
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
    return replace(spent_in(entries), steps=planned_in(entries)["steps"] + lost_steps(entries))
