"""Pictures for the report as inline SVG, drawn by plain arithmetic.

Promises:
- The same figures give the same bytes under every version of every library, so `verify` can draw
  them again and compare.
- Any text in the figures is shown as text.

Does not: draw anything private.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from privcode.console import epsilon_text

BLUE, GREY, RED, GOLD = "#3a6ea5", "#9aa3ad", "#b5523b", "#c8a24a"
_LETTER = 5.8  # the most pixels that a letter is wide: labels are 11 pixels high


def attack(epsilon: float, delta: float) -> Markup:
    """What any test for one unit's presence can reach (hypothesis-testing form of (ε, δ)-DP)."""
    grow = math.exp(min(epsilon, 700))
    rates = [10 ** (-4 + 4 * i / 100) for i in range(101)]
    best = [min(1.0, grow * r + delta, 1 - (1 - delta - r) / grow) for r in rates]
    left, top, width, height = 42, 8, 300, 190

    def at(rate: float, found: float) -> str:
        across, up = (math.log10(rate) + 4) / 4, found / 1.02
        return f"{left + width * across:.1f},{top + height * (1 - up):.1f}"

    bound = " ".join(at(r, b) for r, b in zip(rates, best, strict=True))
    guess = " ".join(at(r, r) for r in rates)
    back = " ".join(at(r, r) for r in reversed(rates))
    drawn = [
        f'<polygon points="{bound} {back}" fill="{BLUE}" fill-opacity=".15"/>',
        f'<polyline points="{bound}" fill="none" stroke="{BLUE}" stroke-width="2"/>',
        f'<polyline points="{guess}" fill="none" stroke="{GREY}" stroke-dasharray="4 3"/>',
        _line(left, top + height, left + width, top + height),
        _line(left, top, left, top + height),
    ]
    for power in range(-4, 1):
        x = left + width * (power + 4) / 4
        drawn.append(_text(x, top + height + 16, f"{10.0**power:g}", "middle"))
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        drawn.append(_text(left - 5, top + height * (1 - share / 1.02) + 4, f"{share:g}", "end"))
    drawn.append(_text(left + width / 2, top + height + 33, "false alarms", "middle"))
    drawn.append(_text(12, top + height / 2, "units found, at most", "middle", turned=True))
    drawn += _legend(
        left + 10,
        top + 12,
        [(f"bound at ε = {epsilon_text(epsilon, 3)}", BLUE), ("guessing", GREY)],
    )
    return _svg(left + width + 18, top + height + 40, drawn)


def funnel(filters: Mapping[str, Any]) -> Markup:
    """Samples drawn, rejected by reason (the six most frequent) and accepted."""
    reasons = sorted(filters["reasons"].items(), key=lambda item: (-item[1], item[0]))
    shown, rest = reasons[:6], sum(count for _, count in reasons[6:])
    bars = [("sampled", filters["samples"], GREY), *((r, c, RED) for r, c in shown)]
    if rest:
        bars.append(("other reasons", rest, RED))
    bars.append(("accepted", filters["accepted"], BLUE))
    left = _LETTER * max(len(short(name)) for name, _, _ in bars) + 10
    width, most = 240, max(count for _, count, _ in bars) or 1
    drawn = []
    for row, (name, count, colour) in enumerate(bars):
        y, long = 6 + 24 * row, width * count / most
        drawn.append(_text(left - 6, y + 13, short(name), "end"))
        drawn.append(_bar(left, y, long, 17, colour))
        drawn.append(_text(left + long + 5, y + 13, str(count), "start"))
    return _svg(left + width + 60, 10 + 24 * len(bars), drawn)


