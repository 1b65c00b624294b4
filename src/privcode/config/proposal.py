"""`privcode init DATA`: a commented config for a private data set, and what its owner should know.

Promises:
- The config names every setting, with its default and the description in its `settings.py`.
- The config loads once nothing in it says CHANGE_ME.
- The config is published. So it takes from the data only what its comments name, and as coarsely as
  they say: the columns that most rows have, the language of nine in ten sampled rows, and the
  number of units. This number is rounded down (`rounded_down`) unless the owner types it.
- The config contains no length, and nothing that one record decides alone.

Does not:
- Decide. The owner decides whether prompts are public, who the unit is, which rows may be skipped
  and which models to use.

The figures in `summary` are private: they are for the owner's terminal alone.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import ROUND_DOWN, Context
from pathlib import Path
from typing import Any

import privcode.models
from privcode.config import Config, not_public, plan_from
from privcode.config.commented import CHANGE_ME, default_of, lines_of, on_one_line
from privcode.console import epsilon_text
from privcode.data.prompts import how_many, read_prompts
from privcode.data.repeats import Repeats
from privcode.data.rows import located
from privcode.data.survey import Findings, Lengths
from privcode.errors import UserError
from privcode.languages import languages
from privcode.models.settings import Model
from privcode.models.templates import CHAT, FIM
from privcode.privacy.accounting import GROUP_CEILING
from privcode.privacy.plan import PrivacyPlan
from privcode.privacy.settings import Privacy
from privcode.scoring import load_tasks
from privcode.syntax import GAP

_MAIN_SHARE = 0.9  # share of the sampled rows that makes one language the language of the data
_BATCHES = 4  # for small data: no batch above a quarter, or sampling amplifies nothing
_RECORDS_PER_OWNER = 10
_CHARS_PER_TOKEN = 2  # a cautious figure: larger models' tokenizers put 3 or 4 into one
_FEW_UNITS = 1000  # with fewer units, any rounding still says much about them
_SHOWN = 8
_WRITTEN = 4000  # prompts to write; the paper has some 55,000

_HEADER = f"""\
# The settings of one privcode run. {CHANGE_ME} stands where only you can decide. A setting after
# a "#" has its default, which is none. Relative file names start from this file's folder.
# This file is published with a run. From the private data come column names, a language and the
# number of units, each only as its comment says.
# `privcode plan FILE` shows what this promises. `privcode run FILE` runs it."""
_TOY = "A toy that comes with privcode, to try the pipeline with; the paper's {} is {}."
_NOTES = {
    "data.columns": "Guessed from the column names in at least half of the rows: check.",
    "privacy.delta": "From units: 1/(10·units), rounded down.",
    "privacy.batch": "From units: a quarter of them, at most 256.",
    "prompts.source": "public: a file of prompts that you state to be public; no guarantee covers "
    "it.\nsynthesised: no file; the junior learns to write prompts like yours, under the guarantee "
    "that\nholds for the code. described: no file; your prompts are not read, and a public model "
    "words\nwhat each synthetic program does.",
}
_PAPER = {"junior": "Qwen/Qwen2.5-Coder-1.5B", "premium": "Qwen/Qwen2.5-Coder-7B"}
_LANGUAGE = "Guessed: nine in ten rows of a sample of the code are in this language. Check."
_LANGUAGES = "All that privcode knows, because a column names the language. Others are left out."
_TYPED = "As you typed it. Published."
_ROUNDED = (
    "From the count of the data, rounded down to 1, 2 or 5 times a power of ten. Published; "
    "init --units N sets your own number."
)
_TOO_FEW = (
    f"Type a number that you are willing to publish, at most the true one. With fewer than "
    f"{_FEW_UNITS:,} units, privcode takes no number from the data."
)


def rounded_down(count: int) -> int | None:
    """The largest of 1,000, 2,000, 5,000, 10,000, … up to `count`. None if there is none.

    The owner publishes which of these steps the count has passed. There are three steps in a factor
    of ten. One unit more or less changes the result only for a count exactly at a step.
    """
    if count < _FEW_UNITS:
        return None
    power: int = 10 ** (len(str(count)) - 1)
    return next(step * power for step in (5, 2, 1) if step * power <= count)


