"""The pictures of a comparison: utility against ε, leakage, ablations, and each field of a grid.

Promises:
- They are drawn from results.json alone. The same facts give the same pictures.
- A picture with nothing to show is left out.

Does not: draw published figures, because their unit is not known.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from privcode.experiments.drawing import (
    BLUE,
    GOLD,
    GREEN,
    GREY,
    INK,
    PURPLE,
    RED,
    Picture,
    legend,
    panels,
    short,
)
from privcode.experiments.page import headline
from privcode.experiments.tables import epsilon_text, grid_text, number, plain, value_text
from privcode.pipeline.methods import ABLATIONS, BUDGETED

Row = Mapping[str, Any]

_STYLE = {
    "base": (GREY, "x", ":"),
    "control": (GOLD, "v", "--"),
    "privcode": (BLUE, "o", "-"),
    "dpft": (GREEN, "s", "-"),
    "jft": (PURPLE, "^", "-"),
    "nondpft": (RED, "D", "-."),
    "dpft-joint": ("#8fbfa6", "s", "--"),
    "nondpft-joint": ("#d99a8b", "D", ":"),
}
_ABLATED = {
    name: ("#7f9fc0", marker, "-") for name, marker in zip(ABLATIONS, "*pPX<>dhH", strict=True)
}

_PLACES = {"in the code": "code", "in the prompt": "prompt", "the same in both": "both"}


def pictures(facts: Row) -> list[Picture]:
    """All pictures that have something to show, in the order of the page."""
    table = facts["table"]
    grid, epsilon = headline(table)
    rows = [row for row in table if row["grid"] == grid]
    found = [
        _utility(rows, epsilon),
        _leakage(rows, epsilon),
        _ablations(rows, epsilon),
        *(_grid(table, field, grid, epsilon) for field in grid),
    ]
    return [picture for picture in found if picture]


def _utility(rows: Sequence[Row], epsilon: float | None) -> Picture | None:
    """pass@1 against ε. Methods without ε are horizontal lines. With one ε: a bar each method."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row["epsilon"] is not None:
            lines.setdefault(row["method"], []).append(row)
    # An ablation with one ε is shown in the picture of the ablations.
    lines = {m: found for m, found in lines.items() if m not in ABLATIONS or len(found) > 1}
    values = sorted({float(row["epsilon"]) for found in lines.values() for row in found})
    if len(values) < 2:
        whole = [row for row in _at(rows, epsilon) if row["method"] not in ABLATIONS]
        return _bars("utility", "What each method reaches", whole, epsilon)
    finite = [math.log10(value) for value in values if math.isfinite(value)]
    span = finite[-1] - finite[0]
    gap = max(0.3, 0.2 * span)  # ∞ is drawn apart
    places = dict(zip(values, [*finite, finite[-1] + gap], strict=False))
    unit = 0.016 * (span + gap)

    def draw(axes: Axes, task: str) -> None:
        for row in rows:
            if row["method"] in BUDGETED:
                continue
            colour, _, dashes = _style(row["method"])
            value, half = _value(row, task)
            axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.2, label=row["method"])
            axes.axhspan(value - half, value + half, color=colour, alpha=0.1, linewidth=0)
        for index, (method, found) in enumerate(lines.items()):
            colour, marker, _ = _style(method)
            aside = unit * (index - (len(lines) - 1) / 2)
            found = sorted(found, key=lambda row: float(row["epsilon"]))
            xs = [places[float(row["epsilon"])] + aside for row in found]
            ys, halves = zip(*(_value(row, task) for row in found), strict=True)
            axes.errorbar(
                xs,
                ys,
                halves,
                color=colour,
                marker=marker,
                markersize=4,
                linestyle="none",
                elinewidth=0.9,
                capsize=2,
                label=method,
            )
            inside = len(found) - (found[-1]["epsilon"] == "inf")
            axes.plot(xs[:inside], ys[:inside], color=colour, linewidth=1.4)
            axes.plot(
                xs[inside - 1 :], ys[inside - 1 :], color=colour, linewidth=0.9, linestyle=":"
            )
        axes.set_xticks(list(places.values()), [epsilon_text(value) for value in values])
        axes.set_xlim(finite[0] - 5 * unit, max(places.values()) + 5 * unit)
        _from_zero(axes, "y")
        axes.set_xlabel("ε")

    tasks = _tasks(rows)
    caption = f"{_where(None, rows[0]['grid'])}{_mean_of(rows)} What has no ε is a horizontal line."
    return _picture("utility", "Utility against ε", caption, tasks, draw, 3.0)


