"""Arms differ in what their name says and in nothing else; what they share is made once."""

from typing import Any

import pytest

from privcode.config import Config, parse_config
from privcode.errors import UserError
from privcode.pipeline.arms import arms, check_published, row, table


def config(**changes: object) -> Config:
    values: dict[str, object] = {
        "data": {"source": "d.jsonl", "public": True},
        "privacy": {"epsilon": 4, "delta": 1e-6, "units": 1000, "batch": 8},
        "prompts": {"source": "public", "file": "p.jsonl"},
        "junior": {"model": "j"},
        "premium": {"model": "p"},
    }
    return parse_config(values | changes)


def differences(a: object, b: object, path: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return set().union(*(differences(a[k], b[k], f"{path}.{k}".strip(".")) for k in a))
    return set() if a == b else {path}


def test_arms_are_seeds_times_methods_times_epsilons_and_base_comes_once() -> None:
    chosen = {
        "methods": ["base", "privcode", "nondpft"],
        "epsilons": {"privcode": [1, 4]},
        "seeds": [0, 1],
    }
    assert list(arms(config(compare=chosen))) == [
        "base",
        "privcode-eps1-seed0",
        "privcode-eps4-seed0",
        "nondpft-seed0",
        "privcode-eps1-seed1",
        "privcode-eps4-seed1",
        "nondpft-seed1",
    ]


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("dpft", {"method"}),
        ("control", {"method"}),
        ("nondpft", {"method"}),
        ("dpft-joint", {"method", "prompts.source"}),
        ("nondpft-joint", {"method", "prompts.source"}),
        ("synthesised", {"prompts.source"}),
        ("no-privsa", {"sanitize.syntax.schedule"}),
        ("constant-lambda", {"sanitize.syntax.schedule"}),
        ("no-execution", {"validate.execution.enabled"}),
        ("no-round-trip", {"validate.round_trip.method"}),
        ("no-surest", {"validate.surest"}),
        (
            "no-filters",
            {"validate.execution.enabled", "validate.round_trip.method", "validate.surest"},
        ),
    ],
)
def test_an_arm_differs_from_privcode_in_what_its_name_says(method: str, changed: set[str]) -> None:
    prompts = {"source": "public", "file": "p.jsonl", "limit": 10}
    chosen = {"methods": ["privcode", method]}
    found = arms(config(compare=chosen, validate={"surest": 0.7}, prompts=prompts))
    privcode, other = (arm.config.model_dump(by_alias=True) for arm in found.values())
    assert differences(privcode, other) - {"evaluate.models"} == changed


def test_a_method_without_privacy_needs_public_data() -> None:
    with pytest.raises(UserError, match=r"data\.public"):
        arms(config(data={"source": "d.jsonl"}, compare={"methods": ["nondpft"]}))


def test_a_method_may_have_settings_of_its_own() -> None:
    chosen = {"methods": ["privcode", "dpft"], "settings": {"dpft": {"privacy.steps": 7}}}
    found = arms(config(compare=chosen))
    assert [arm.config.privacy.steps for arm in found.values()] == [100, 7]


@pytest.mark.parametrize("section", ["settings", "grid"])
def test_a_field_that_is_none_is_refused_by_name(section: str) -> None:
    value = {"privcode": {"boost.speed": 1}} if section == "settings" else {"boost.speed": [1]}
    with pytest.raises(UserError, match=r"boost\.speed: is not a setting"):
        arms(config(compare={"methods": ["privcode"], section: value}))


def test_a_grid_crosses_all_arms_and_names_them_by_the_number_of_its_value() -> None:
    chosen = {"methods": ["base", "privcode"], "grid": {"premium.model": ["org/a", "org/b"]}}
    found = arms(config(compare=chosen))
    assert list(found) == [
        "base-model1",
        "privcode-eps4-model1",
        "base-model2",
        "privcode-eps4-model2",
    ]
    assert found["privcode-eps4-model2"].config.premium.model == "org/b"


