"""What a run reads of the private data: the records it trains on, and those it leaves out.

Promises: which records of a unit are kept, and whether a unit is held out, depends on that unit
alone; made-up canaries come last. Does not: know paths of a run, or write anything. All that is
returned is private.
"""

import hashlib
from dataclasses import asdict, replace
from typing import Any

from privcode.audit import canaries, coin_canaries
from privcode.config import Config
from privcode.records import (
    Columns,
    Record,
    bound_contributions,
    hold_out,
    read_records,
)


def private_records(
    config: Config, limit: int | None = None
) -> tuple[list[Record], dict[str, Any], str]:
    """What is trained on: the bounded private records with their canaries; counts, a fingerprint.

    All three are private. `limit` takes only the first so many records, and all canaries.

    Raises:
        UserError: the data cannot be read, or no record is left.
    """
    kept, _, counts, fingerprint = split_records(config)
    audit = config.audit
    planted = canaries.records(canaries.plant(audit.repetitions, audit.seed))
    planted += coin_canaries.records(coin_canaries.throw(audit.coin_canaries, audit.seed))
    return [*kept[:limit], *planted], counts | {"canaries": len(planted)}, fingerprint


def split_records(
    config: Config,
) -> tuple[list[Record], list[Record], dict[str, Any], str]:
    """Bounded private records to train on, and those held out; counts and a fingerprint of all.

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
    fingerprint = hashlib.sha256(
        "\x00".join(f"{r.unit.name}\x01{r.prompt}\x01{r.completion}" for r in records).encode()
    ).hexdigest()
    trained, held_out = hold_out(records, config.audit.holdout / privacy.units, config.audit.seed)
    (kept, dropped), (others, also) = (
        bound_contributions(some, privacy.max_records_per_unit, seed=privacy.seed)
        for some in (trained, held_out)
    )
    counts = {**asdict(report), "over_the_bound": dropped + also, "held_out": len(others)}
    return kept, others, counts, fingerprint
