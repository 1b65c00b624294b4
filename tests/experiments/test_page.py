"""A comparison shown: the same cells everywhere, pictures of what there is, an honest interval."""

import random
import re
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, get_args

import pytest
from scipy.stats import t as student

import privcode.experiments.page as shown
from privcode.config import Compared
from privcode.experiments import drawing
from privcode.experiments.page import (
    METHODS,
    answer,
    headline,
    markdown,
    page,
    share_of_gain,
    shares,
)
from privcode.experiments.plots import Picture, pictures
from privcode.experiments.tables import cells, places_table, synthesised_table
from privcode.pipeline.arms import table

Arm = tuple[str, "float | str | None", float, float]  # method, ε, pass@1, share that leaks

ABLATED: list[Arm] = [
    ("no-privsa", 4.0, 0.75, 0),
    ("constant-lambda", 4.0, 0.71, 0),
    ("no-execution", 4.0, 0.72, 0),
    ("no-round-trip", 4.0, 0.69, 0),
    ("no-filters", 4.0, 0.6, 0),
]
EVERYTHING: list[Arm] = [
    ("base", None, 0.004, 0),
    ("control", None, 0.02, 0),
    *(("privcode", e, p, 0.0) for e, p in ((0.2, 0.41), (1.0, 0.7), (4.0, 0.76), (10.0, 0.77))),
    ("privcode", "inf", 0.79, 0.6),
    *(("dpft", e, p, 0.0) for e, p in ((0.2, 0.12), (1.0, 0.4), (4.0, 0.62), (10.0, 0.66))),
    ("jft", 4.0, 0.64, 0.2),
    ("nondpft", None, 0.8, 1),
    *ABLATED,
]
DEMO: list[Arm] = [
    ("base", None, 0.0, 0),
    ("control", None, 0.03, 0),
    ("privcode", 4.0, 0.57, 0),
    ("nondpft", None, 0.8, 0.8),
]


def made_up(
    arms: Sequence[Arm],
    seeds: int,
    grid: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = ("house",),
) -> list[dict[str, Any]]:
    """Rows as `stages.compare.row` makes them."""
    draw = random.Random(repr(grid))
    rows = []
    for method, epsilon, level, leak in arms:
        for seed in [None] if method == "base" else range(seeds):
            found = {task: level if seed is None else level + draw.gauss(0, 0.02) for task in tasks}
            synthetic = method not in ("base", "dpft", "jft", "nondpft")
            junior = level - 0.05 if synthetic and method != "control" else None
            leaks = {
                count: {"planted": 5, "leaked": round(5 * leak * most)}
                for count, most in (("1", 0), ("5", 0.4), ("10", 1), ("100", 1))
            }
            rows.append(
                {
                    "method": method,
                    "epsilon": epsilon,
                    "seed": seed,
                    "grid": dict(grid or {}),
                    "pass@1": found[tasks[0]],
                    "junior_pass@1": junior,
                    "parse_rate": 0.99,
                    "junior_parse_rate": junior and 0.98,
                    "kept": 1100 + draw.randrange(99) if synthetic else None,
                    "canaries_leaked": None if method == "base" else 0,
                    "canaries_planted": None if method == "base" else 20,
                    "leaks": {} if method == "base" else leaks,
                    "tasks": found,
                    "seconds": 200 + draw.random() * 99,
                }
            )
    return rows


def facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows, "table": table(rows), "seconds": sum(row["seconds"] for row in rows)}


def by_name(found: dict[str, Any]) -> dict[str, Picture]:
    return {picture.name: picture for picture in pictures(found)}


ALL = facts(made_up(EVERYTHING, 5))
ONE_SEED = facts(made_up(DEMO, 1))
NOTHING: dict[str, Any] = {"rows": [], "table": [], "seconds": 0}