def _leakage(rows: Sequence[Row], epsilon: float | None) -> Picture | None:
    """Share of the planted secrets that came out, against how often they were planted.

    There is a panel for each place that secrets stood in.
    """
    shown = [
        row
        for row in rows
        if number(row["epsilon"]) in (None, epsilon, math.inf)
        and any(row["method"] not in ABLATIONS or f["leaked"] for f in row["leaks"].values())
    ]
    counts = sorted({count for row in shown for count in row["leaks"]}, key=int)
    if not counts:
        return None
    found = {place for row in shown for place in row.get("by_place", {})}
    places = [name for name, place in _PLACES.items() if place in found]

    def leaks(row: Row, name: str) -> Row:
        found: Row = row["leaks"]
        if name:
            found = row.get("by_place", {}).get(_PLACES[name], {"leaks": {}})["leaks"]
        return found

    def draw(axes: Axes, name: str) -> None:
        for index, row in enumerate(shown):
            colour, marker, dashes = _style(row["method"])
            free = number(row["epsilon"]) == math.inf != epsilon
            aside = 0.05 * (index - (len(shown) - 1) / 2)
            by_count = leaks(row, name)
            known = [(x, by_count[n]) for x, n in enumerate(counts) if n in by_count]
            axes.plot(
                [x + aside for x, _ in known],
                [found["leaked"] / found["planted"] for _, found in known],
                color=colour,
                marker=marker,
                markersize=4.5,
                markerfacecolor="none" if free else colour,
                linestyle=":" if free else dashes,
                linewidth=1,
                label=f"{row['method']}, ε = ∞" if free else row["method"],
            )
        axes.set_xticks(range(len(counts)), [f"{count}×" for count in counts])
        axes.set_xlim(-0.5, len(counts) - 0.5)
        axes.set_ylim(-0.04, 1.04)
        axes.set_xlabel("planted in so many records")
        axes.set_ylabel("share that came out")

    shown_in = places if len(places) > 1 else [""]
    most = max(
        f["planted"] for row in shown for name in shown_in for f in leaks(row, name).values()
    )
    where, seeds = _where(epsilon, rows[0]["grid"]), max(row["seeds"] for row in shown)
    often = f"{most} were planted so often{' in each place' if len(places) > 1 else ''}"
    caption = (
        f"{where}Share of the secrets that came out verbatim; {often}"
        f"{f', in {seeds} seeds' if seeds > 1 else ''}. Finding none shows no more than "
        "that these were not found. Points stand side by side so that all are seen."
    )
    return _picture("leakage", "What leaked", caption, shown_in, draw, 3.0)


def _ablations(rows: Sequence[Row], epsilon: float | None) -> Picture | None:
    shown = [row for row in _at(rows, epsilon) if row["method"] in ("privcode", *ABLATIONS)]
    return _bars("ablations", "PrivCode without one part", shown, epsilon)


def _bars(name: str, title: str, rows: Sequence[Row], epsilon: float | None) -> Picture | None:
    if len(rows) < 2:
        return None

    def draw(axes: Axes, task: str) -> None:
        places = range(len(rows), 0, -1)
        for place, row in zip(places, rows, strict=True):
            _bar(axes, place, row, task, 0.65)
        axes.set_yticks(places, [row["method"] for row in rows])
        _from_zero(axes, "x")

    caption = f"{_where(epsilon, rows[0]['grid'])}{_mean_of(rows)}"
    return _picture(name, title, caption, _tasks(rows), draw, 0.7 + 0.28 * len(rows))


