"""The record of what was spent, on disk before it is used.

Promises:
- Append-only and hash-chained. A line is flushed to the disk before the step it names uses its
  result, so a crash can only over-count.
- A line that was changed, removed or inserted anywhere but at the end is found when the ledger is
  opened.
- A last line that a crash cut off half-way is dropped: its step had not begun.
- A histogram is noted before its noise is drawn, and its noised counts before they are used. A
  histogram that a crash lost between the two stays spent. It is not drawn again, but for a seeded
  one that gives the same bits.

Does not: stop an owner from deleting the whole file. It is evidence, not a lock. It holds
private facts (a fingerprint of the data) and stays in `private/`.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from privcode.errors import UserError
from privcode.files import Row, sync_folder
from privcode.plain import read_plain
from privcode.privacy.accounting import Spent, with_unit
from privcode.privacy.plan import PrivacyPlan

_GENESIS = "0" * 64
_LIMIT = 2**30  # bytes: about five million steps


def _digest(entry: Row) -> str:
    body = {k: v for k, v in entry.items() if k != "hash"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_ledger(path: Path) -> list[Row]:
    """All complete entries.

    Raises:
        UserError: an entry was altered, or is not where it was written.
    """
    entries: list[Row] = []
    data = read_plain(path.resolve(), _LIMIT) if path.exists() else b""
    lines = data.split(b"\n")
    previous = _GENESIS
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
            whole = entry["previous"] == previous and entry["hash"] == _digest(entry)
            whole = whole and _is_sound(entry)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise UserError(
                f"{path}, row {number}: was altered or does not follow the row before; "
                "restore the file from a backup: the budget spent cannot be established"
            )
        previous = entry["hash"]
        entries.append(entry)
    return entries


def _is_sound(entry: Row) -> bool:
    """Whether an entry has the fields and types that readers rely on."""
    if entry["kind"] == "step":
        return type(entry["step"]) is int
    if entry["kind"] == "noised":
        counts = entry["counts"].values()
        return isinstance(entry["taxonomy"], str) and all(type(count) is int for count in counts)
    if entry["kind"] != "begin":
        return isinstance(entry["kind"], str)
    plan = entry["plan"]
    rate, noise, trials = plan["sampling_rate"], plan["noise_multiplier"], plan["trials"]
    histogram = plan.get("histogram_noise_multiplier", 0)
    numbers = (rate, noise, plan["steps"], 1 if trials is None else trials, histogram)
    texts = [entry["data"], *(entry[name] for name in ("run", "sweep") if name in entry)]
    return (
        all(type(n) in (int, float) and 0 <= n < 1e15 for n in numbers)
        and 0 <= rate <= 1
        and (trials is None or trials >= 1)
        and not isinstance(plan["unit"], list | dict)
        and all(isinstance(text, str) for text in texts)
    )


class Ledger:
    """One run's ledger, open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = read_ledger(path)
        if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)

    def append(self, **facts: Any) -> None:
        """Add one entry. It is on disk when this returns.

        Raises:
            UserError: the file cannot be written.
        """
        previous = self.entries[-1]["hash"] if self.entries else _GENESIS
        entry: Row = {**facts, "previous": previous}
        entry["hash"] = _digest(entry)
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(descriptor, "wb") as file:
                file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if previous == _GENESIS:  # otherwise a crash may leave the file without a name
                sync_folder(self.path.parent)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        self.entries.append(entry)

    def begin(
        self,
        plan: PrivacyPlan,
        data: str,
        run: str | None = None,
        sweep: str | None = None,
        **facts: Any,
    ) -> None:
        """State the plan once. On a later call, insist that plan and data are the same.

        Args:
            plan: what the run will do.
            data: fingerprint of the private data.
            run: the ledger's identity, a fresh random name; it stays when the ledger is moved or
                copied.
            sweep: identity of the sweep, if the run is one of its trials.
            facts: "exact" is a second fingerprint, checked for ledgers that have it. "settings" is
                a digest of the settings that training read, checked in the same way. "sketch" names
                the sketch of the data, and "bits" is from `pipeline.directory.bits`; both are only
                noted. "public" and "source" decide which other runs count.

        Raises:
            UserError: the ledger was begun with another plan or other data or settings.
        """
        stated: Row = {"kind": "begin", "plan": plan.describe(), "data": data}
        if plan.reproducible_seed is not None:
            stated["seed"] = plan.reproducible_seed
        if not self.entries:
            named = {"run": run, "sweep": sweep, **facts}
            self.append(**stated, **{k: v for k, v in named.items() if v is not None})
            return
        begun = {**self.entries[0], "plan": planned_in(self.entries)}
        stated |= {k: facts[k] for k in ("exact", "settings") if k in begun and k in facts}
        if any(begun.get(k) != v for k, v in stated.items()):
            raise UserError(
                f"{self.path}: was begun with another plan or other private data or settings; "
                "use a new run directory"
            )

    def step(self, step: int) -> None:
        """Note that `step` is about to be taken.

        A seeded step that is taken again adds nothing where it gives the same bits. That is the
        case if it was taken after the last entry that names the machine.
        """
        if "seed" in self.entries[0] and step in self._taken_here():
            return
        self.append(kind="step", step=step)

    def histogram(self) -> bool:
        """Note that the histogram's noise is about to be drawn. Returns whether it may be.

        It is drawn once. A seeded one may be drawn again until its result is noted, where that
        gives the same bits (see `step`).
        """
        again = "seed" in self.entries[0] and _is_drawn(self._here())
        if noised_in(self.entries) or (_is_drawn(self.entries) and not again):
            return False
        if not again:
            self.append(kind="histogram")
        return True

    def noised(self, counts: dict[str, int], taxonomy: str) -> None:
        """Note the noised counts of the histogram by bin, and the name of what its bins mean."""
        self.append(kind="noised", counts=counts, taxonomy=taxonomy)

    def _taken_here(self) -> set[int]:
        return {entry["step"] for entry in self._here() if entry["kind"] == "step"}

    def _here(self) -> list[Row]:
        """The entries from the last one on that names the machine."""
        named = [index for index, entry in enumerate(self.entries) if "bits" in entry]
        return self.entries[named[-1] if named else 0 :]

    @property
    def steps(self) -> int:
        """Steps spent, without `lost_steps`."""
        return len([e for e in self.entries if e["kind"] == "step"]) - lost_steps(self.entries)