def test_the_table_has_these_cells() -> None:
    def line(method: str, epsilon: Any, seed: int | None, rate: float) -> dict[str, Any]:
        row = made_up([(method, epsilon, rate, 0)], 1)[0] | {"seed": seed, "seconds": 10.4}
        leaks = {"10": {"planted": 5, "leaked": 3 if seed else 2}, "1": {"planted": 5, "leaked": 0}}
        known = row["junior_pass@1"] is not None
        return row | {
            "tasks": {"house": rate},
            "junior_pass@1": 0.5 if known else None,
            "kept": 7 if known else None,
            "leaks": leaks if seed is not None else {},
        }

    rows = [line("base", None, None, 0.125)]
    rows += [line("privcode", "inf", 0, 0.7), line("privcode", "inf", 1, 0.8)]
    half = student.ppf(0.975, 1) * stdev([0.7, 0.8]) / 2**0.5
    published = [
        {"method": "privcode", "epsilon": float("inf"), "house": 66.5},
        {"method": "dpft", "epsilon": 4, "house": "22.9 to 29.6"},
    ]
    assert markdown(facts(rows), published).splitlines()[2:7] == [
        "| method | ε | seeds | pass@1 house | published house | junior | parse rate | kept "
        "| leaked ×1 | leaked ×10 | seconds |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
        "| base | – | 1 | 0.125 | – | – | 0.990 | – | – | – | 10 |",
        f"| privcode | ∞ | 2 | 0.750 ± {half:.3f} | 66.5 | 0.500 ± 0.000 | 0.990 ± 0.000 | 7 ± 0 "
        "| 0/10 | 5/10 | 10 ± 0 |",
        "| dpft | 4 | – | – | 22.9 to 29.6 | – | – | – | – | – | – |",
    ]
    assert "published house" not in markdown(facts(rows))


def test_text_and_markdown_have_the_same_cells() -> None:
    head, body = cells(ALL)
    plain, marked = shown.text(ALL).splitlines(), markdown(ALL).splitlines()[2:]
    for number, line in enumerate([head, *body]):
        at = number + (number > 0)  # both have a rule under the head
        assert re.split(r"  +", plain[at]) == line
        assert marked[at].strip("| ").split(" | ") == line


def test_markdown_begins_with_the_answer_and_ends_with_the_shares_of_the_gain() -> None:
    parts = markdown(ALL).strip().split("\n\n")
    head, body = shown.shares_table(ALL)
    assert parts[0] == shown.answer(ALL)
    assert parts[-1] == shown.shares_note(ALL)
    marked = [line.strip("| ").split(" | ") for line in parts[-2].splitlines()]
    assert [marked[0], *marked[2:]] == [head, *body]
    assert "Share of the gain" not in markdown(facts(made_up(EVERYTHING[:1], 1)))


def test_what_plus_minus_means_is_said_once_where_it_stands() -> None:
    assert markdown(ALL).count("95 % interval of the mean over seeds, by Student's t") == 1
    assert "±" not in markdown(ONE_SEED)
    assert "One seed, no intervals" in markdown(ONE_SEED)


def test_published_rows_stand_beside_the_row_they_are_about_or_alone() -> None:
    grid = {"premium.model": "a/b"}
    ours = facts(made_up([("privcode", 4.0, 0.5, 0)], 1, grid) + made_up(DEMO, 1, grid)[3:])
    published = [
        {"method": "nondpft", "premium.model": "a/b", "house": 70},
        {"method": "privcode", "epsilon": 4, "premium.model": "a/b", "house": 60},
        {"method": "privcode", "epsilon": 4, "premium.model": "other", "house": 61},
        {"method": "privcode", "epsilon": 1, "premium.model": "a/b", "house": 59.0},
    ]
    head, body = cells(ours, published)
    assert head[:6] == ["method", "ε", "premium.model", "seeds", "pass@1 house", "published house"]
    assert [line[:4] + line[5:6] for line in body] == [
        ["privcode", "1", "a/b", "–", "59.0"],
        ["privcode", "4", "a/b", "1", "60"],
        ["nondpft", "–", "a/b", "1", "70"],
        ["privcode", "4", "other", "–", "61"],
    ]


def test_published_figures_alone_make_a_table_and_a_page() -> None:
    published = [{"method": "dpft", "epsilon": 4, "premium.model": "m", "humaneval": 62.2}]
    head, body = cells(NOTHING, published)
    assert head[2:6] == ["premium.model", "seeds", "pass@1 humaneval", "published humaneval"]
    assert body[0][:6] == ["dpft", "4", "m", "–", "–", "62.2"]
    assert "62.2" in page(NOTHING, published, "t", ())