def _grid(
    table: Sequence[Row], field: str, first: Mapping[str, Any], epsilon: float | None
) -> Picture | None:
    """pass@1 against the value of one field of the grid. The others have their first values."""
    rows = [
        row
        for row in _at(table, epsilon)
        if all(row["grid"][other] == value for other, value in first.items() if other != field)
    ]
    values: list[Any] = []
    for row in rows:
        if row["grid"][field] not in values:
            values.append(row["grid"][field])
    if len(values) < 2:
        return None
    methods = list(dict.fromkeys(row["method"] for row in rows))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)

    def curves(axes: Axes, task: str) -> None:
        for method in methods:
            colour, marker, dashes = _style(method)
            found = sorted(
                (row for row in rows if row["method"] == method),
                key=lambda r: float(r["grid"][field]),
            )
            ys, halves = zip(*(_value(row, task) for row in found), strict=True)
            axes.errorbar(
                [row["grid"][field] for row in found],
                ys,
                halves,
                color=colour,
                marker=marker,
                markersize=4,
                linestyle=dashes,
                linewidth=1.2,
                elinewidth=0.9,
                capsize=2,
                label=method,
            )
        if min(values) > 0 and max(values) >= 20 * min(values):
            axes.set_xscale("log")
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.set_xticks([], minor=True)
        _from_zero(axes, "y")
        axes.set_xlabel(short(field))

    def bars(axes: Axes, task: str) -> None:
        for row in rows:
            index = methods.index(row["method"])
            place = -values.index(row["grid"][field]) - 0.8 * (index + 0.5) / len(methods)
            label = row["method"] if row["grid"][field] == values[0] else None
            _bar(axes, place, row, task, 0.7 / len(methods), label)
        middle = [-place - 0.4 for place in range(len(values))]
        axes.set_yticks(middle, [short(value_text(value)) for value in values])
        _from_zero(axes, "x")

    where = _where(epsilon, {other: v for other, v in first.items() if other != field})
    caption = f"{where}{_mean_of(rows)}"
    draw, height = (curves, 3.0) if numbers else (bars, 0.8 + 0.2 * len(rows))
    return _picture(f"grid-{field}", f"By {field}", caption, _tasks(rows), draw, height)


def _picture(
    name: str,
    title: str,
    caption: str,
    tasks: Sequence[str],
    draw: Callable[[Axes, str], None],
    height: float,
) -> Picture | None:
    """One panel a task, and one legend below all of them. None without a task."""
    if not tasks:
        return None
    figure, every = panels(len(tasks), 4.4, height)
    for axes, task in zip(every, tasks, strict=True):
        draw(axes, task)
        if len(tasks) > 1:
            axes.set_title(short(task), fontsize=9, color=INK)
    handles, labels = every[0].get_legend_handles_labels()
    if handles:
        legend(figure, handles=handles, labels=labels, loc="outside lower center", ncols=4)
    return Picture(name, plain(title), plain(caption), figure, len(tasks) > 1)


def _bar(
    axes: Axes, place: float, row: Row, task: str, height: float, label: str | None = None
) -> None:
    value, half = _value(row, task)
    colour = _style(row["method"])[0]
    axes.barh(place, value, height, color=colour, label=label)
    if half:
        axes.errorbar(value, place, xerr=half, color=INK, linewidth=0.8, capsize=2)
    axes.annotate(
        f"{value:.2f}",
        (value + half, place),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=INK,
    )


def _from_zero(axes: Axes, which: str) -> None:
    """The axis of a rate: from 0, with room at its upper end. Call it when all is drawn."""
    top = axes.dataLim.x1 if which == "x" else axes.dataLim.y1
    top = 1.15 * min(top, 1.0) or 1.0  # an interval of few seeds may go beyond
    if which == "x":
        axes.set_xlim(0, top)
        axes.set_xlabel("pass@1")
        axes.tick_params(axis="y", length=0)
    else:
        axes.set_ylim(-0.02 * top, top)
        axes.set_ylabel("pass@1")


def _style(method: str) -> tuple[str, str, str]:
    """Colour, marker and dashes."""
    return (_STYLE | _ABLATED)[method]


def _value(row: Row, task: str) -> tuple[float, float]:
    found = row["tasks"][task]
    return found["mean"], found["half"] or 0.0


def _tasks(rows: Sequence[Row]) -> list[str]:
    """The tasks that all rows have."""
    return [task for task in rows[0]["tasks"] if all(task in row["tasks"] for row in rows)]


def _at(rows: Sequence[Row], epsilon: float | None) -> list[Row]:
    return [row for row in rows if number(row["epsilon"]) in (None, epsilon)]


def _where(epsilon: float | None, grid: Row) -> str:
    """The ε and the values of the grid, as the beginning of a caption."""
    words = [] if epsilon is None else [f"ε = {epsilon_text(epsilon)}"]
    words += [grid_text(grid)] if grid else []
    return f"At {', '.join(words)}. " if words else ""


def _mean_of(rows: Sequence[Row]) -> str:
    seeds = max(row["seeds"] for row in rows)
    return (
        f"pass@1: mean and 95 % interval over {seeds} seeds."
        if seeds > 1
        else "pass@1 of one seed."
    )
