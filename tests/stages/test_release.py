"""A bundle states a guarantee that its recipient can check, and nothing private."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from privcode.errors import UserError
from privcode.files import read_json, sha256_tree, write_sealed
from privcode.privacy import make_plan
from privcode.privacy.accounting import Spent
from privcode.report import Evidence
from privcode.stages.release import release, verify_bundle

PLAN = make_plan(
    epsilon=None, noise_multiplier=2.0, delta=1e-5, units=1000, batch=10, steps=5, clip_norm=0.5
)
ROWS = [{"id": f"{n}-0", "prompt": f"Problem {n}: é", "completion": f"x = {n}"} for n in range(3)]
LEAKS = {"planted": 5, "leaked": 1, "by_repetitions": {"10": {"planted": 5, "leaked": 1}}}


def evidence(**changes: Any) -> Evidence:
    plain = Evidence(
        title="a run",
        plan=PLAN,
        spent=(PLAN.spent(),),
        others=(),
        prompts="prompts.jsonl",
        junior="small",
        premium="large",
        filters={
            "samples": 5,
            "accepted": 3,
            "reasons": {"execution: KeyError": 2},
            "execution": True,
            "round_trip": {"method": "likelihood", "threshold": 0.5},
        },
        evaluation={"house": {"base": {"pass@1": 0.0, "tasks": 10, "errors": {"NameError": 10}}}},
        audit={"samples_per_prompt": 2, "places": {"anywhere": LEAKS}},
        versions={"privcode": "0.1.0"},
    )
    return replace(plain, **changes)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def bundle(tmp_path: Path, adapter: Path) -> Path:
    release(evidence(), ROWS, adapter, tmp_path / "release")
    return tmp_path / "release"


def test_a_bundle_holds_data_adapter_card_report_and_guarantee(bundle: Path, adapter: Path) -> None:
    assert sorted(sha256_tree(bundle)) == [
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "data/train-00000-of-00001.parquet",
        "privacy.json",
        "report.html",
    ]
    assert sha256_tree(bundle / "adapter") == sha256_tree(adapter)
    facts = verify_bundle(bundle)
    assert facts["epsilon"] == pytest.approx(PLAN.cost().epsilon)
    assert facts["epsilon_rdp"] == pytest.approx(PLAN.cost().epsilon_rdp)
    assert (facts["units"], facts["delta"], facts["noise"]) == (1000, 1e-5, "cryptographic")
    assert "reproducible_seed" not in facts


def test_the_data_load_with_datasets_alone(bundle: Path, tmp_path: Path) -> None:
    rows = load_dataset(str(bundle), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.to_list() == ROWS


def test_the_same_evidence_gives_the_same_bytes(bundle: Path, adapter: Path) -> None:
    again = bundle.with_name("again")
    release(evidence(), ROWS, adapter, again)
    assert sha256_tree(again) == sha256_tree(bundle)


def test_any_byte_changed_in_any_file_is_found(bundle: Path) -> None:
    for path in [p for p in sorted(bundle.rglob("*")) if p.is_file()]:
        kept = path.read_bytes()
        for place in (0, len(kept) // 2, len(kept) - 1):
            path.write_bytes(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
            with pytest.raises(UserError, match=path.name):
                verify_bundle(bundle)
        path.write_bytes(kept + b" ")
        with pytest.raises(UserError, match=path.name):
            verify_bundle(bundle)
        path.write_bytes(kept)
    verify_bundle(bundle)


def test_a_file_added_or_missing_is_found(bundle: Path) -> None:
    (bundle / "data" / "more.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"more\.parquet: is not part"):
        verify_bundle(bundle)
    (bundle / "data" / "more.parquet").unlink()
    (bundle / "report.html").unlink()
    with pytest.raises(UserError, match=r"report\.html: is missing"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.5),
        ("epsilon_rdp", 0.5),
        ("delta", 1e-3),
        ("steps", 4),
        ("noise_multiplier", 2.5),
        ("units", 2000),
        ("spent", []),
    ],
)
def test_a_better_figure_sealed_again_does_not_follow_from_the_rest(
    bundle: Path, field: str, value: Any
) -> None:
    facts = read_json(bundle / "privacy.json")
    assert facts[field] != value
    write_sealed(bundle / "privacy.json", facts | {field: value})
    with pytest.raises(UserError, match=r"privacy\.json"):
        verify_bundle(bundle)


def test_other_runs_over_the_same_data_compose(bundle: Path, adapter: Path) -> None:
    both = bundle.with_name("both")
    facts = release(evidence(others=(Spent(0.01, 2.0, 500),)), ROWS, adapter, both)
    assert facts["runs_over_the_same_data"] == 2
    assert facts["epsilon"] > 1.5 * verify_bundle(bundle)["epsilon"]
    assert verify_bundle(both)["epsilon"] == facts["epsilon"]


def test_reproducible_noise_is_released_only_on_request_and_says_so(
    tmp_path: Path, adapter: Path
) -> None:
    seeded = replace(PLAN, reproducible_seed=71_077_345)
    with pytest.raises(UserError, match="--allow-reproducible-noise"):
        release(evidence(plan=seeded), ROWS, adapter, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    yes = tmp_path / "yes"
    release(evidence(plan=seeded), ROWS, adapter, yes, allow_reproducible_noise=True)
    assert json.loads((yes / "privacy.json").read_text())["noise"] == "reproducible"
    for name in ("privacy.json", "README.md", "report.html"):
        assert "seed" in (yes / name).read_text()
        assert "71077345" not in (yes / name).read_text()


@pytest.mark.parametrize("noise", [0.0, None])
def test_a_run_without_a_finite_epsilon_is_not_released(
    tmp_path: Path, adapter: Path, noise: float | None
) -> None:
    plan = replace(PLAN, noise_multiplier=0.0)
    spent = () if noise is None else (plan.spent(),)
    with pytest.raises(UserError, match="no finite ε"):
        release(evidence(plan=plan, spent=spent), ROWS, adapter, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_failed_release_leaves_the_old_one(bundle: Path, adapter: Path) -> None:
    before = sha256_tree(bundle)
    with pytest.raises(UserError, match="cannot be written"):
        release(evidence(title="other"), ROWS, adapter / "none", bundle)
    assert sha256_tree(bundle) == before
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["adapter", "release"]