@pytest.mark.parametrize("found", [ALL, ONE_SEED], ids=["all", "one-seed"])
def test_the_page_fetches_nothing_and_is_the_same_each_time(found: dict[str, Any]) -> None:
    text = page(found, (), "t", pictures(found))
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(\s*['\"]?http", text)
    assert not re.search(r"(src|href)\s*=\s*['\"](?!#)", text)
    assert text == page(found, (), "t", pictures(found))
    assert text.count("<svg") == len(pictures(found))
    image = [drawing.png(pictures(found)[0].figure) for _ in range(2)]
    assert image[0] == image[1]
    assert image[0].startswith(b"\x89PNG")


def test_a_picture_with_nothing_to_show_is_left_out() -> None:
    assert list(by_name(ALL)) == ["utility", "leakage", "ablations"]
    assert list(by_name(ONE_SEED)) == ["utility", "leakage"]
    unplanted = [row | {"leaks": {}} for row in made_up(DEMO, 1)]
    assert list(by_name(facts(unplanted))) == ["utility"]
    assert list(by_name(facts(made_up([("privcode", 4.0, 0.5, 0)], 1)))) == ["leakage"]
    assert [p.name for p in pictures(facts(made_up(DEMO, 1, {"f.x": 1})))] == ["utility", "leakage"]
    assert pictures(NOTHING) == []


def test_utility_is_drawn_where_the_figures_are() -> None:
    (axes,) = by_name(ALL)["utility"].figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.2", "1", "4", "10", "∞"]
    places = axes.get_xticks()
    assert places[4] > places[3]
    means = {(row["method"], row["epsilon"]): row["tasks"]["house"] for row in ALL["table"]}
    assert [bars.get_label() for bars in axes.containers] == ["privcode", "dpft", "jft"]
    for bars in axes.containers:
        line, caps, _ = bars.lines
        ours = [value for (method, _), value in means.items() if method == bars.get_label()]
        assert list(line.get_ydata()) == [value["mean"] for value in ours]
        assert list(caps[1].get_ydata()) == pytest.approx([v["mean"] + v["half"] for v in ours])
    level = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    for method in ("base", "control", "nondpft"):
        assert level[method] == means[method, None]["mean"]


def test_leakage_is_the_share_of_what_was_planted() -> None:
    (axes,) = by_name(ALL)["leakage"].figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["nondpft"] == [0, 0.4, 1, 1]
    assert drawn["privcode"] == [0, 0, 0, 0]
    assert drawn["privcode, ε = ∞"] == [0, 0.2, 0.6, 0.6]
    assert "no-filters" not in drawn


PLACES = facts(
    [
        row
        | {
            "by_place": {
                place: {
                    "leaks": {"1": {"planted": 5, "leaked": 0}, "10": {"planted": 5, "leaked": n}},
                    "exposure": {"tuned model": {"1": 1.25, "10": 9.0}},
                }
                for n, place in enumerate(("code", "prompt", "both"), start=1)
            }
            if row["leaks"]
            else {}
        }
        for row in made_up(DEMO, 2)
    ]
)


def test_leaks_by_place_have_a_table_and_a_panel_each() -> None:
    head, body = places_table(PLACES)
    assert head[:5] == ["method", "ε", "secret in", "leaked ×1", "leaked ×10"]
    assert head[5:] == ["bits ×1, tuned model", "bits ×10, tuned model"]
    assert body[:3] == [
        ["control", "–", "code", "0/10", "2/10", "1.2 ± 0.0", "9.0 ± 0.0"],
        ["control", "–", "prompt", "0/10", "4/10", "1.2 ± 0.0", "9.0 ± 0.0"],
        ["control", "–", "both", "0/10", "6/10", "1.2 ± 0.0", "9.0 ± 0.0"],
    ]
    assert len(body) == 9  # base has none
    assert "| privcode | 4 | both | 0/10 | 6/10 |" in markdown(PLACES)
    assert "What leaked, by place" in page(PLACES, (), "t", ())
    axes = by_name(PLACES)["leakage"].figure.axes
    assert [a.get_title() for a in axes] == ["in the code", "in the prompt", "the same in both"]
    drawn = [{line.get_label(): list(line.get_ydata()) for line in a.lines} for a in axes]
    assert [found["privcode"] for found in drawn] == [[0, 0.2], [0, 0.4], [0, 0.6]]


def test_what_was_synthesised_has_a_table_of_what_is_known() -> None:
    told = {"prompts told from public": 0.61}
    bounds = {"prompts told from public low": 0.55, "prompts told from public high": 0.66}
    copied = {"copied programs": 0.2, "copied programs of records": 0.16}
    figures = {"pairs": 7, "distinct prompts": 0.5, **told, **bounds, **copied}
    rows = [r | {"synthesised": figures if r["kept"] else {}} for r in made_up(DEMO, 1)]
    head, body = synthesised_table(facts(rows))
    assert head[2:] == ["pairs", "distinct prompts", "told from public", "copied programs"]
    assert body == [
        ["control", "–", "7", "0.500", "0.61 (0.55 to 0.66)", "0.200"],
        ["privcode", "4", "7", "0.500", "0.61 (0.55 to 0.66)", "0.200"],
    ]
    text = page(facts(rows), (), "t", ())
    assert "What was synthesised" in text
    assert "compared with the others: copied programs 0.160." in text
    assert "tells the prompts from public ones" in text
    assert "wordings" not in text
    lower = rows[2] | {"epsilon": 1.0}
    assert [line[1] for line in synthesised_table(facts([*rows, lower]))[1]] == ["–", "1", "4"]
    assert synthesised_table(ALL) == ([], [])
    assert "What was synthesised" not in page(ALL, (), "t", ())


def test_leaks_of_the_code_alone_have_no_table_of_their_own() -> None:
    code = {"code": {"leaks": {"1": {"planted": 5, "leaked": 0}}, "exposure": {}}}
    found = facts([row | {"by_place": code} for row in made_up(DEMO, 1)])
    assert places_table(found) == places_table(ALL) == ([], [])
    assert "by place" not in page(found, (), "t", ())
    assert len(by_name(found)["leakage"].figure.axes) == 1


def test_an_ablation_that_leaks_is_drawn_among_what_leaked() -> None:
    leaking = facts(made_up([*DEMO, ("no-filters", 4.0, 0.5, 1)], 1))
    (axes,) = by_name(leaking)["leakage"].figure.axes
    assert "no-filters" in {line.get_label() for line in axes.lines}


@pytest.mark.parametrize(
    ("values", "lines"),
    [((0.1, 0.5, 0.9), True), ((1, 10, 1000), True), (("a/b", "/some/where/c"), False)],
)
def test_a_grid_has_a_picture_by_its_field(values: Sequence[Any], lines: bool) -> None:
    rows = [row for value in values for row in made_up(DEMO, 2, {"premium.model": value})]
    picture = by_name(facts(rows))["grid-premium.model"]
    (axes,) = picture.figure.axes
    assert bool(axes.patches) != lines
    if lines:
        assert {tuple(bars.lines[0].get_xdata()) for bars in axes.containers} == {tuple(values)}
    else:
        assert [label.get_text() for label in axes.get_yticklabels()] == ["a/b", "c"]


def test_every_task_has_its_panel() -> None:
    found = by_name(facts(made_up(EVERYTHING, 2, tasks=("one", "two", "three"))))
    assert [axes.get_title() for axes in found["utility"].figure.axes] == ["one", "two", "three"]
    assert found["utility"].wide


def test_text_from_outside_is_shown_as_text() -> None:
    bad = "<script>alert(1)</script>|$x_$\x1b[2J\n"
    rows = made_up(DEMO, 1, {bad: bad}, (bad,)) + made_up(DEMO, 1, {bad: "b"}, (bad,))
    published = [{"method": bad, "epsilon": 4, bad: bad}]
    found = facts(rows)
    for text in (page(found, published, bad, pictures(found)), markdown(found, published)):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "\x1b" not in text
    head, body = cells(found, published)
    table = markdown(found, published).split("\n\n")[1].splitlines()
    assert {line.count("|") for line in table} == {len(head) + 1}
    assert len(table) == len(body) + 2


def test_the_share_of_the_gain_is_a_ratio_of_means_with_fieller_s_interval() -> None:
    tuned, ceiling, base = [0.71, 0.78, 0.74, 0.8, 0.77], [0.79, 0.83, 0.8, 0.86, 0.8], 0.1
    found = share_of_gain(tuned, ceiling, base)
    assert found is not None
    assert found["share"] == pytest.approx((mean(tuned) - base) / (mean(ceiling) - base))
    # Its ends are where a paired t test is just at the 5 % level.
    for end in (found["low"], found["high"]):
        assert end is not None
        left = [(x - base) - end * (y - base) for x, y in zip(tuned, ceiling, strict=True)]
        statistic = mean(left) / (stdev(left) / 5**0.5)
        assert abs(statistic) == pytest.approx(student.ppf(0.975, 4))
    # With a ceiling that does not vary it is the interval of the mean, scaled.
    found = share_of_gain(tuned, [0.8] * 5, 0.1)
    assert found is not None
    half = student.ppf(0.975, 4) * stdev(tuned) / 5**0.5 / 0.7
    assert found["low"] == pytest.approx((mean(tuned) - 0.1) / 0.7 - half)
    assert found["high"] == pytest.approx((mean(tuned) - 0.1) / 0.7 + half)


def test_the_interval_of_the_share_holds_the_truth_19_times_of_20() -> None:
    # 3,000 trials: a standard deviation of 0.4 points; outside 4 of them by chance in 1 of 15,000.
    draw, within = random.Random(0), 0
    for _ in range(3000):
        shared = [draw.gauss(0, 0.02) for _ in range(5)]
        tuned = [0.64 + s + draw.gauss(0, 0.03) for s in shared]
        ceiling = [0.7 + s + draw.gauss(0, 0.02) for s in shared]
        found = share_of_gain(tuned, ceiling, 0.1)
        assert found is not None
        assert found["low"] is not None
        assert found["high"] is not None
        within += found["low"] <= 0.54 / 0.6 <= found["high"]
    assert within / 3000 == pytest.approx(0.95, abs=0.016)


def test_no_share_of_no_gain_and_no_interval_of_one_seed_or_of_a_gain_that_may_be_none() -> None:
    assert share_of_gain([0.5, 0.6], [0.1, 0.1], 0.1) is None
    assert share_of_gain([0.5], [0.9], 0.1) == {
        "share": pytest.approx(0.5),
        "low": None,
        "high": None,
    }
    unsure = share_of_gain([0.2, 0.1], [0.1, 0.6], 0.1)
    assert unsure is not None
    assert unsure["low"] is None


def test_shares_pair_the_runs_of_one_seed() -> None:
    rows = made_up(EVERYTHING, 5)
    found = {(s["method"], s["epsilon"]): s for s in shares(facts(rows))}
    scores = {
        key: [row["tasks"]["house"] for row in rows if (row["method"], row["epsilon"]) == key]
        for key in (("privcode", 4.0), ("nondpft", None))
    }
    expected = share_of_gain(*scores.values(), 0.004)
    assert expected is not None
    assert {name: found["privcode", 4.0][name] for name in expected} == expected
    assert [s for s in shares(facts(rows[::-1])) if s["epsilon"] == 4.0][-1] == found[
        "privcode", 4.0
    ]
    assert ("base", None) not in found
    assert shares(facts(made_up(DEMO[1:], 1))) == []


def test_the_answer_is_about_the_epsilon_that_the_methods_share() -> None:
    assert headline(ALL["table"]) == ({}, 4.0)
    assert headline(facts(made_up(EVERYTHING[:7], 1))["table"]) == ({}, 0.2)
    assert headline([]) == ({}, None)


def test_the_answer_says_what_was_reached_and_what_leaked() -> None:
    rows = made_up(DEMO, 1)
    for row, rate in zip(rows, (0.0, 0.03, 0.6, 0.8), strict=True):
        row["tasks"] = {"house": rate}
    assert answer(facts(rows)) == (
        "At ε = 4 PrivCode reached 75 % of what tuning without privacy gains over the untuned "
        "model: pass@1 0.60 on house, 0.00 untuned, 0.80 without privacy. PrivCode gave away 0 of "
        "20 secrets planted in 1 to 100 records each, tuning without privacy 10 of 20."
    )
    rows[3]["tasks"] = {"house": 0.0}
    assert "0.00 without privacy, which is no gain to compare with." in answer(facts(rows))
    alone = [rows[2] | {"leaks": {}, "epsilon": None}]
    assert answer(facts(alone)) == "PrivCode reached pass@1 0.60 on house. No secrets were planted."
    assert answer(facts(rows[:2])) == "PrivCode is not among the methods that ran."
    assert "(95 % interval " in answer(ALL)


def test_every_method_is_explained_and_drawn() -> None:
    methods = {name for kind in get_args(Compared) for name in get_args(kind) or (kind,)}
    assert set(METHODS) == methods
    arms: list[Arm] = [
        (m, None if m in ("base", "control", "nondpft") else 4.0, 0.5, 1) for m in methods
    ]
    assert pictures(facts(made_up(arms, 1)))
