"""Pictures for the report, as inline SVG that takes the page's own text colour, or as PNG.

Promises: the same figures give the same bytes. Does not: draw anything private.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # replaced by the page's own colour
BLUE, GREY, RED, GOLD = "#3a6ea5", "#9aa3ad", "#b5523b", "#c8a24a"
GREEN, PURPLE = "#4f9470", "#8a6bb0"


def attack(epsilon: float, delta: float) -> Markup:
    """What any test for one unit's presence can reach (hypothesis-testing form of (ε, δ)-DP)."""
    grow = math.exp(min(epsilon, 700))
    rates = [10 ** (-4 + 4 * i / 200) for i in range(201)]
    best = [min(1.0, grow * r + delta, 1 - (1 - delta - r) / grow) for r in rates]
    figure, axes = panel(3.6, 2.4)
    axes.fill_between(rates, rates, best, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(rates, best, color=BLUE, linewidth=1.8, label=f"bound at ε = {epsilon:.3g}")
    axes.plot(rates, rates, color=GREY, linewidth=1, linestyle="--", label="guessing")
    axes.set_xscale("log")
    axes.set_xlim(1e-4, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false alarms")
    axes.set_ylabel("units found, at most")
    legend(axes)
    return svg(figure)


def funnel(filters: Mapping[str, Any]) -> Markup:
    """Samples drawn, rejected by reason (the six most frequent) and accepted."""
    reasons = sorted(filters["reasons"].items(), key=lambda item: (-item[1], item[0]))
    shown, rest = reasons[:6], sum(count for _, count in reasons[6:])
    bars = [("sampled", filters["samples"], GREY), *((r, c, RED) for r, c in shown)]
    if rest:
        bars.append(("other reasons", rest, RED))
    bars.append(("accepted", filters["accepted"], BLUE))
    figure, axes = panel(4.6, 0.5 + 0.27 * len(bars))
    places = range(len(bars), 0, -1)
    drawn = axes.barh(places, [b[1] for b in bars], color=[b[2] for b in bars], height=0.7)
    axes.bar_label(drawn, padding=3, fontsize=8, color=INK)
    axes.set_yticks(places, [short(b[0]) for b in bars])
    axes.set_xlim(0, 1.15 * max(b[1] for b in bars))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    return svg(figure)


def scores(evaluation: Mapping[str, Mapping[str, Any]], measure: str = "pass@1") -> Markup:
    """`measure` of every model on every task file, with 95 % Wilson intervals."""
    models = list(dict.fromkeys(model for found in evaluation.values() for model in found))
    colours = {"base": GREY, "junior": GOLD}
    width = 0.8 / len(models)
    figure, axes = panel(1.2 + 1.2 * len(evaluation) + 0.3 * len(models), 2.4)
    for number, model in enumerate(models):
        for place, found in enumerate(evaluation.values()):
            if model not in found:
                continue
            rate, n = found[model][measure], found[model]["tasks"]
            x = place + (number - (len(models) - 1) / 2) * width
            low, high = wilson(rate, n)
            axes.bar(
                x,
                rate,
                0.9 * width,
                color=colours.get(model, BLUE),
                label=model if not place else None,
            )
            axes.errorbar(
                x, rate, [[rate - low], [high - rate]], color=INK, linewidth=0.8, capsize=2
            )
            axes.annotate(
                f"{rate:.2f}",
                (x, high),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
            )
    axes.set_xticks(range(len(evaluation)), [short(task) for task in evaluation])
    axes.set_ylim(0, 1.15)
    axes.set_xlim(-0.6, len(evaluation) - 0.4)
    axes.set_ylabel(measure)
    legend(axes, ncols=len(models), loc="upper center", bbox_to_anchor=(0.5, 1.22))
    return svg(figure)


def exposure(found: Mapping[str, Any]) -> Markup:
    """Exposure against repetitions: mean over the canaries, from the least to the most exposed."""
    models = found["models"]
    counts = list(next(iter(models.values()))["by_repetitions"])
    figure, axes = panel(1.8 + 1.1 * len(counts), 2.6)
    tuned = iter([GOLD, BLUE, RED])
    for number, (name, rows) in enumerate(models.items()):
        colour = GREY if name.endswith("before tuning") else next(tuned, BLUE)
        groups = [rows["by_repetitions"][count] for count in counts]
        means = [group["mean"] for group in groups]
        axes.errorbar(
            [place + 0.12 * (number - (len(models) - 1) / 2) for place in range(len(counts))],
            means,
            [
                [mean - group["least"] for mean, group in zip(means, groups, strict=True)],
                [group["most"] - mean for mean, group in zip(means, groups, strict=True)],
            ],
            color=colour,
            marker="o" if colour != GREY else "x",
            markersize=4,
            linewidth=0.9,
            linestyle="none",
            capsize=2,
            label=short(name),
        )
    most = math.log2(found["candidates"] + 1)
    axes.axhline(1 / math.log(2), color=GREY, linewidth=0.8, linestyle="--", label="not learned")
    axes.axhline(most, color=RED, linewidth=0.8, linestyle=":", label="most that can be seen")
    axes.set_xticks(range(len(counts)), [f"{count}×" for count in counts])
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.set_ylim(0, 1.08 * most)
    axes.set_ylabel("exposure, bits")
    legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return svg(figure)


def wilson(rate: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of `n` (Wilson 1927)."""
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def short(text: str) -> str:
    """`text` as a label: one printable line of at most 44 characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text if len(text) <= 44 else text[:43] + "…"
    return text.replace("$", r"\$")  # matplotlib would set it as a formula


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one pair of axes."""
    figure, (axes,) = panels(1, width, height)
    return figure, axes


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` pairs of axes of so many inches, two in a row."""
    rows, across = -(-count // 2), min(count, 2)
    figure = Figure(figsize=(width * across, height * rows), layout="constrained")
    every = list(figure.subplots(rows, across, squeeze=False).flat)
    for axes in every[count:]:
        axes.remove()
    for axes in every[:count]:
        axes.patch.set_alpha(0)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(INK)
            spine.set_linewidth(0.6)
        axes.tick_params(colors=INK, labelsize=8, width=0.6)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(INK)
            label.set_fontsize(8)
    return figure, every[:count]


def legend(of: Axes | Figure, **where: Any) -> None:
    """The legend of axes or of a whole figure, in the page's ink."""
    of.legend(frameon=False, fontsize=8, labelcolor=INK, **where)


def svg(figure: Figure) -> Markup:
    """The figure as inline SVG, its ink the page's own."""
    buffer = io.StringIO()
    with matplotlib.rc_context(
        {"svg.hashsalt": "privcode", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :].replace(INK, "currentColor"))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, dark ink on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
