"""What other runs spent on the data of a run, from its directory and its config.

It finds the runs next to a run, and asks `privacy.spending` about them.

Does not: decide what counts. `privacy.spending` does, and `privacy.sketch` compares the data.
"""

from pathlib import Path

from privcode.config import Config, load_config
from privcode.files import Row
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.private import DataIdentity
from privcode.privacy import spending
from privcode.privacy.accounting import Spent
from privcode.privacy.ledger import read_ledger, sketch_in, source_in
from privcode.privacy.registry import place
from privcode.privacy.spending import Data, Other


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
    if data is None and own:
        ours = Data(source, own[0]["data"], sketch_in(own))
    else:
        ours = _at_hand(source, data)
    found = {} if is_public(run.config, own) else spending.runs_elsewhere(ours)
    ledgers = sorted(run.out.resolve().parent.glob("*/private/ledger.jsonl"))
    others = [path for path in ledgers if path != run.ledger.resolve()]
    spending.add_neighbours(found, ours, others, _source_of)
    if own:
        spending.leave_out(found, own)
    return found


def spent_elsewhere(config: Config, data: DataIdentity | None = None) -> dict[str, Spent]:
    """What the registry says was spent on these data, by name; without `data`, on their file."""
    return {name: other.spent for name, other in runs_elsewhere(config, data).items()}


def runs_elsewhere(config: Config, data: DataIdentity | None = None) -> dict[str, Other]:
    """The runs over the same data that the registry knows, by name.

    Runs over public data are not registered and look up nothing.
    """
    if config.data.public:
        return {}
    return spending.runs_elsewhere(_at_hand(place(config.data.source), data))


def is_public(config: Config, entries: list[Row]) -> bool:
    """Whether the owner declared the data public before the run spent anything."""
    return bool(entries[0].get("public", config.data.public) if entries else config.data.public)


def _at_hand(source: str, data: DataIdentity | None) -> Data:
    return Data(source) if data is None else Data(source, data.fingerprint, draw=data.sketch)


def _source_of(ledger: Path) -> str:
    """Of a run that was begun before ledgers noted it."""
    config = ledger.parent.parent / "config.yaml"
    return place(load_config(config).data.source) if config.exists() else ""
