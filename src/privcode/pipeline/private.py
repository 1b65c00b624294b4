"""What a run reads of the private data: the records it trains on, and those it leaves out.

Promises: which records of a unit are kept, and whether a unit is held out, depends on that unit
alone; made-up canaries come last. Does not: know paths of a run, or write anything. All that is
returned is private.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from privcode.audit import canaries, coin_canaries
from privcode.config import Config
from privcode.data.columns import Columns
from privcode.data.reading import read_records
from privcode.data.records import Record, Records, bound_contributions, hold_out
from privcode.privacy.sketch import Sketch, sketch

_quoted = json.encoder.encode_basestring_ascii  # what json.dumps makes of a text, sooner


class Digests:
    """Two digests of records, which are added one by one."""

    def __init__(self) -> None:
        self._texts, self._all, self._between = hashlib.sha256(), hashlib.sha256(), ""

    def add(self, r: Record) -> None:
        """One more record."""
        text = f"{self._between}{r.unit.name}\x01{r.prompt}\x01{r.completion}"
        self._texts.update(text.encode())
        self._between = "\x00"
        spoken = "null" if r.language is None else _quoted(r.language)
        kind, name = map(_quoted, r.unit)
        row = f"[{kind}, {name}, {_quoted(r.prompt)}, {_quoted(r.completion)}, {spoken}]\n"
        self._all.update(row.encode())

    @property
    def fingerprint(self) -> str:
        """See `DataIdentity`."""
        return self._texts.hexdigest()

    @property
    def exact(self) -> str:
        """See `DataIdentity`."""
        return self._all.hexdigest()


@dataclass(frozen=True)
class DataIdentity:
    """What tells data from others. All of it is private.

    Attributes:
        records: all records that were read, those left out of training too.
        noted: their digests, if they were made while the records were read.
    """

    records: Records
    noted: Digests | None = None

    @cached_property
    def _digests(self) -> Digests:
        if self.noted:
            return self.noted
        made = Digests()
        for record in self.records:
            made.add(record)
        return made

    @property
    def fingerprint(self) -> str:
        """Of texts, owners and order, as files name data since there are ledgers."""
        return self._digests.fingerprint

    @property
    def exact(self) -> str:
        """Of everything that training depends on: languages and kinds of units, too."""
        return self._digests.exact

    def sketch(self, secret: bytes) -> Sketch:
        """Of the texts alone; made once."""
        if "_sketch" not in self.__dict__:
            self.__dict__["_sketch"] = sketch(self.records.texts(), secret)
        made: Sketch = self.__dict__["_sketch"]
        return made


def private_records(
    config: Config, limit: int | None = None, folder: Path | None = None
) -> tuple[Records, dict[str, Any], DataIdentity]:
    """What is trained on: bounded private records with their canaries; counts; which data they are.

    All three are private. `limit` takes only the first so many records, and all canaries. For
    `folder` see `data.records.stored`.

    Raises:
        UserError: the data cannot be read, or no record is left.
    """
    kept, _, counts, identity = split_records(config, folder)
    audit = config.audit
    planted = canaries.records(canaries.plant(audit.repetitions, audit.seed, audit.places))
    planted += coin_canaries.records(coin_canaries.throw(audit.coin_canaries, audit.seed))
    return kept[:limit].followed_by(planted), counts | {"canaries": len(planted)}, identity


def split_records(
    config: Config, folder: Path | None = None
) -> tuple[Records, Records, dict[str, Any], DataIdentity]:
    """Bounded private records to train on, and those held out; counts; which data all of them are.

    All four are private. For `folder` see `data.records.stored`.

    Raises:
        UserError: the data cannot be read, or no record is left.
    """
    data, privacy = config.data, config.privacy
    columns = Columns(**data.columns.model_dump()) if data.columns else None
    if columns and privacy.unit == "record":
        columns = replace(columns, unit=None)
    digests = Digests()
    records, report = read_records(
        data.source,
        columns,
        language=data.language,
        languages=data.languages,
        contains=data.contains,
        on_bad_row=data.on_bad_row,
        folder=folder,
        seen=digests.add,
    )
    trained, held_out = hold_out(records, config.audit.holdout / privacy.units, config.audit.seed)
    (kept, dropped), (others, also) = (
        bound_contributions(some, privacy.max_records_per_unit, seed=privacy.seed)
        for some in (trained, held_out)
    )
    counts = {**asdict(report), "over_the_bound": dropped + also, "held_out": len(others)}
    return kept, others, counts, DataIdentity(records, digests)