def planned_in(entries: list[Row]) -> Row:
    """The plan that a ledger was begun under, in today's form of `PrivacyPlan.describe`."""
    return with_unit(entries[0]["plan"])


def spent_in(entries: list[Row]) -> Spent:
    """What a ledger's entries add up to, without `lost_steps`."""
    plan = planned_in(entries)
    steps = sum(e["kind"] == "step" for e in entries) - lost_steps(entries)
    names = ("sampling_rate", "noise_multiplier", "trials", "owner_column")
    drawn = plan.get("histogram_noise_multiplier") if _is_drawn(entries) else None
    spent = {name: plan[name] for name in names}
    return Spent(steps=steps, histogram_noise_multiplier=drawn, **spent)


def noised_in(entries: list[Row]) -> Row | None:
    """The noised counts of a ledger's histogram and their taxonomy, if they were noted."""
    return next((e for e in entries if e["kind"] == "noised"), None)


def _is_drawn(entries: list[Row]) -> bool:
    """Whether the noise of the histogram was about to be drawn."""
    return any(e["kind"] == "histogram" for e in entries)


def lost_steps(entries: list[Row]) -> int:
    """Steps of a seeded run that were taken again and gave other bits.

    The first results were dropped, but somebody may have seen them. They count as another run's.
    """
    before: set[int] = set()
    here: set[int] = set()
    lost = 0
    for entry in entries:
        if "bits" in entry:
            before |= here
            here = set()
        elif entry["kind"] == "step" and "seed" in entries[0]:
            lost += 1 if entry["step"] in before else 0
            here.add(entry["step"])
    return lost


def sketch_in(entries: list[Row]) -> str | None:
    """The name of the sketch of a ledger's data, if it has one."""
    return next((e["sketch"] for e in reversed(entries) if "sketch" in e), None)


def source_in(entries: list[Row]) -> str | None:
    """Where a run's data lay when it began. See `registry.place`. None where that is not noted."""
    return entries[0].get("source") if entries else None


def identity(entries: list[Row]) -> str | None:
    """The name of a ledger's run, if it has one. See `Ledger.begin`.

    A run that continues in another place than it began gets a new name from there on.
    """
    return next((e["run"] for e in reversed(entries) if "run" in e), None)
