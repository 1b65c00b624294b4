"""Making a bundle, and what its recipient recomputes: `release` and `verify_bundle`.

Promises:
- A bundle holds the accepted pairs, the tuned premium adapter, a dataset card, a report and
  `privacy.json`. All are made from the DP model's output and public facts.
- A bundle appears whole or not at all.
- `verify_bundle` recomputes every statement of a bundle from the facts that it states, and writes
  card and page again. It finds any byte changed and any file added or missing.

Does not: sign. Whoever can write the bundle can seal it again: publish the digest elsewhere.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from privcode.audit.one_run import CONFIDENCE, bound_of
from privcode.errors import UserError
from privcode.files import Row, read_sealed, sha256_tree, write_sealed, write_text
from privcode.plain import files_below, hash_plain, is_plain_name, open_plain, read_plain, shown
from privcode.release.bundle import (
    CARD,
    DATA,
    FACTS,
    MODEL,
    PAGE,
    check_data,
    check_model,
    model_files,
    write_data,
)
from privcode.release.evidence import Evidence
from privcode.release.page import card, guarantee, on_the_makers_word, page
from privcode.release.stated import evidence_of, public, read, stated

FORMAT = 1
"""Format of the bundle: what `privacy.json` states, and the words of card and page.
Any change of these raises it, because `verify` writes them again and compares."""
WITH_HISTOGRAM = 2
"""Format of a bundle whose plan has a histogram. An earlier privcode would account for none."""
ACCOUNTANT = "dp-accounting"
_MOST_RUNS = 1000
_RECOMPUTED = (
    "ε, whom it protects, what is covered and what is not follow from the plan that is stated",
    "the card and the page, words and pictures, are what the facts in privacy.json give",
    "the counts agree: rows, samples, rejected, right guesses",
    "the bundle holds the files that it must and no other; data are text, weights finite numbers",
)
_BOUNDED = "the lower bounds on ε follow from the right guesses that are stated"


def release(
    evidence: Evidence,
    rows: Sequence[Row],
    adapter: Path,
    hashes: Mapping[str, str],
    output: Path,
    *,
    allow_reproducible_noise: bool = False,
    license: str | None = None,
) -> dict[str, Any]:
    """Write the bundle to `output`, verify it, and return its privacy.json.

    Args:
        evidence: public facts of the run.
        rows: accepted pairs {id, prompt, completion}.
        adapter: the tuned premium's folder.
        hashes: name of each of its files -> SHA-256, as the stage that wrote them noted it. Only
            these files are copied.
        output: the folder; a bundle that is already there is replaced.
        allow_reproducible_noise: release although the noise can be drawn again.
        license: of the synthetic data, as the card names it ("apache-2.0").

    Raises:
        UserError: there is no guarantee to state, a file is not what its stage wrote, something
            else is at `output`, or the disk is full.
    """
    evidence = public(evidence)
    facts = statement(evidence, len(rows), license)
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
    if os.path.lexists(output) and (output.is_symlink() or not (output / FACTS).is_file()):
        raise UserError(f"{output}: is there and is not a release; choose another folder")
    model_files(hashes, str(adapter))
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / MODEL).mkdir(parents=True)
        (temporary / DATA).parent.mkdir()
        write_data(temporary / DATA, rows)
        for name, digest in hashes.items():
            _copy(adapter / name, temporary / MODEL / name, digest)
        write_text(temporary / CARD, card(evidence, len(rows), license, facts))
        write_text(temporary / PAGE, page(evidence, facts))
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


def _copy(source: Path, target: Path, digest: str) -> None:
    """Copy a plain file without its mode: safetensors writes files that only their owner can read.

    Raises:
        UserError: what was copied is not what its stage wrote.
    """
    seen = hashlib.sha256()
    with open_plain(source) as file, target.open("xb") as copy:
        while part := file.read(2**20):
            seen.update(part)
            copy.write(part)
    if seen.hexdigest() != digest:
        raise UserError(f"{source}: is not the file that the run wrote; restore it")


def statement(evidence: Evidence, rows: int, license: str | None) -> dict[str, Any]:
    """`privacy.json` of public evidence, without the hashes of the files."""
    return {
        "format": FORMAT if evidence.plan.histogram_noise_multiplier is None else WITH_HISTOGRAM,
        **guarantee(evidence),
        "rows": rows,
        "stated": stated(evidence, license),
        "versions": evidence.versions,
    }


def verify_bundle(folder: Path) -> dict[str, Any]:
    """Recompute everything that a bundle says. Returns its privacy.json.

    Raises:
        UserError: names the first file or figure that does not agree.
    """
    where = folder / FACTS
    facts = read_sealed(where)
    if "format" not in facts:
        raise UserError(
            f"{where}: was made by an earlier privcode, which did not state all that its card and "
            "page say, so that they cannot be checked; have its maker release it again"
        )
    if type(facts["format"]) is not int or facts["format"] not in (FORMAT, WITH_HISTOGRAM):
        made = read(dict[str, str], facts.get("versions"), f"{where}, versions")
        raise UserError(
            f"{where}: is of format {str(facts['format'])[:20]}, and this privcode knows {FORMAT} "
            f"and {WITH_HISTOGRAM}; verify it with "
            f"privcode {shown(Path(made.get('privcode', '?')))[:80]}"
        )
    try:
        _check_files(folder, read(dict[str, str], facts.get("files"), f"{where}, files"))
        evidence, license = evidence_of(facts, str(where))
        _check_sense(where, facts, evidence)
        _check_statement(where, facts, statement(evidence, facts["rows"], license))
        _check_bounds(where, evidence)
        _check_words(folder, facts, evidence, license)
        model = sorted(n.removeprefix(f"{MODEL}/") for n in facts["files"] if n.startswith(MODEL))
        check_model(folder / MODEL, model, evidence.premium)
        check_data(folder / DATA, facts["rows"])
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        raise UserError(f"{where}: is not that of a release; get the bundle again") from None
    except OSError as error:
        raise UserError(f"{shown(folder)}: cannot be read ({error.strerror or error})") from error
    return facts


def attested(folder: Path, facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """In words, what `verify_bundle` recomputed, and what remains its maker's word."""
    evidence, _ = evidence_of(facts, str(folder / FACTS))
    bounded = [_BOUNDED] if facts["epsilon_lower_bounds"] else []
    return {
        "recomputed": [*_RECOMPUTED, *bounded],
        "stated_by_the_maker": on_the_makers_word(evidence),
    }