def scores(evaluation: Mapping[str, Mapping[str, Any]], measure: str = "pass@1") -> Markup:
    """`measure` of every model on every task file, with 95 % Wilson intervals."""
    models = list(dict.fromkeys(model for found in evaluation.values() for model in found))
    colours = {model: {"base": GREY, "junior": GOLD}.get(model, BLUE) for model in models}
    left, top, height = 46, 24 + 16 * len(models), 170
    group = max(120.0, 34.0 * len(models) + 24)
    bar = 0.8 * group / len(models)
    drawn = _legend(left, 14, list(colours.items()))
    for place, (task, found) in enumerate(evaluation.items()):
        for number, model in enumerate(models):
            if model not in found:
                continue
            rate, n = found[model][measure], found[model]["tasks"]
            x = left + group * (place + 0.1) + bar * number
            low, high = wilson(rate, n)
            bottom, middle = top + height, x + 0.45 * bar
            drawn.append(_bar(x, bottom - height * rate, 0.9 * bar, height * rate, colours[model]))
            drawn.append(_line(middle, bottom - height * low, middle, bottom - height * high))
            drawn.append(_text(middle, bottom - height * high - 4, f"{rate:.2f}", "middle"))
        name = _fitting(short(task), group)
        drawn.append(_text(left + group * (place + 0.5), top + height + 16, name, "middle"))
    drawn += _axes(left, top, group * len(evaluation), height, 1.0)
    drawn.append(_text(12, top + height / 2, measure, "middle", turned=True))
    return _svg(left + group * len(evaluation) + 12, top + height + 26, drawn)


def exposure(found: Mapping[str, Any]) -> Markup:
    """Exposure against repetitions: mean over the canaries, from the least to the most exposed."""
    models = found["models"]
    counts = list(next(iter(models.values()))["by_repetitions"])
    most = math.log2(found["candidates"] + 1)
    left, top, height, group = 42, 24 + 16 * (len(models) + 2), 170, 110
    width, tall = group * len(counts), 1.08 * most
    tuned, keys, drawn = iter([GOLD, BLUE, RED]), [], []

    def up(bits: float) -> float:
        return top + height * (1 - min(max(bits, 0.0), tall) / tall)

    for number, (name, rows) in enumerate(models.items()):
        colour = GREY if name.endswith("before tuning") else next(tuned, BLUE)
        keys.append((short(name), colour))
        for place, count in enumerate(counts):
            one = rows["by_repetitions"][count]
            x = left + group * (place + 0.5) + 14 * (number - (len(models) - 1) / 2)
            drawn.append(_line(x, up(one["least"]), x, up(one["most"]), colour))
            y = up(one["mean"])
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
    for bits, colour in ((1 / math.log(2), GREY), (most, RED)):
        drawn.append(_line(left, up(bits), left + width, up(bits), colour, dashed=True))
    for place, count in enumerate(counts):
        drawn.append(_text(left + group * (place + 0.5), top + height + 16, f"{count}×", "middle"))
    keys += [("dashed: not learned", GREY), ("dashed: most that can be seen", RED)]
    drawn += _legend(left, 14, keys)
    drawn += _axes(left, top, width, height, tall)
    drawn.append(_text(12, top + height / 2, "exposure, bits", "middle", turned=True))
    return _svg(left + width + 170, top + height + 26, drawn)


def wilson(rate: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of `n` (Wilson 1927)."""
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def short(text: str) -> str:
    """`text` as a label: one printable line of at most 44 characters."""
    return _fitting("".join(c if c.isprintable() else " " for c in text), 44 * _LETTER)


def _fitting(text: str, width: float) -> str:
    most = int(width / _LETTER)
    return text if len(text) <= most else text[: most - 1] + "…"


def _axes(left: float, top: float, width: float, height: float, most: float) -> list[str]:
    """Lines left and below, with five ticks from 0 to `most`."""
    drawn = [
        _line(left, top + height, left + width, top + height),
        _line(left, top, left, top + height),
    ]
    for tick in range(5):
        y = top + height * (1 - tick / 4)
        drawn.append(_text(left - 5, y + 4, f"{most * tick / 4:.3g}", "end"))
    return drawn


def _legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    drawn = []
    for row, (name, colour) in enumerate(entries):
        drawn.append(_bar(x, y + 16 * row - 8, 12, 8, colour))
        drawn.append(_text(x + 17, y + 16 * row, short(name), "start"))
    return drawn


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}"/>'


def _line(
    x: float, y: float, to_x: float, to_y: float, colour: str = "currentColor", dashed: bool = False
) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{colour}"{dash}/>'


def _text(x: float, y: float, text: str, anchor: str, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _svg(width: float, height: float, drawn: Sequence[str]) -> Markup:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    inside = "\n".join(drawn)
    return Markup(f'<svg {size} role="img" font-size="11" fill="currentColor">\n{inside}\n</svg>')