def test_one_dp_junior_serves_all_that_differ_after_it() -> None:
    chosen = {
        "methods": ["privcode", "no-privsa", "no-round-trip", "no-filters", "dpft", "control"],
        "epsilons": {"privcode": [1, 4]},
        "seeds": [0, 1],
    }
    found = arms(config(compare=chosen))
    taken = {name: (arm.donor, arm.taken) for name, arm in found.items() if arm.donor}
    assert taken == {
        f"{method}-eps4-seed{seed}": (f"privcode-eps4-seed{seed}", ("sanitize", "synthesize"))
        for method in ("no-round-trip", "no-filters")
        for seed in (0, 1)
    }


def test_boosting_alone_is_done_again_where_only_the_boost_differs() -> None:
    chosen = {"methods": ["privcode"], "grid": {"boost.epochs": [1, 2]}}
    _, second = arms(config(compare=chosen)).values()
    assert second.taken == ("sanitize", "synthesize", "validate")
    # The junior's score is the donor's; all else of the arm is its own.
    assert second.config.evaluate.models == ["tuned"]


@pytest.mark.parametrize(
    ("trip", "shared"),
    [({}, False), ({"describer": "d"}, True), ({"method": "off"}, True)],
)
def test_validation_is_done_again_for_another_premium_only_where_that_describes(
    trip: dict[str, str], shared: bool
) -> None:
    chosen = {"methods": ["privcode", "control"], "grid": {"premium.model": ["a", "b"]}}
    *_, second, control = arms(config(validate={"round_trip": trip}, compare=chosen)).values()
    assert second.taken == ("sanitize", "synthesize", "validate")[: 2 + shared]
    assert control.taken == ("synthesize", "validate")[: 1 + shared]
    assert (second.donor, control.donor) == ("privcode-eps4-model1", "control-model1")


def test_what_an_arm_made_of_what_it_took_over_serves_others_too() -> None:
    chosen = {"methods": ["privcode", "no-filters"], "grid": {"boost.epochs": [1, 2]}}
    *_, last = arms(config(compare=chosen)).values()
    assert (last.donor, len(last.taken)) == ("no-filters-eps4-epochs1", 3)


@pytest.mark.parametrize(
    "field",
    [
        "data.contains",
        "privacy.clip_norm",
        "junior.lora.r",
        "sanitize.learning_rate",
        "audit.repetitions",
    ],
)
def test_a_junior_made_otherwise_is_made_afresh(field: str) -> None:
    values = [[1], [2]] if field.startswith("audit") else ["1", "2"]
    if field.endswith(("norm", ".r", "rate")):
        values = [1, 2]
    _, second = arms(config(compare={"methods": ["privcode"], "grid": {field: values}})).values()
    assert second.donor is None


def rows_of(*scores: float) -> list[dict[str, object]]:
    leaks: dict[str, Any] = {
        "planted": 5,
        "leaked": 1,
        "by_repetitions": {"10": {"planted": 5, "leaked": 1}},
    }
    counts = {"leaks": leaks["by_repetitions"], "exposure": {"tuned model": {"10": 1.5}}}
    by_place = {"code": counts, "prompt": counts | {"exposure": {}}}
    seeds = list(range(len(scores)))
    found = arms(config(compare={"methods": ["privcode"], "seeds": seeds}))
    figures = [{"t": {"pass@1": score, "parse_rate": 1.0}} for score in scores]
    return [
        row(
            arm,
            evaluation=f,
            junior=f,
            kept=10,
            leaks=leaks,
            seconds=2.0,
            by_place=by_place,
            synthesised={"pairs": 10} | ({"told": 0.5} if arm.seed else {}),
        )
        for arm, f in zip(found.values(), figures, strict=True)
    ]


