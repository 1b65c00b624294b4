"""How a comparison is shown: the table, its answer in two sentences, and the page.

Promises:
- It is made from results.json and the published rows alone. The same facts give the same bytes.
- The table has the same cells in plain text, in Markdown and on the page.
- The page is one file that fetches nothing. Any text in the facts is shown as text.

Does not: judge the methods. With one seed there is no interval, and the page says so.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from scipy.stats import t as student

from privcode.console import columns
from privcode.experiments import drawing
from privcode.experiments.tables import (
    Row,
    cells,
    epsilon_text,
    grid_text,
    number,
    places_note,
    places_table,
    plain,
    synthesised_note,
    synthesised_table,
    value_text,
)
from privcode.pipeline.methods import BUDGETED, METHODS
from privcode.release.page import environment
from privcode.release.page import markdown as escaped


def notes(facts: Row, published: Sequence[Row] = ()) -> list[str]:
    """What the columns of the table are, one line each."""
    table = facts["table"]
    several = any(row["seeds"] > 1 for row in table)
    lines = []
    if several:
        lines.append(
            "±: half of the 95 % interval of the mean over seeds, by Student's t; the tasks are "
            "the same for all seeds."
        )
    if table:
        task = next(iter(table[0]["tasks"]))
        timed = "; seconds: of one seed's run" if any(row["seconds"] for row in table) else ""
        lines.append(
            f"{'' if several else 'One seed, no intervals. '}pass@1: share of the tasks solved at "
            f"the first answer; junior: of the DP junior on {task}; parse rate: of the answers on "
            f"{task}; kept: pairs that passed the filters{timed}."
        )
    if any(row["leaks"] for row in table):
        lines.append(
            "leaked ×N: planted secrets, each in N of the records, that came out verbatim"
            f"{'; all seeds together' if several else ''}."
        )
    if missing := len(facts.get("missing", ())):
        lines.append(f"{missing} of {missing + len(facts['rows'])} runs are not done yet.")
    if published:
        lines.append("published: figures of others, in the unit in which the config gives them.")
    return [plain(line) for line in lines]


def text(facts: Row, published: Sequence[Row] = ()) -> str:
    """The table, its notes and the answer, for a terminal."""
    table = columns(*cells(facts, published))
    return "\n".join([table, "", *notes(facts, published), "", answer(facts)])


def markdown(facts: Row, published: Sequence[Row] = ()) -> str:
    """The answer, the table with its notes, and the shares of the gain, in Markdown."""
    parts = [escaped(answer(facts)), _markdown_table(*cells(facts, published))]
    parts += map(escaped, notes(facts, published))
    for (head, body), note in (
        (synthesised_table(facts), synthesised_note(facts)),
        (places_table(facts), places_note(facts)),
        (shares_table(facts), shares_note(facts)),
    ):
        if body:
            parts += [_markdown_table(head, body), escaped(note)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(head: list[str], body: list[list[str]]) -> str:
    lines = [[escaped(cell) for cell in line] for line in (head, *body)]
    lines.insert(1, [":--", *["--:"] * (len(head) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share_of_gain(
    tuned: Sequence[float], ceiling: Sequence[float], base: float
) -> dict[str, float | None] | None:
    """What part of the ceiling's gain over `base` a method reached, with its 95 % interval.

    The share is the ratio of mean gains, mean(tuned − base) / mean(ceiling − base). The interval
    is Fieller's (1954) for paired values. It holds all θ that a t test of the differences
    (tuned − base) − θ · (ceiling − base) does not reject. `base` is taken as exact.

    Args:
        tuned: pass@1 of the method, by seed.
        ceiling: pass@1 without privacy, of the same seeds in the same order.
        base: pass@1 of the untuned model.

    Returns:
        {"share", "low", "high"}, or None if the ceiling gained nothing. low and high are None for
        one seed. They are also None if the ceiling's own gain is not significant, because then no
        bounded interval exists.
    """
    n = len(tuned)
    ours, most = ([value - base for value in values] for values in (tuned, ceiling))
    if mean(most) <= 0:
        return None
    found: dict[str, float | None] = {"share": mean(ours) / mean(most), "low": None, "high": None}
    if n < 2:
        return found
    square = float(student.ppf(0.975, n - 1)) ** 2 / n

    def term(a: Sequence[float], b: Sequence[float]) -> float:
        shared = sum((x - mean(a)) * (y - mean(b)) for x, y in zip(a, b, strict=True)) / (n - 1)
        return mean(a) * mean(b) - square * shared

    if (of_most := term(most, most)) > 0:
        middle = term(ours, most)
        root = math.sqrt(max(0.0, middle**2 - of_most * term(ours, ours)))
        found |= {"low": (middle - root) / of_most, "high": (middle + root) / of_most}
    return found


def shares(facts: Row) -> list[dict[str, Any]]:
    """`share_of_gain` on the first task, for every row of the table between base and nondpft.

    Returns:
        {method, epsilon, grid, seeds, share, low, high} each. There is no row if base or nondpft
        did not run with these values of the grid.
    """
    found = []
    for row in facts["table"]:
        if row["method"] not in ("control", *BUDGETED):
            continue
        task = next(iter(row["tasks"]))
        by_seed = {
            method: {
                one["seed"]: one["tasks"][task]
                for one in facts["rows"]
                if (one["method"], one["grid"]) == (method, row["grid"])
                and (method != row["method"] or one["epsilon"] == row["epsilon"])
            }
            for method in ("base", "nondpft", row["method"])
        }
        base, ceiling, ours = by_seed.values()
        seeds = [seed for seed in ours if seed in ceiling]
        if base and seeds:
            share = share_of_gain(
                [ours[s] for s in seeds], [ceiling[s] for s in seeds], mean(base.values())
            )
            key = {name: row[name] for name in ("method", "epsilon", "grid")}
            found += [{**key, "seeds": len(seeds), **share}] if share else []
    return found


def headline(table: Sequence[Row]) -> tuple[dict[str, Any], float | None]:
    """The values of the grid and the ε that the answer and most pictures are about.

    These are the first values of the grid. The ε is one of privcode's: the one that most other
    methods also have. Among equals, it is the smallest.
    """
    grid: dict[str, Any] = table[0]["grid"] if table else {}
    rows = [row for row in table if row["grid"] == grid and row["epsilon"] is not None]
    counts = Counter(number(row["epsilon"]) for row in rows)
    own = {number(row["epsilon"]) for row in rows if row["method"] == "privcode"}
    among = [e for e in counts if e is not None and (e in own or not own)]
    return grid, min(among, key=lambda e: (-counts[e], e), default=None)


def percent(found: Row, name: str = "") -> str:
    """A share of the gain, with its 95 % interval."""
    words = f"{100 * found['share']:.0f} %"
    if found["low"] is not None:
        words += f" ({name}{100 * found['low']:.0f} to {100 * found['high']:.0f} %)"
    return words.replace("-", "−")


def answer(facts: Row) -> str:
    """The result of the comparison in two sentences: the gain, and what leaked."""
    table = facts["table"]
    grid, epsilon = headline(table)
    by_method = {
        row["method"]: row
        for row in table
        if row["grid"] == grid and number(row["epsilon"]) in (None, epsilon)
    }
    ours = by_method.get("privcode")
    if ours is None:
        return "PrivCode is not among the methods that ran."
    task, reached = next(iter(ours["tasks"].items()))
    base, ceiling = (by_method.get(method) for method in ("base", "nondpft"))
    share = next(
        (s for s in shares(facts) if all(s[k] == ours[k] for k in ("method", "epsilon", "grid"))),
        None,
    )
    given = "" if epsilon is None else f"At ε = {epsilon_text(epsilon)} "
    if grid:
        given = f"With {grid_text(grid)}: {given[:1].lower()}{given[1:]}"
    first = f"{given}PrivCode reached "
    if share:
        first += percent(share, "95 % interval ")
        first += " of what tuning without privacy gains over the untuned model: "
    first += f"pass@1 {reached['mean']:.2f} on {task}"
    for row, whose in ((base, "untuned"), (ceiling, "without privacy")):
        first += f", {row['tasks'][task]['mean']:.2f} {whose}" if row else ""
    if base and ceiling and not share:
        first += ", which is no gain to compare with"
    counts = sorted(map(int, ours["leaks"]))
    if not counts:
        return plain(f"{first}. No secrets were planted.")
    second = f"PrivCode gave away {_leaked(ours)} secrets planted in "
    second += f"{' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} "
    second += "record" if counts[-1] == 1 else "records each"
    second += f", tuning without privacy {_leaked(ceiling)}" if ceiling else ""
    return plain(f"{first}. {second}.")


def _leaked(row: Row) -> str:
    leaked, planted = (
        sum(found[name] for found in row["leaks"].values()) for name in ("leaked", "planted")
    )
    return f"{leaked} of {planted}"


def shares_table(facts: Row) -> tuple[list[str], list[list[str]]]:
    """Head and body of the shares of the gain: one row a method, one column an ε."""
    found = shares(facts)
    epsilons = sorted(
        {number(one["epsilon"]) for one in found}, key=lambda e: -1 if e is None else e
    )
    grid = list(dict.fromkeys(field for one in found for field in one["grid"]))
    rows: dict[tuple[str, ...], dict[float | None, str]] = {}
    for one in found:
        values = (value_text(one["grid"][field]) for field in grid)
        rows.setdefault((one["method"], *values), {})[number(one["epsilon"])] = percent(one)
    head = ["method", *grid, *("no ε" if e is None else f"ε = {epsilon_text(e)}" for e in epsilons)]
    body = [[*key, *(cells.get(e, "–") for e in epsilons)] for key, cells in rows.items()]
    return [plain(cell) for cell in head], [[plain(cell) for cell in line] for line in body]


def shares_note(facts: Row) -> str:
    """What the shares of the gain are."""
    note = "Share of the gain: (pass@1 − base) / (nondpft − base) on the first task, means over "
    note += "seeds"
    if any(row["seeds"] > 1 for row in facts["table"]):
        note += (
            "; in brackets the 95 % interval by Fieller’s theorem, over pairs of runs with the "
            "same seed, base taken as exact"
        )
    return f"{note}."


def page(
    facts: Row, published: Sequence[Row], title: str, pictures: Sequence[drawing.Picture]
) -> str:
    """report.html of a comparison: one file that fetches nothing."""
    table, gains = cells(facts, published), shares_table(facts)
    methods = {line[0] for line in table[1]}
    minutes = (facts["seconds"] or 0) / 60  # not known if the data are private
    template = environment("privcode.experiments").get_template("comparison.html.j2")
    return template.render(
        title=plain(title),
        seeds=max((row["seeds"] for row in facts["table"]), default=0),
        timed=facts["seconds"] is not None,
        took=f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours",
        answer=answer(facts),
        pictures=[(picture, drawing.svg(picture.figure)) for picture in pictures],
        gains=gains,
        gains_note=shares_note(facts),
        table=table,
        synthesised=synthesised_table(facts),
        synthesised_note=synthesised_note(facts),
        places=places_table(facts),
        places_note=places_note(facts),
        notes=notes(facts, published),
        methods={name: row.words for name, row in METHODS.items() if name in methods},
    )
