"""What a run reads of the private data: the records it trains on, and those it leaves out.

Promises: which records of a unit are kept, and whether a unit is held out, depends on that unit
alone; made-up canaries come last. Does not: know paths of a run, or write anything. All that is
returned is private.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from privcode.audit import canaries, coin_canaries
from privcode.config import Config
from privcode.data.columns import Columns
from privcode.data.records import Record, bound_contributions, hold_out, read_records
from privcode.privacy.sketch import Sketch, sketch


@dataclass(frozen=True)
class DataIdentity:
    """What tells data from others. All of it is private.

    Attributes:
        records: all records that were read, those left out of training too.
    """

    records: Sequence[Record]

    @cached_property
    def fingerprint(self) -> str:
        """Of texts, owners and order, as files name data since there are ledgers."""
        texts = (f"{r.unit.name}\x01{r.prompt}\x01{r.completion}" for r in self.records)
        return hashlib.sha256("\x00".join(texts).encode()).hexdigest()

    @cached_property
    def exact(self) -> str:
        """Of everything that training depends on: languages and kinds of units, too."""
        digest = hashlib.sha256()
        for r in self.records:
            row = json.dumps([*r.unit, r.prompt, r.completion, r.language])
            digest.update(row.encode() + b"\n")
        return digest.hexdigest()

    def sketch(self, secret: bytes) -> Sketch:
        """Of the texts alone; made once."""
        if "_sketch" not in self.__dict__:
            texts = ((r.prompt, r.completion) for r in self.records)
            self.__dict__["_sketch"] = sketch(texts, secret)
        made: Sketch = self.__dict__["_sketch"]
        return made


def private_records(
    config: Config, limit: int | None = None
) -> tuple[list[Record], dict[str, Any], DataIdentity]:
    """What is trained on: bounded private records with their canaries; counts; which data they are.

    All three are private. `limit` takes only the first so many records, and all canaries.

    Raises:
        UserError: the data cannot be read, or no record is left.
    """
    kept, _, counts, identity = split_records(config)
    audit = config.audit
    planted = canaries.records(canaries.plant(audit.repetitions, audit.seed, audit.places))
    planted += coin_canaries.records(coin_canaries.throw(audit.coin_canaries, audit.seed))
    return [*kept[:limit], *planted], counts | {"canaries": len(planted)}, identity


def split_records(
    config: Config,
) -> tuple[list[Record], list[Record], dict[str, Any], DataIdentity]:
    """Bounded private records to train on, and those held out; counts; which data all of them are.

    All four are private.

    Raises:
        UserError: the data cannot be read, or no record is left.
    """
    data, privacy = config.data, config.privacy
    columns = Columns(**data.columns.model_dump()) if data.columns else None
    if columns and privacy.unit == "record":
        columns = replace(columns, unit=None)
    records, report = read_records(
        data.source,
        columns,
        language=data.language,
        languages=data.languages,
        contains=data.contains,
        on_bad_row=data.on_bad_row,
    )
    trained, held_out = hold_out(records, config.audit.holdout / privacy.units, config.audit.seed)
    (kept, dropped), (others, also) = (
        bound_contributions(some, privacy.max_records_per_unit, seed=privacy.seed)
        for some in (trained, held_out)
    )
    counts = {**asdict(report), "over_the_bound": dropped + also, "held_out": len(others)}
    return kept, others, counts, DataIdentity(records)
