"""The public facts of a run as `privacy.json` holds them: what its maker states.

Promises:
- Every fact that the card and the page show is in it, in one form only.
- `evidence_of` reads back what `public` and `stated` wrote and nothing else.
- Every name is one line of printable text. Every number is finite and in its range.

Does not: compute a guarantee, or believe one.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from privcode.errors import UserError
from privcode.models import public_name
from privcode.privacy.accounting import Spent
from privcode.privacy.plan import PrivacyPlan
from privcode.release.evidence import Evidence

LONGEST = 200
"""The most characters of a name."""
_RATE = re.compile(r"pass@[1-9][0-9]{0,5}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!_-]{0,63}")
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
NEEDED_VERSIONS = ("privcode", "dp-accounting", "python")


def _name(text: str) -> str:
    if not 0 < len(text) <= LONGEST or not text.isprintable() or text != " ".join(text.split()):
        raise ValueError(f"must be one line of 1 to {LONGEST} printable characters")
    return text


def _version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise ValueError("is no version")
    return text


Name = Annotated[str, AfterValidator(_name)]
Version = Annotated[str, AfterValidator(_version)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Times = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
Bits = Annotated[float, Field(ge=-1e4, le=1e4)]


class _Facts(BaseModel):
    """A mapping with known names. Other entries are ignored."""

    model_config = _STRICT


class RoundTrip(_Facts):
    """The round-trip filter."""

    method: Name
    threshold: Annotated[float, Field(ge=-1e9, le=1e9)]


class Filters(_Facts):
    """From samples to rows."""

    samples: Count
    accepted: Count
    reasons: dict[Name, Count]
    execution: bool
    round_trip: RoundTrip
    surest: Annotated[float, Field(ge=0, le=1)]
    others: list[Name] = []


class Leaks(_Facts):
    """Secrets planted and found."""

    planted: Count
    leaked: Count


class Place(_Facts):
    """Secrets found in one place, by how often each was planted."""

    by_repetitions: dict[Times, Leaks]


class Group(_Facts):
    """Exposure of the canaries that were planted equally often."""

    mean: Bits
    least: Bits
    most: Bits
    extrapolated: Bits | None


class Ranked(_Facts):
    """Exposure under one model."""

    by_repetitions: Annotated[dict[Times, Group], Field(min_length=1)]


class Exposure(_Facts):
    """Exposure under all models."""

    candidates: Annotated[int, Field(ge=1, le=10**12)]
    models: Annotated[dict[Name, Ranked], Field(min_length=1)]


class Planted(_Facts):
    """What came of the planted secrets."""

    samples_per_prompt: Count
    places: Annotated[dict[Name, Place], Field(min_length=1)]
    exposure: Exposure | None


class Score(_Facts):
    """The task and the model whose score a sweep compares."""

    task: Name
    model: Name


Value = Name | bool | int | float | None


class Sweep(_Facts):
    """What a sweep tried."""

    settings: Annotated[dict[Name, list[Value | list[Value]]], Field(min_length=1)]
    score: Score


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """pass@k, the number of tasks and the errors. Other entries of an evaluation are dropped."""
    kept = {name: found[name] for name in found if _RATE.fullmatch(name)}
    _Rates.validate_python(kept, strict=True)
    return kept | _Tasks.model_validate(found).model_dump()


class _Tasks(_Facts):
    tasks: Annotated[int, Field(ge=1, le=10**9)]
    errors: dict[Name, Count]


_Rates = TypeAdapter(
    Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)], config=_STRICT
)
Figures = Annotated[dict[str, Any], AfterValidator(_figures)]
Evaluation = dict[Name, Annotated[dict[Name, Figures], Field(min_length=1)]]


class Stated(_Facts):
    """What nobody but the maker can know."""

    title: Name
    prompts: Name | None
    junior: Name
    premium: Name
    license: Name | None
    filters: Filters
    evaluation: Evaluation
    planted: Planted | None


class LowerBound(_Facts):
    """The counts of an audit with coins (see `audit.one_run.Bound`), and what follows from them."""

    canaries: Annotated[int, Field(ge=1, le=100_000)]
    guesses: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=20)]
    right: list[Count]
    epsilon: Annotated[float, Field(ge=0)]
    epsilon_same_shape: Annotated[float, Field(ge=0)] | None
    confidence: float


_reader = cache(TypeAdapter[Any])


def read(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, if it is of `kind`. A mapping with known names keeps only those.

    Raises:
        UserError: begins with `where` and names the field that is wrong.
    """
    return _reader(kind).dump_python(_read(kind, value, where), exclude_unset=True)


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as `kind`.

    Raises:
        UserError: begins with `where` and names the field that is wrong.
    """
    try:
        return _reader(kind).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = "".join(f".{part}" for part in first["loc"] if str(part).isprintable())[:100]
        reason = first["msg"].removeprefix("Value error, ")[:120]
        raise UserError(f"{where}{field}: {reason}; restore it") from None
    except (ValueError, RecursionError, TypeError):
        raise UserError(f"{where}: is no JSON; restore it") from None


def public(evidence: Evidence, where: str = "the run") -> Evidence:
    """`evidence` as it may be published: names without places on the owner's machine.

    Text becomes one printable line of at most `LONGEST` characters. Figures that no reader is
    shown are left out.

    Raises:
        UserError: a figure is missing or makes no sense; begins with `where`.
    """
    audit = evidence.audit or {}
    planted = {"exposure": None} | audit if "places" in audit else None
    bounds = clean(audit.get("one_run", {}), where)
    held: dict[str, Any] = {}
    if planted:
        held |= read(Planted, clean(planted, where), f"{where}, audit")
    if bounds:
        held["one_run"] = read(dict[Name, LowerBound], bounds, f"{where}, audit, one_run")
    sweep = evidence.sweep and read(Sweep, clean(evidence.sweep, where), f"{where}, sweep")
    return replace(
        evidence,
        title=_cleaned(evidence.title),
        prompts=evidence.prompts and _cleaned(Path(evidence.prompts).name),
        junior=_cleaned(public_name(evidence.junior)),
        premium=_cleaned(public_name(evidence.premium)),
        filters=_read_filters(clean(evidence.filters, where), where),
        evaluation=read(Evaluation, clean(evidence.evaluation, where), f"{where}, evaluation"),
        audit=held or None,
        sweep=sweep,
    )


def checked_audit(audit: dict[str, Any], where: str) -> dict[str, Any]:
    """An audit as its stage wrote it, if it has all that a reader is shown.

    Raises:
        UserError: begins with `where`.
    """
    if "places" in audit:
        read(Planted, {"exposure": None} | audit, where)
        if "anywhere" not in audit["places"] or "leaked" not in audit["places"]["anywhere"]:
            raise UserError(f"{where}: does not say what came out anywhere; restore it")
        read(Leaks, audit["places"]["anywhere"], where)
    read(dict[Name, LowerBound], audit.get("one_run", {}), f"{where}, one_run")
    return audit


class _Unfinished(_Facts):
    """The filters of a run that validates nothing, or has not validated yet."""

    execution: bool
    round_trip: RoundTrip
    surest: float
    others: list[Name] = []


def _read_filters(filters: Any, where: str) -> dict[str, Any]:
    kind = Filters if isinstance(filters, dict) and "samples" in filters else _Unfinished
    found: dict[str, Any] = read(kind, filters, f"{where}, filters")
    return found


def clean(value: Any, where: str) -> Any:
    """`value` with every text in it as one printable line. Counts with the same name are added.

    Raises:
        UserError: two things that are not counts have the same name.
    """
    if isinstance(value, str):
        return _cleaned(value)
    if isinstance(value, list | tuple):
        return [clean(entry, where) for entry in value]
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for key, entry in value.items():
        name, one = _cleaned(str(key)), clean(entry, where)
        if name not in found:
            found[name] = one
        elif type(one) is int and type(found[name]) is int:
            found[name] += one
        else:
            raise UserError(f"{where}: two figures have the name {name}; rename one")
    return found


def _cleaned(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text[: LONGEST - 1].rstrip() + "…" if len(text) > LONGEST else text or "–"


def stated(evidence: Evidence, license: str | None) -> dict[str, Any]:
    """What the maker states about public evidence, as JSON: a `Stated`."""
    audit = evidence.audit or {}
    return {
        "title": evidence.title,
        "prompts": evidence.prompts,
        "junior": evidence.junior,
        "premium": evidence.premium,
        "license": license and _cleaned(license),
        "filters": evidence.filters,
        "evaluation": evidence.evaluation,
        "planted": {k: v for k, v in audit.items() if k != "one_run"} or None,
    }


def evidence_of(facts: Mapping[str, Any], where: str) -> tuple[Evidence, str | None]:
    """The evidence that a `privacy.json` states, and the licence.

    Raises:
        UserError: a fact is missing or not of its kind; begins with `where`.
    """
    later = {"histogram_noise_multiplier"} - set(facts)  # only the plans with a histogram state it
    names = {field.name for field in fields(PrivacyPlan)} - {"reproducible_seed"} - later
    if missing := names - set(facts):
        raise UserError(f"{where}: does not state {min(missing)}; get the bundle again")
    noise = read(Literal["cryptographic", "reproducible"], facts.get("noise"), f"{where}, noise")
    seed = 0 if noise == "reproducible" else None  # the seed itself is not published
    values = {name: facts[name] for name in names} | {"reproducible_seed": seed}
    plan = _read(PrivacyPlan, values, where)
    spent = _read(list[Spent], facts.get("spent"), f"{where}, spent")
    left_out = _read(list[Spent], facts.get("not_charged"), f"{where}, not_charged")
    told = read(Stated, facts.get("stated"), f"{where}, stated")
    bounds = read(
        dict[Name, LowerBound], facts.get("epsilon_lower_bounds"), f"{where}, epsilon_lower_bounds"
    )
    versions = read(dict[Name, Version], facts.get("versions"), f"{where}, versions")
    if missing := set(NEEDED_VERSIONS) - set(versions):
        raise UserError(f"{where}: does not state the version of {min(missing)}")
    audit: dict[str, Any] = dict(told["planted"] or {})
    evidence = Evidence(
        title=told["title"],
        plan=plan,
        spent=tuple(spent[:1]),
        others=(*spent[1:], *left_out),
        prompts=told["prompts"],
        junior=told["junior"],
        premium=told["premium"],
        filters=dict(told["filters"]),
        evaluation=told["evaluation"],
        audit=(audit | ({"one_run": bounds} if bounds else {})) or None,
        versions=versions,
        sweep=None
        if facts.get("sweep") is None
        else read(Sweep, facts["sweep"], f"{where}, sweep"),
        public=read(bool, facts.get("data_declared_public"), f"{where}, data_declared_public"),
    )
    return evidence, told["license"]