def test_a_row_has_what_a_reader_of_results_looks_for() -> None:
    (one,) = rows_of(0.5)
    assert one | {"grid": {}, "leaks": {}, "by_place": {}} == {
        "method": "privcode",
        "epsilon": 4.0,
        "seed": 0,
        "grid": {},
        "pass@1": 0.5,
        "junior_pass@1": 0.5,
        "parse_rate": 1.0,
        "junior_parse_rate": 1.0,
        "kept": 10,
        "canaries_leaked": 1,
        "canaries_planted": 5,
        "leaks": {},
        "by_place": {},
        "synthesised": {"pairs": 10},
        "tasks": {"t": 0.5},
        "seconds": 2.0,
    }


def test_the_table_joins_seeds_into_a_mean_with_its_interval() -> None:
    (joined,) = table(rows_of(0.5, 0.7))
    assert (joined["method"], joined["epsilon"], joined["seeds"]) == ("privcode", 4, 2)
    # Half of the interval for two values: t(0.975, 1 degree) = 12.706, times sd / sqrt(2) = 0.1.
    assert joined["tasks"]["t"] == {"mean": 0.6, "half": 1.2706}
    assert joined["leaks"] == {"10": {"planted": 10, "leaked": 2}}
    assert joined["by_place"] == {
        "code": {
            "leaks": joined["leaks"],
            "exposure": {"tuned model": {"10": {"mean": 1.5, "half": 0.0}}},
        },
        "prompt": {"leaks": joined["leaks"], "exposure": {}},
    }
    assert joined["synthesised"] == {
        "pairs": {"mean": 10, "half": 0.0},
        "told": {"mean": 0.5, "half": None},  # one of the two knows it
    }


def test_rows_of_an_earlier_privcode_are_joined_as_before() -> None:
    later = {"by_place", "synthesised"}
    rows = [{k: v for k, v in one.items() if k not in later} for one in rows_of(0.5, 0.7)]
    assert not later & {*table(rows)[0]}


def test_one_seed_has_no_interval() -> None:
    (joined,) = table(rows_of(0.5))
    assert joined["tasks"]["t"] == {"mean": 0.5, "half": None}


def test_a_published_figure_of_nothing_compared_is_refused() -> None:
    published = [{"method": "privcode", "epsilon": 4, "humaneval": 66.5}]
    with pytest.raises(UserError, match="row 1, field humaneval"):
        check_published(config(compare={"published": published}))


def test_a_published_figure_is_a_share_as_ours_are() -> None:
    tasks = {"tasks": [{"name": "humaneval", "file": "h.jsonl"}]}
    for value, right in ((0.665, True), (66.5, False), ("66.5 %", False)):
        published = [{"method": "privcode", "epsilon": 4, "humaneval": value}]
        chosen = config(evaluate=tasks, compare={"published": published})
        if right:
            check_published(chosen)
            continue
        with pytest.raises(UserError, match=r"row 1, field humaneval: is 66\.5"):
            check_published(chosen)


def test_the_first_half_of_jft_has_no_budget_so_one_serves_all_epsilons() -> None:
    chosen = {"methods": ["jft"], "epsilons": {"jft": [1, 4]}}
    found = arms(config(compare=chosen | {"grid": {"boost.epochs": [1, 2]}}))
    assert {name: (arm.donor, arm.taken) for name, arm in found.items()} == {
        "jft-eps1-epochs1": (None, ()),
        "jft-eps4-epochs1": ("jft-eps1-epochs1", ("pretune",)),
        "jft-eps1-epochs2": (None, ()),
        "jft-eps4-epochs2": ("jft-eps1-epochs2", ("pretune",)),
    }
    # Which records take part is decided by the privacy section, too.
    bounds = {"grid": {"privacy.units": [1000, 2000]}, "methods": ["jft"]}
    assert not any(arm.taken for arm in arms(config(compare=bounds)).values())


@pytest.mark.parametrize("field", ["premium.max_tokens", "audit.seed", "boost.seed", "data.source"])
def test_jft_shares_no_half_of_other_settings(field: str) -> None:
    values = {"data.source": ["a.jsonl", "b.jsonl"]}.get(field, [300, 400])
    found = arms(config(compare={"methods": ["jft"], "grid": {field: values}}))
    assert not any(arm.taken for arm in found.values())
