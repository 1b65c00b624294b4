"""The tables of a comparison: all figures, what was synthesised, what leaked by place.

Promises:
- They are made from results.json and the published rows alone.
- A cell is one line of printable text. What is not known is "–".
- A table with nothing to show has no rows.

Does not: lay anything out (`page` does).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privcode.audit.exposure import CHANCE
from privcode.experiments.measures import COPIED, SAMPLE

Row = Mapping[str, Any]


def number(epsilon: Any) -> float | None:
    """ε in results.json or in YAML, as a number ("inf" is ∞)."""
    return None if epsilon is None else float(epsilon)


def epsilon_text(epsilon: Any) -> str:
    """ε as people read it."""
    value = number(epsilon)
    return "–" if value is None else "∞" if math.isinf(value) else f"{value:g}"


def value_text(value: Any) -> str:
    """A value of a grid. For a path it is only the last part."""
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value
    return json.dumps(value, ensure_ascii=False, default=str)


def grid_text(grid: Row) -> str:
    """Values of a grid in words."""
    return ", ".join(f"{field} {value_text(value)}" for field, value in grid.items())


def cells(facts: Row, published: Sequence[Row] = ()) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table.

    A published row belongs to our row with the same method, ε and values of the grid. If there is
    none, the published row gets its own row, where our figures are "–".

    Args:
        facts: results.json.
        published: `compare.published`. Its figures are shown as they are given.
    """
    lines = _lines(facts["table"], published)
    grid = list(dict.fromkeys(field for line in lines for field in line["grid"]))
    ours = dict.fromkeys(task for row in facts["table"] for task in row["tasks"])
    theirs = dict.fromkeys(task for line in lines for task in line["published"])
    counts = sorted({count for row in facts["table"] for count in row["leaks"]}, key=int)
    head = ["method", "ε", *grid, "seeds"]
    for task in ours | theirs:
        head += [f"pass@1 {task}", *([f"published {task}"] if task in theirs else [])]
    timed = any(row["seconds"] for row in facts["table"])
    head += ["junior", "parse rate", "kept", *(f"leaked ×{count}" for count in counts)]
    head += ["seconds"] if timed else []
    body = []
    for line in lines:
        row = line["ours"] or {"tasks": {}, "leaks": {}}
        body.append([line["method"], epsilon_text(line["epsilon"])])
        body[-1] += [
            value_text(line["grid"][field]) if field in line["grid"] else "–" for field in grid
        ]
        body[-1].append(str(row.get("seeds", "–")))
        for task in ours | theirs:
            body[-1].append(_interval(row["tasks"].get(task), ".3f"))
            body[-1] += [str(line["published"].get(task, "–"))] if task in theirs else []
        body[-1] += [_interval(row.get(name), ".3f") for name in ("junior", "parse_rate")]
        body[-1].append(_interval(row.get("kept"), ".0f"))
        body[-1] += [leaked_text(row["leaks"].get(count)) for count in counts]
        body[-1] += [_interval(row.get("seconds"), ".0f")] if timed else []
    return [plain(cell) for cell in head], [[plain(cell) for cell in line] for line in body]


def _lines(table: Sequence[Row], published: Sequence[Row]) -> list[dict[str, Any]]:
    """{method, epsilon, grid, ours, published}: our rows and the published ones, joined."""
    tasks = {task for row in table for task in row["tasks"]}
    fields = {field for row in table for field in row["grid"]}
    lines: list[dict[str, Any]] = [
        {
            "method": row["method"],
            "epsilon": number(row["epsilon"]),
            "grid": row["grid"],
            "ours": row,
            "published": {},
        }
        for row in table
    ]
    for figures in published:
        rest = {name: v for name, v in figures.items() if name not in ("method", "epsilon")}
        # Without a row of ours, a dotted name is taken for a field and not for a task.
        grid = {n: v for n, v in rest.items() if n in fields or ("." in n and n not in tasks)}
        key: dict[str, Any] = {
            "method": str(figures.get("method", "–")),
            "epsilon": number(figures.get("epsilon")),
            "grid": grid,
        }
        line = next((one for one in lines if key.items() <= one.items()), None)
        if line is None:
            line = key | {"ours": None, "published": {}}
            lines.append(line)
        line["published"] |= {name: v for name, v in rest.items() if name not in grid}
    return _in_order(lines)


def _in_order(rows: Sequence[Row]) -> list[Any]:
    """Rows with the same values of the grid and the same method together, by ascending ε."""
    grids, methods = [row["grid"] for row in rows], [row["method"] for row in rows]
    return sorted(
        rows,
        key=lambda row: (
            grids.index(row["grid"]),
            methods.index(row["method"]),
            number(row["epsilon"]) or 0.0,
        ),
    )


def _interval(value: Row | None, form: str) -> str:
    if value is None:
        return "–"
    half = "" if value["half"] is None else f" ± {value['half']:{form}}"
    return f"{value['mean']:{form}}{half}"