def _check_files(folder: Path, expected: dict[str, str]) -> None:
    """Refuse links, all but plain files, and files missing, changed or not of a bundle."""
    if bad := [name for name in expected if not is_plain_name(name)]:
        raise UserError(f"{folder / FACTS}: names {shown(Path(bad[0]))[:80]}, which is no file")
    found = set(files_below(folder)) - {FACTS}
    fixed = {CARD, PAGE, DATA}
    for name in sorted(found - set(expected)):
        raise UserError(f"{shown(folder / name)}: is not part of the bundle; remove it")
    for name in sorted((fixed | set(expected)) - found):
        raise UserError(f"{folder / name}: is missing; get the bundle again")
    inside = [name for name in expected if name not in fixed]
    if foreign := [name for name in inside if not name.startswith(f"{MODEL}/")]:
        raise UserError(f"{shown(folder / foreign[0])}: is not part of the bundle; remove it")
    model_files([name.removeprefix(f"{MODEL}/") for name in inside], str(folder / MODEL))
    for path in sorted(folder.rglob("*")):  # plain files and folders by now
        if path.is_dir() and path.relative_to(folder).as_posix() not in (MODEL, "data"):
            raise UserError(f"{shown(path)}: is not part of the bundle; remove it")
    if missing := sorted(fixed - set(expected)):
        raise UserError(f"{folder / FACTS}: does not name {missing[0]}; get the bundle again")
    for name, digest in expected.items():
        if hash_plain(folder / name) != digest:
            raise UserError(f"{folder / name}: was changed; get the bundle again")


def _check_sense(where: Path, facts: Row, evidence: Evidence) -> None:
    """Refuse numbers that no run has, or that contradict each other."""
    plan, filters, rows = evidence.plan, evidence.filters, facts["rows"]
    runs = (plan.spent(), *evidence.spent, *evidence.others)
    sane = all(
        0 < s.sampling_rate <= 1
        and 0.01 <= s.noise_multiplier <= 1e6
        and 0 < s.steps <= 10**8
        and (s.trials is None or 1 <= s.trials <= 1e6)
        and 0.01 <= (s.histogram_noise_multiplier or 1) <= 1e6
        for s in runs
    )
    if not sane or len(runs) > _MOST_RUNS or plan.units > 10**12:
        raise UserError(f"{where}: states a run that cannot be; get the bundle again")
    if evidence.spent != (plan.spent(),):
        raise UserError(f"{where}: what was spent is not what the plan says; get the bundle again")
    if plan.unit == "record" and plan.max_records_per_unit != 1:
        raise UserError(f"{where}: max_records_per_unit is not 1, and the unit is the record")
    if type(rows) is not int or rows != filters["accepted"]:
        raise UserError(f"{where}: rows is not the number of samples accepted")
    if filters["samples"] - filters["accepted"] != sum(filters["reasons"].values()):
        raise UserError(f"{where}: the samples rejected are not those that have a reason")
    if (evidence.sweep is None) != (plan.trials is None):
        raise UserError(f"{where}: says what was tried, or is the best of trials, and not both")
    if plan.histogram_noise_multiplier is not None and evidence.prompts is not None:
        raise UserError(f"{where}: has a histogram of prompts that were written, and names a file")
    rates = [
        {name for name in figures if name.startswith("pass@")}
        for models in evidence.evaluation.values()
        for figures in models.values()
    ]
    audit = evidence.audit or {}
    counts = [list(place["by_repetitions"]) for place in audit.get("places", {}).values()]
    ranked = (audit.get("exposure") or {"models": {}})["models"].values()
    groups = [list(model["by_repetitions"]) for model in ranked]
    for columns in (rates, counts, groups):
        if any(one != columns[0] for one in columns):
            raise UserError(f"{where}: states figures for some models or places and not for others")
    for place in audit.get("places", {}).values():
        for found in place["by_repetitions"].values():
            if found["leaked"] > found["planted"]:
                raise UserError(f"{where}: states more secrets that came out than were planted")
    for model in ranked:
        for group in model["by_repetitions"].values():
            if not group["least"] - 1e-3 <= group["mean"] <= group["most"] + 1e-3:
                raise UserError(f"{where}: states a mean exposure outside of its range")


