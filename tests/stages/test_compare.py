"""Arms differ in what their name says and in nothing else; the table is a mean with its spread."""

import pytest

from privcode.config import Config, parse_config
from privcode.errors import UserError
from privcode.stages.compare import arms, row, table


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


def test_arms_are_methods_times_epsilons_times_seeds_and_base_comes_once() -> None:
    chosen = {"methods": ["base", "privcode", "nondp"], "epsilons": [1, 4], "seeds": [0, 1]}
    assert list(arms(config(compare=chosen))) == [
        "base",
        "privcode-eps1-seed0",
        "privcode-eps1-seed1",
        "privcode-eps4-seed0",
        "privcode-eps4-seed1",
        "nondp-seed0",
        "nondp-seed1",
    ]


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("dpft", {"method"}),
        ("control", {"method"}),
        ("nondp", {"method"}),
        ("no-privsa", {"sanitize.syntax.schedule"}),
        ("constant-lambda", {"sanitize.syntax.schedule"}),
        ("no-filters", {"validate.execution.enabled", "validate.round_trip.method"}),
    ],
)
def test_an_arm_differs_from_privcode_in_what_its_name_says(method: str, changed: set[str]) -> None:
    found = arms(config(compare={"methods": ["privcode", method]}))
    privcode, other = (arm.model_dump(by_alias=True) for arm in found.values())
    assert differences(privcode, other) == changed


def test_a_method_without_privacy_needs_public_data() -> None:
    with pytest.raises(UserError, match=r"data\.public"):
        arms(config(data={"source": "d.jsonl"}, compare={"methods": ["nondp"]}))


def test_the_table_joins_seeds_into_mean_spread_and_number() -> None:
    arm = config()
    leaks = {"places": {"anywhere": {"by_repetitions": {"10": {"planted": 5, "leaked": 1}}}}}
    rows = [
        row(f"privcode-eps4-seed{n}", arm, {"t": {"privcode": {"pass@1": score}}}, leaks)
        for n, score in enumerate((0.5, 0.7))
    ]
    (joined,) = table(rows)
    assert (joined["method"], joined["epsilon"], joined["seeds"]) == ("privcode", 4, 2)
    assert joined["pass@1"]["t"] == {"mean": 0.6, "sd": 0.1414}
    assert joined["leaks"] == {"10": {"planted": 10, "leaked": 2}}