def declared(findings: Findings, units: int | None = None) -> int | None:
    """The number of units to declare: `units` as the owner typed it, else the rounded count."""
    return units or rounded_down(_counted(findings))


def draft(
    findings: Findings,
    source: str,
    out: Path,
    *,
    units: int | None = None,
    prompts: Path | None = None,
    tasks: Sequence[Path] = (),
    models: tuple[str, str] = ("bundled:junior", "bundled:premium"),
) -> str:
    """A commented YAML config for `source`, to be written to `out`.

    Args:
        findings: the result of `data.survey.look` on `source`. `findings.guess.unit` is the unit.
        source: the private data, as `rows.read_rows` takes it.
        out: where the config will be written. File names in it are valid from there.
        units: the number of units, as the owner declares it. Default: see `rounded_down`.
        prompts: file of prompts that the owner states to be public. Without it the junior is to
            write them. If it fills gaps, the config does not load until the owner has named one.
        tasks: files of tasks in a benchmark's format.
        models: junior and premium. A chat is proposed for a model whose tokenizer has a chat
            template. If the prompts have gaps, the models are to fill them.

    Raises:
        UserError: no row is usable; prompts, tasks or a tokenizer cannot be read; the unit is no
            such column; or `units` is below 1.
    """
    if units is not None and units < 1:
        raise UserError(f"--units: is {units}; declare at least 1")
    folder = out.parent.resolve()
    unit = findings.guess.unit
    if not _counted(findings):
        reasons = ", ".join(findings.unusable) or "no owner is named"
        raise UserError(f"{source}: no row is usable ({reasons}); fix the data or name columns")
    number = declared(findings, units)
    values = {
        "data": {
            "source": _reach(source, folder),
            "columns": asdict(findings.guess),
            "language": _main_language(findings),
            "languages": list(languages()) if findings.guess.language else None,
        },
        "privacy": _privacy(unit, number),
    }
    gaps = findings.guess.suffix is not None
    if prompts:
        if why := not_public(str(prompts), source):
            raise UserError(f"{prompts}: {why}")
        gaps |= any(GAP in prompt for prompt in read_prompts(str(prompts)))
        values["prompts"] = {"source": "public", "file": _reach(str(prompts), folder)}
    elif gaps:  # only public code has gaps that may be published
        values["prompts"] = {"source": CHANGE_ME, "file": CHANGE_ME}
    else:
        values["prompts"] = {"source": "synthesised", "limit": _WRITTEN}
    for role, name in zip(("junior", "premium"), models, strict=True):
        values[role] = {"model": _reach(name, folder)} | _template(name, gaps)
    mode = {"mode": "complete"} if gaps else {}
    if tasks:
        values["evaluate"] = {"tasks": [_task(path, folder) | mode for path in tasks]}
    if gaps:
        values["validate"] = {"round_trip": {"method": "off"}}
    notes = _NOTES | {"privacy.units": _TYPED if units else _ROUNDED if number else _TOO_FEW}
    for role, name in zip(("junior", "premium"), models, strict=True):
        if name.startswith("bundled:"):
            notes[f"{role}.model"] = _TOY.format(role, _PAPER[role])
    if values["data"]["language"]:
        notes["data.language"] = _LANGUAGE
    if values["data"]["languages"]:
        notes["data.languages"] = _LANGUAGES
    if findings.unit_columns and not unit:
        names = " or ".join(on_one_line(column.name) for column in findings.unit_columns)
        notes["data.columns.unit"] = (
            f"Perhaps {names}: then change privacy's unit, units and delta."
        )
    lines = (
        f"{text.ljust(38)}  # {comment}" if comment else text
        for text, comment in lines_of(Config, values, "", notes)
    )
    return "\n".join([_HEADER, *lines, ""])


def proposed_plan(findings: Findings, units: int | None = None) -> PrivacyPlan:
    """The plan of the config that `draft` writes. If that names no number, a private plan."""
    number = declared(findings, units) or _counted(findings)
    return plan_from(Privacy(**_privacy(findings.guess.unit, number)), findings.guess.unit)