def _check_statement(where: Path, facts: Row, again: Row) -> None:
    """Refuse a statement that does not follow from the facts, and one that no release has."""
    if unknown := set(facts) - set(again) - {"files", "digest"}:
        raise UserError(f"{where}: states {shown(Path(min(unknown)))[:80]}, which no release does")
    if missing := set(again) - set(facts):
        raise UserError(f"{where}: does not state {min(missing)}; get the bundle again")
    if not isinstance(again["epsilon"], float):
        raise UserError(f"{where}: states no finite ε; get the bundle again")
    for name, value in again.items():
        if not _agree(facts.get(name), value):
            raise UserError(_differs(where, facts, name, value))


def _differs(where: Path, facts: Row, name: str, value: Any) -> str:
    told, here = facts["versions"].get(ACCOUNTANT), version(ACCOUNTANT)
    remedy = "get the bundle again"
    if told != here:
        remedy = (
            f"it was made with {ACCOUNTANT} {told} and this is {here}: verify it with that "
            f"version, or {remedy}"
        )
    if isinstance(value, int | float) and type(facts.get(name)) in (int, float, str):
        return f"{where}: states {name} {str(facts[name])[:40]}; it is {value}; {remedy}"
    return f"{where}: what it states as {name} does not follow from the rest; {remedy}"


def _agree(said: Any, value: Any) -> bool:
    """Whether two JSON values are the same, figures of an accountant to one in a million."""
    if isinstance(value, Mapping):
        same = isinstance(said, Mapping) and set(said) == set(value)
        return same and all(_agree(said[name], value[name]) for name in value)
    if isinstance(value, list | tuple):
        same = isinstance(said, list | tuple) and len(said) == len(value)
        return same and all(map(_agree, said, value))
    if type(value) is float and type(said) in (int, float):
        return math.isclose(said, value, rel_tol=1e-6)
    return type(said) is type(value) and bool(said == value)


def _check_bounds(where: Path, evidence: Evidence) -> None:
    """Refuse a lower bound that does not follow from its counts, or that is above ε."""
    bounds: dict[str, Any] = (evidence.audit or {}).get("one_run", {})
    own = evidence.plan.cost().epsilon
    for place, told in bounds.items():
        guesses, right, canaries = told["guesses"], told["right"], told["canaries"]
        possible = len(guesses) == len(right) == len(set(guesses)) and all(
            r <= n <= canaries for n, r in zip(guesses, right, strict=True)
        )
        if not possible or told["confidence"] != CONFIDENCE:
            raise UserError(f"{where}: the guesses of the audit ({place}) cannot be")
        found = bound_of(canaries, guesses, right, evidence.plan)
        for name in ("epsilon", "epsilon_same_shape"):
            value, said = getattr(found, name), told[name]
            if value is None or said is None or not math.isclose(value, said, abs_tol=2e-3):
                raise UserError(
                    f"{where}: the lower bound on ε ({place}) is not what its counts give"
                )
            if value > own:
                raise UserError(
                    f"{where}: the audit ({place}) found an ε of at least {value:.4g}, above the "
                    f"{own:.4g} that is claimed: do not publish or trust this; run privcode doctor"
                )


def _check_words(folder: Path, facts: Row, evidence: Evidence, license: str | None) -> None:
    """Refuse a card or a page that does not say what the facts say."""
    words = {
        CARD: card(evidence, facts["rows"], license, facts),
        PAGE: page(evidence, facts),
    }
    for name, text in words.items():
        if read_plain(folder / name) != text.encode():
            made, here = facts["versions"]["privcode"], version("privcode")
            remedy = "get the bundle again"
            if made != here:
                remedy = f"it was made with privcode {made} and this is {here}: verify it with that"
            raise UserError(f"{folder / name}: does not say what {FACTS} states; {remedy}")