def plain(text: str) -> str:
    """`text` as one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


_SYNTHESISED = {
    "pairs": ("pairs", ".0f"),
    "distinct prompts": ("distinct prompts", ".3f"),
    "distinct programs": ("distinct programs", ".3f"),
    "distinct-2 prompts": ("distinct-2 prompts", ".3f"),
    "distinct-2 programs": ("distinct-2 programs", ".3f"),
    "likeness of prompts": ("likeness prompts", ".2f"),
    "likeness of programs": ("likeness programs", ".2f"),
    "operations": ("operations", ".2f"),
    "wordings": ("wordings", ".2f"),
    "prompts told from public": ("told from public", ".2f"),
    "prompts told from private": ("told from private", ".2f"),
    "copied prompts": ("copied prompts", ".3f"),
    "copied programs": ("copied programs", ".3f"),
    "copied parts of prompts": ("parts of prompts", ".3f"),
    "copied parts of programs": ("parts of programs", ".3f"),
}
"""Figures of the synthetic pairs that are shown: name in results.json -> its column, its form."""


def synthesised_table(facts: Row) -> tuple[list[str], list[list[str]]]:
    """Head and body of what was synthesised: one row a method, ε and grid that made pairs."""
    rows = [row for row in _in_order(facts["table"]) if row.get("synthesised")]
    if not rows:
        return [], []
    names = [name for name in _SYNTHESISED if any(name in row["synthesised"] for row in rows)]
    grid = list(dict.fromkeys(field for row in rows for field in row["grid"]))
    head = ["method", "ε", *grid, *(_SYNTHESISED[name][0] for name in names)]
    body = []
    for row in rows:
        line = [row["method"], epsilon_text(row["epsilon"])]
        line += [value_text(row["grid"][field]) if field in row["grid"] else "–" for field in grid]
        for name in names:
            line.append(_interval(row["synthesised"].get(name), _SYNTHESISED[name][1]))
            low, high = (row["synthesised"].get(f"{name} {end}") for end in ("low", "high"))
            if row["seeds"] == 1 and low and high:
                line[-1] += f" ({low['mean']:.2f} to {high['mean']:.2f})"
        body.append([plain(cell) for cell in line])
    return [plain(cell) for cell in head], body


def synthesised_note(facts: Row) -> str:
    """What the columns of what was synthesised are, for those that are there."""
    known = {name for row in facts["table"] for name in row.get("synthesised", ())}
    parts = [
        (
            "pairs",
            "Of the pairs that passed the filters. distinct: different ones as a share of all",
        ),
        (
            "distinct-2 prompts",
            f"distinct-2: different pairs of tokens as a share of all, in {SAMPLE}",
        ),
        ("likeness of prompts", "likeness: mean Jaccard index of a text and the one most like it"),
        ("operations", "operations, wordings: share of those of the exercise world that occur"),
        (
            "prompts told from public",
            "told from public: accuracy of a classifier that tells the prompts from public ones "
            "that were not used; 0.5: it cannot",
        ),
        ("prompts told from private", "told from private: the same against the private prompts"),
        ("copied prompts", "copied: share that is in the private records word for word"),
        ("copied parts of prompts", f"parts: share with {COPIED} tokens in a row from one"),
    ]
    note = "; ".join(words for name, words in parts if name in known) + "."
    if own := [
        f"{word} {found}" for word, name in _OF_RECORDS.items() if (found := _first(facts, name))
    ]:
        note += f" Of private records, compared with the others: {', '.join(own)}."
    return note


_OF_RECORDS = {
    "copied prompts": "copied prompts of records",
    "copied programs": "copied programs of records",
    "parts of prompts": "copied parts of prompts of records",
    "parts of programs": "copied parts of programs of records",
}


def _first(facts: Row, name: str) -> str | None:
    """A figure that is the same for all methods."""
    found = (
        row["synthesised"][name] for row in facts["table"] if name in row.get("synthesised", ())
    )
    return next((f"{one['mean']:.3f}" for one in found), None)


def places_table(facts: Row) -> tuple[list[str], list[list[str]]]:
    """Head and body of what leaked by place: one row a method, ε, grid and place.

    Empty if secrets stood in the code alone and were not ranked, because then the table of all
    figures says it.
    """
    rows = [
        (row, place, found)
        for row in _in_order(facts["table"])
        for place, found in row.get("by_place", {}).items()
    ]
    counts = sorted({count for *_, found in rows for count in found["leaks"]}, key=int)
    ranked = [
        model
        for model in ("junior", "tuned model")
        if any(model in f["exposure"] for *_, f in rows)
    ]
    if not ranked and {place for _, place, _ in rows} <= {"code"}:
        return [], []
    grid = list(dict.fromkeys(field for row, *_ in rows for field in row["grid"]))
    head = ["method", "ε", *grid, "secret in", *(f"leaked ×{count}" for count in counts)]
    head += [f"bits ×{count}, {model}" for model in ranked for count in counts]
    body = []
    for row, place, found in rows:
        line = [row["method"], epsilon_text(row["epsilon"])]
        line += [value_text(row["grid"][field]) if field in row["grid"] else "–" for field in grid]
        line.append(place)
        line += [leaked_text(found["leaks"].get(count)) for count in counts]
        bits = found["exposure"]
        line += [_interval(bits.get(m, {}).get(count), ".1f") for m in ranked for count in counts]
        body.append([plain(cell) for cell in line])
    return [plain(cell) for cell in head], body


def places_note(facts: Row) -> str:
    """What the columns of the leaks by place are."""
    note = "Secret in: the place of the pair that the secrets stood in; both: the same secret in "
    note += (
        "the prompt and in the code. leaked ×N: how many of those that stood in N of the records "
    )
    note += "came out verbatim, in a synthetic pair or when a model was asked for them"
    if any(f["exposure"] for r in facts["table"] for f in r.get("by_place", {}).values()):
        note += f"; bits: mean exposure, of secrets that a model does not know {CHANCE:.1f}"
    return f"{note}."


def leaked_text(found: Row | None) -> str:
    """How many of the planted secrets came out."""
    return f"{found['leaked']}/{found['planted']}" if found else "–"
