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
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from privcode.config import json_number
from privcode.errors import UserError
from privcode.files import Row, read_sealed, sha256_file, sha256_tree, write_sealed, write_text
from privcode.privacy.accounting import read_spent, with_unit
from privcode.privacy.plan import PrivacyPlan
from privcode.report import Evidence, accountant, card, guarantee, page

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "prompt", "completion")])
FACTS = "privacy.json"
ACCOUNTANT = "dp-accounting"


def release(
    evidence: Evidence,
    rows: Sequence[Row],
    adapter: Path,
    output: Path,
    *,
    allow_reproducible_noise: bool = False,
    license: str | None = None,
) -> dict[str, Any]:
    """Write the bundle to `output`, verify it, and return its privacy.json.

    Args:
        evidence: public facts of the run.
        rows: accepted pairs {id, prompt, completion}.
        adapter: the tuned premium's folder; copied.
        output: a bundle that is there is replaced.
        allow_reproducible_noise: release although the noise can be drawn again.
        license: of the synthetic data, as the card names it ("apache-2.0").

    Raises:
        UserError: there is no guarantee to state, something else is at `output`, or the disk is
            full.
    """
    facts = guarantee(evidence)
    if not isinstance(facts["epsilon"], float):
        raise UserError(
            f"{output}: ε is not finite, since this run or another over the same data trained "
            "without noise, or another protects another unit; there is nothing to promise: train "
            "with a finite privacy.epsilon, and all runs with one privacy.unit"
        )
    if facts["noise"] == "reproducible" and not allow_reproducible_noise:
        raise UserError(
            f"{output}: the noise is reproducible, so whoever knows the seed can take it away; "
            "train with privacy.noise: cryptographic, or give --allow-reproducible-noise"
        )
    if os.path.lexists(output) and not (output / FACTS).is_file():
        raise UserError(f"{output}: is there and is not a release; choose another folder")
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "data").mkdir(parents=True)
        columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
        pq.write_table(
            pa.table(columns, SCHEMA), temporary / "data" / "train-00000-of-00001.parquet"
        )
        # Contents without modes: safetensors writes files that their owner alone can read.
        shutil.copytree(adapter, temporary / "adapter", copy_function=shutil.copyfile)
        write_text(temporary / "README.md", card(evidence, len(rows), license))
        write_text(temporary / "report.html", page(evidence))
        facts["versions"] = evidence.versions
        facts["files"] = sha256_tree(temporary)
        write_sealed(temporary / FACTS, facts)
        os.sync()
        facts = verify_bundle(temporary)
        shutil.rmtree(output, ignore_errors=True)
        os.replace(temporary, output)
    except (OSError, shutil.Error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{output}: cannot be written ({reason}); free space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def verify_bundle(folder: Path) -> dict[str, Any]:
    """Check every file of a bundle and recompute its ε; returns its privacy.json.

    Raises:
        UserError: names the first file or figure that does not agree.
    """
    where = folder / FACTS
    try:
        facts = read_sealed(where)
        files = {str(name): str(digest) for name, digest in facts["files"].items()}
        _check_files(folder, files)
        facts["versions"] = {str(name): str(made) for name, made in facts["versions"].items()}
        _check_figures(where, facts)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise UserError(f"{where}: is not that of a release; get the bundle again") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from error
    return facts


def _check_files(folder: Path, expected: dict[str, str]) -> None:
    """Refuse a file, link or folder that is missing, changed or not of the bundle."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    folders = {str(parent) for name in expected for parent in Path(name).parents}
    for name in sorted({*expected, *found} - {FACTS}):
        path = found.get(name)
        if name in expected:
            if path is None or not path.is_file():
                raise UserError(f"{folder / name}: is missing; get the bundle again")
            if sha256_file(path) != expected[name]:
                raise UserError(f"{folder / name}: was changed; get the bundle again")
        elif name not in folders or path is None or path.is_symlink():
            raise UserError(f"{folder / name}: is not part of the bundle; remove it")


def _check_figures(where: Path, facts: Row) -> None:
    """Refuse a figure of the guarantee that does not follow from the others."""
    facts = with_unit(facts)
    names = {field.name for field in fields(PrivacyPlan)} - {"reproducible_seed", "neighbouring"}
    plan = PrivacyPlan(**{name: facts[name] for name in names})
    spent = tuple(map(read_spent, facts["spent"]))
    if spent[:1] != (plan.spent(),):
        raise UserError(f"{where}: what was spent is not what the plan says; get the bundle again")
    if facts["noise"] not in ("cryptographic", "reproducible"):
        raise UserError(f"{where}: states noise of an unknown kind; get the bundle again")
    left_out = tuple(map(read_spent, facts["not_charged"]))
    charge = plan.charge((*spent[1:], *left_out))
    if (charge.spent, charge.not_charged) != (spent, left_out):
        raise UserError(f"{where}: does not charge the runs that it lists; get the bundle again")
    if charge.words not in (None, *facts["not_covered"]):
        raise UserError(f"{where}: does not say what is not charged; get the bundle again")
    again = plan.describe() | {
        "noise": facts["noise"],
        "epsilon": charge.cost.epsilon,
        "epsilon_rdp": charge.cost.epsilon_rdp,
        "epsilon_of_all_runs": json_number(charge.of_all.epsilon),
        "accountant": accountant(spent, plan.delta),
        "runs_over_the_same_data": len(spent) + len(left_out),
    }
    for name, value in again.items():
        same = facts[name] == value or (
            isinstance(value, float) and math.isclose(facts[name], value, rel_tol=1e-6)
        )
        if not same:
            stated, here = facts["versions"].get(ACCOUNTANT), version(ACCOUNTANT)
            raise UserError(
                f"{where}: states {name} {facts[name]}; it is {value}; "
                + (
                    "get the bundle again"
                    if stated == here
                    else f"it was made with {ACCOUNTANT} {stated} and this is {here}: verify it "
                    "with that version, or get the bundle again"
                )
            )