def _privacy(unit: str | None, units: int | None) -> dict[str, Any]:
    """The section privacy, from the declared number of units alone."""
    derived: dict[str, Any] = dict.fromkeys(("units", "delta", "batch"), CHANGE_ME)
    if units:
        derived = {
            "units": units,
            "delta": float(Context(prec=2, rounding=ROUND_DOWN).divide(1, 10 * units)),
            "batch": min(default_of(Privacy.model_fields["batch"]), max(units // _BATCHES, 1)),
        }
    return derived | {
        "unit": "column" if unit else "record",
        "max_records_per_unit": _RECORDS_PER_OWNER if unit else 1,
    }


def summary(findings: Findings, plan: PrivacyPlan, prompts: Path | None = None) -> str:
    """What the owner should know about the data, for a console. All its figures are private.

    Args:
        findings: the result of `data.survey.look`.
        plan: the proposed plan.
        prompts: the file of prompts, if there is one.
    """
    guess = findings.guess
    roles = {
        "prompt": guess.prompt,
        "suffix": guess.suffix,
        "input": guess.input,
        "code": guess.code,
    }
    columns = ", ".join(f"{role}: {name}" for role, name in roles.items() if name)
    looked = sum(findings.languages.values())
    how = "column " + str(guess.language) if guess.language else f"guessed from {looked} rows"
    owners = (
        f"column {column.name}: {column.distinct:,} values, the most frequent in "
        f"{column.max_rows:,} rows"
        + (f", several owners in {column.several:,} rows" if column.several else "")
        for column in findings.unit_columns
    )
    rows = [
        ("rows", f"{findings.rows:,}, of which {findings.usable:,} usable"),
        ("not usable", _counts(findings.unusable)),
        ("columns", columns),
        ("not used", ", ".join(findings.unused) or "no other column has text"),
        ("languages", f"{_counts(findings.languages)} ({how})"),
        ("prompts", _lengths(findings.prompt_chars)),
        ("code", _lengths(findings.code_chars)),
        (
            "duplicates",
            f"{findings.repeats.exact:,} exact, {findings.repeats.near:,} near",
        ),
        ("secrets", f"rows with {_counts(findings.secrets)}" if findings.secrets else "none"),
        ("owners", "; ".join(owners) or "no column looks like one"),
        ("units", f"{_counted(findings):,} {'owners' if guess.unit else 'records'}"),
    ]
    if prompts:
        rows.append(("prompt file", how_many(str(prompts))))
    text = [f"{name.ljust(12)}{value}" for name, value in rows]
    text += [f"! {warning}" for warning in _warnings(findings)]
    text += [f"! {warning}" for warning in shared(findings.repeats, plan)]
    text += [KEEP]
    return "\n".join(map(_printable, text))


KEEP = "These figures were not computed under the guarantee: keep them to yourself."


def shared(repeats: Repeats, plan: PrivacyPlan) -> Iterator[str]:
    """What several units' records share, with the ε that it really has under `plan`: private.

    Without noise nothing is promised to anyone, and nothing is said.
    """
    one = plan.cost().epsilon
    if math.isinf(one):
        return
    owners = "records" if plan.unit == "record" else "owners"
    widest = {f"the same {kind}": units for kind, units in repeats.widest_secret.items()}
    widest["the same code, up to names and literals,"] = repeats.widest_code
    found = sorted((item for item in widest.items() if item[1] > 1), key=lambda item: -item[1])
    alone = epsilon_text(one, 3)
    for what, units in found:
        epsilon = epsilon_words(plan.group_epsilon(units))
        yield f"{what} occurs in {units:,} {owners}: protected at ε = {epsilon}, not {alone}"
    if found:
        yield "remove from the data what must not be learned at all"


def epsilon_words(epsilon: float) -> str:
    """ε of a group, as people read it."""
    return f"more than {GROUP_CEILING:.0f}" if math.isinf(epsilon) else epsilon_text(epsilon, 3)


def _warnings(findings: Findings) -> Iterator[str]:
    if findings.unusable:
        yield (
            "some rows are not usable, and a run refuses them: fix them, or set data.on_bad_row: "
            "skip"
        )
    if findings.alike:
        yield findings.alike
    for column in findings.unit_columns:
        if column.several:
            yield (
                f"column {column.name} names several owners in {column.several:,} rows: if it is "
                "the unit, a run refuses them, or leaves them out with data.on_bad_row: skip"
            )
    if unsupported := _unsupported(findings):
        yield f"rows in other languages are left out (data.languages): {_counts(unsupported)}"
    if not findings.guess.language and not _main_language(findings):
        yield (
            "no column names the language, and there are several: set data.language or "
            "data.contains, or the syntax term skips code whose fence names no language"
        )
    for column in findings.unit_columns if not findings.guess.unit else ():
        yield (
            f"column {column.name} may name an owner: --unit {column.name} protects all records "
            f"of each of {column.distinct:,} owners"
        )
    longest = (findings.prompt_chars.p90 + findings.code_chars.p90) // _CHARS_PER_TOKEN
    if longest > (context := default_of(Model.model_fields["max_tokens"])):
        yield (
            f"more than one record in ten may be longer than max_tokens, {context:,}, and is cut "
            "there: raise it if the models allow more"
        )
    if _counted(findings) < _FEW_UNITS:
        yield f"fewer than {_FEW_UNITS:,} units: under a small ε the model will learn little"


def _counts(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{name} {count:,}" for name, count in ranked[:_SHOWN]]
    more = [f"{len(ranked) - _SHOWN} more kinds"] if len(ranked) > _SHOWN else []
    return ", ".join(shown + more) or "none"


def _lengths(lengths: Lengths) -> str:
    median, p90, longest = f"{lengths.median:,}", f"{lengths.p90:,}", f"{lengths.max:,}"
    return f"median {median} characters, 90 % up to {p90}, longest {longest}"


def _printable(text: str) -> str:
    """Text without control characters: names from the data may contain terminal commands."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _main_language(findings: Findings) -> str | None:
    """The language of nearly all sampled rows, if no column names the language."""
    if findings.languages_from == "column" or not findings.languages:
        return None
    name, rows = max(findings.languages.items(), key=lambda item: item[1])
    enough = rows >= _MAIN_SHARE * sum(findings.languages.values())
    return name if enough and name in languages() else None


def _unsupported(findings: Findings) -> dict[str, int]:
    """Rows by language, for languages that a column names and privcode does not know."""
    if findings.languages_from != "column":
        return {}
    return {name: n for name, n in findings.languages.items() if name not in languages()}


def _counted(findings: Findings) -> int:
    """How many units there are, by the unit of `findings.guess`: private."""
    unit = findings.guess.unit
    if unit is None:
        return findings.usable - sum(_unsupported(findings).values())
    known = {column.name: column.distinct for column in findings.unit_columns}
    if unit not in known:
        raise UserError(
            f"unit {unit}: not among the {len(known)} columns that name owners; choose one that "
            "has text, a number or a list of one in some row"
        )
    return known[unit]


def _template(model: str, gaps: bool) -> dict[str, str]:
    """The template to propose for a model, if not the default."""
    if gaps:
        return {"template": FIM}
    # `privcode.models` loads transformers when a name is used.
    if model.startswith("bundled:") or not privcode.models.load_tokenizer(model).chat_template:
        return {}
    return {"template": CHAT}


def _task(path: Path, folder: Path) -> dict[str, str]:
    load_tasks(path)
    return {"name": path.name.partition(".")[0], "file": _reach(str(path), folder)}


def _reach(name: str, folder: Path) -> str:
    """`name` as a config in `folder` finds it: relative if it is near. Hub names are unchanged."""
    path = Path(name)
    if not path.exists():
        return located(name, Path.cwd())  # a pattern, or a folder with a split
    target = path.parent.resolve() / path.name  # a link keeps its name, which tells its format
    for near in (folder, folder.parent):
        if near.name and target.is_relative_to(near):
            return os.path.relpath(target, folder)
    return str(target)
