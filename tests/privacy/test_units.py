"""Kind and name of a unit are apart: no name that a person can have makes two units one."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from privcode.audit import canaries, coin_canaries
from privcode.config import Config, parse_config, plan_of
from privcode.data.records import Record, units_of
from privcode.errors import UserError
from privcode.pipeline.private import private_records
from privcode.privacy import PrivacyPlan
from privcode.privacy.accounting import Spent, read_spent, with_unit
from privcode.privacy.ledger import Ledger, planned_in, spent_in
from privcode.release.page import whom

PLANTED = [
    *canaries.records(canaries.plant([1, 2], 0)),
    *coin_canaries.records(coin_canaries.throw(20, 0)),
]


def config(data: Path | str = "d.jsonl", column: str = "author", **privacy: Any) -> Config:
    columns = {"prompt": "prompt", "code": "code", "unit": column}
    mechanism = {"delta": 1e-5, "units": 2000, "batch": 64, "steps": 50}
    return parse_config(
        {
            "data": {"source": str(data), "columns": columns, "language": "python"},
            "privacy": mechanism | {"unit": "column", "max_records_per_unit": 10} | privacy,
            "prompts": {"source": "public", "file": "p.txt"},
            "junior": {"model": "bundled:junior"},
            "premium": {"model": "bundled:premium"},
            "audit": {"repetitions": [1, 2], "coin_canaries": 20},
        }
    )


def names_like(record: Record) -> set[str]:
    """Names that an owner may have, each like the unit of a planted record in some spelling."""
    kind, name = record.unit
    dashed = kind.replace(" ", "-")
    return {name, str(record.unit), f"{kind}-{name}", f"{dashed}-{name}", f"{kind} {name}", kind}


def test_an_owner_named_like_a_canary_shares_no_unit_with_it(tmp_path: Path) -> None:
    owners = sorted(set().union(*map(names_like, PLANTED)) | {"row-7", "row", "owner", "record"})
    assert {"canary-1-1", "coin-canary-3"} <= set(owners)
    rows = [{"prompt": "p", "code": f"x = {i}", "author": who} for i, who in enumerate(owners)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records, _, _ = private_records(config(tmp_path / "d.jsonl"))
    assert len(records) == len(owners) + len(PLANTED)
    assert list(units_of(records)) == [[i] for i in range(len(records))]


def test_planted_records_of_all_kinds_are_units_of_their_own() -> None:
    assert {record.unit.kind for record in PLANTED} == {"canary", "coin canary"}
    assert len(units_of(PLANTED)) == len(PLANTED)


def test_an_owners_column_called_record_protects_owners() -> None:
    owner = plan_of(config(column="record"))
    record = plan_of(config(unit="record", max_records_per_unit=1))
    assert (owner.unit, owner.owner_column) == ("owner", "record")
    assert (record.unit, record.owner_column) == ("record", None)
    assert "all records of one owner (column record; at most 10" in whom(owner)
    assert whom(record) == "one record"
    for one, other in ((owner, record), (record, owner)):
        assert one.charge((other.spent(),)).cost.epsilon == math.inf
        assert math.isfinite(one.charge((one.spent(),)).cost.epsilon)


def old_facts(plan: PrivacyPlan) -> dict[str, Any]:
    """What a plan said of itself when kind and name of the unit were one value."""
    facts = plan.describe()
    column = facts.pop("owner_column")
    return facts | {"unit": column or "record"}


PLANS = {
    "record": plan_of(config(unit="record", max_records_per_unit=1)),
    "author": plan_of(config(max_records_per_unit=1)),
    "record, an owner's": plan_of(config(column="record")),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_ledger_written_before_kind_and_name_were_apart_goes_on(
    tmp_path: Path, plan: PrivacyPlan
) -> None:
    Ledger(tmp_path / "l").append(kind="begin", plan=old_facts(plan), data="d", run="r")
    ledger = Ledger(tmp_path / "l")
    ledger.begin(plan, "d")
    ledger.step(0)
    assert planned_in(ledger.entries) == plan.describe()
    assert spent_in(ledger.entries) == plan.spent(1)
    with pytest.raises(UserError, match="another plan"):
        ledger.begin(plan_of(config(column="team")), "d")


def test_what_was_spent_is_read_in_the_old_form_and_in_the_new_one() -> None:
    for column in (None, "author", "record"):
        spent = Spent(0.1, 1.0, 5, None, column)
        assert read_spent(spent.facts()) == spent
    old: dict[str, Any] = {"sampling_rate": 0.1, "noise_multiplier": 1.0, "steps": 5}
    assert read_spent(old | {"trials": None, "unit": "author"}).owner_column == "author"
    assert read_spent(old | {"unit": "record"}).owner_column is None
    assert read_spent(old).owner_column is None  # from before units had kinds
    with pytest.raises(TypeError):  # of two statements neither is believed
        read_spent(old | {"unit": "record", "owner_column": "author"})
    assert with_unit(PLANS["author"].describe()) == PLANS["author"].describe()


def test_a_record_unit_has_one_record() -> None:
    with pytest.raises(UserError, match="max_records_per_unit"):
        PrivacyPlan(
            units=100,
            max_records_per_unit=2,
            expected_batch=1,
            steps=1,
            clip_norm=1.0,
            noise_multiplier=1.0,
            delta=1e-3,
        )
