"""Pictures of a comparison, as inline SVG in the page's text colour, or as PNG.

Promises: the same figures give the same bytes.
Does not: draw anything private.
"""

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # replaced by the page's own colour
BLUE, GREY, RED, GOLD = "#3a6ea5", "#9aa3ad", "#b5523b", "#c8a24a"
GREEN, PURPLE = "#4f9470", "#8a6bb0"


@dataclass(frozen=True)
class Picture:
    """One picture of a comparison.

    Attributes:
        name: name of its file, without the ending.
        title: text above it.
        caption: plain text below it.
        figure: the drawn figure.
        wide: whether it needs the whole width of a page.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    wide: bool


def short(text: str) -> str:
    """`text` as a label: one printable line of at most 44 characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text if len(text) <= 44 else text[:43] + "…"
    return text.replace("$", r"\$")  # matplotlib would typeset it as a formula


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes. Width and height are in inches."""
    figure, (axes,) = panels(1, width, height)
    return figure, axes


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` pairs of axes, two in a row. The size of each is in inches."""
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
    """The figure as inline SVG. Its ink becomes the page's text colour."""
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
