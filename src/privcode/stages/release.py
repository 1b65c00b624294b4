"""Release: what may leave the building, in one folder that its recipient can check.

Promises: a bundle holds the accepted pairs, the tuned premium adapter, a dataset card, a report and
`privacy.json`, all made from the DP model's output and public facts; it appears whole or not at
all; `verify_bundle` recomputes ε and finds any byte changed, any file added or missing.
Does not: sign. Whoever can write the bundle can seal it again; publish the digest elsewhere.
"""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from privcode.errors import UserError
from privcode.files import Row, read_sealed, sha256_tree, write_sealed, write_text
from privcode.privacy.accounting import Spent, spend
from privcode.report import Evidence, card, guarantee, page

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "prompt", "completion")])


def release(
    evidence: Evidence,
    rows: Sequence[Row],
    adapter: Path,
    output: Path,
    *,
    allow_reproducible_noise: bool = False,
) -> dict[str, Any]:
    """Write the bundle to `output` and return its privacy.json.

    Args:
        evidence: public facts of the run.
        rows: accepted pairs {id, prompt, completion}.
        adapter: the tuned premium's folder; copied.
        output: replaced if there.
        allow_reproducible_noise: release although the noise can be drawn again.

    Raises:
        UserError: there is no guarantee to state, or the disk is full.
    """
    facts = guarantee(evidence)
    if not isinstance(facts["epsilon"], float):
        raise UserError(
            f"{output}: this run has no finite ε, so there is nothing to promise; "
            "train with privacy.epsilon"
        )
    if facts["noise"] == "reproducible" and not allow_reproducible_noise:
        raise UserError(
            f"{output}: the noise is reproducible, so whoever knows the seed can take it away; "
            "train with privacy.noise: cryptographic, or give --allow-reproducible-noise"
        )
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "data").mkdir(parents=True)
        columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
        pq.write_table(
            pa.table(columns, SCHEMA), temporary / "data" / "train-00000-of-00001.parquet"
        )
        shutil.copytree(adapter, temporary / "adapter")
        write_text(temporary / "README.md", card(evidence, len(rows)))
        write_text(temporary / "report.html", page(evidence))
        facts["versions"] = evidence.versions
        facts["files"] = sha256_tree(temporary)
        write_sealed(temporary / "privacy.json", facts)
        os.sync()
        shutil.rmtree(output, ignore_errors=True)
        os.replace(temporary, output)
    except (OSError, shutil.Error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{output}: cannot be written ({reason}); free space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return read_sealed(output / "privacy.json")


def verify_bundle(folder: Path) -> dict[str, Any]:
    """Check every file of a bundle and recompute its ε; returns its privacy.json.

    Raises:
        UserError: names the first file or figure that does not agree.
    """
    facts = read_sealed(folder / "privacy.json")
    try:
        expected = facts["files"]
        every = tuple(Spent(**one) for one in facts["spent"])
        stated, stated_rdp, delta = facts["epsilon"], facts["epsilon_rdp"], facts["delta"]
        own = Spent(
            facts["expected_batch"] / facts["units"], facts["noise_multiplier"], facts["steps"]
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'privacy.json'}: is not one of a release ({error})") from None
    found = sha256_tree(folder)
    del found["privacy.json"]
    for name in sorted({*expected, *found}):
        if name not in found:
            raise UserError(f"{folder / name}: is missing; get the bundle again")
        if name not in expected:
            raise UserError(f"{folder / name}: is not part of the bundle; remove it")
        if found[name] != expected[name]:
            raise UserError(f"{folder / name}: was changed; get the bundle again")
    if every[:1] != (own,):
        raise UserError(f"{folder / 'privacy.json'}: what was spent is not what the plan says")
    cost = spend(every, delta)
    for name, value, again in (
        ("epsilon", stated, cost.epsilon),
        ("epsilon_rdp", stated_rdp, cost.epsilon_rdp),
    ):
        if not math.isclose(value, again, rel_tol=1e-6):
            raise UserError(f"{folder / 'privacy.json'}: states {name} {value}; it is {again:.6g}")
    return facts
