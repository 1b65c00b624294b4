"""A bundle states a guarantee that its recipient can check, and nothing private."""

import hashlib
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset

from privcode.console import epsilon_text
from privcode.errors import UserError
from privcode.files import Row, read_json, sha256_tree, write_sealed
from privcode.privacy.accounting import Spent
from privcode.release.evidence import Evidence
from privcode.release.page import card, page
from privcode.release.verify import release as release_files
from privcode.release.verify import verify_bundle
from tests.helpers.bundles import (
    LAYER,
    PLAN,
    ROWS,
    evidence,
    make_bundle,
    reseal,
    write_adapter,
    write_tensors,
)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path)


def release(
    shown: Evidence, rows: list[Row], adapter: Path, output: Path, **options: Any
) -> dict[str, Any]:
    """Of all files of the adapter."""
    return release_files(shown, rows, adapter, sha256_tree(adapter), output, **options)


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
    assert (bundle / "adapter" / "adapter_model.safetensors").stat().st_mode & 0o044 == 0o044


def test_privacy_json_states_public_facts_and_nothing_else(bundle: Path) -> None:
    assert set(read_json(bundle / "privacy.json")) == {
        *("neighbouring", "unit", "owner_column", "units", "max_records_per_unit", "protects"),
        *("sampling_rate", "expected_batch", "clip_norm", "noise_multiplier", "steps", "noise"),
        *("delta", "epsilon", "epsilon_rdp", "accountant", "spent", "runs_over_the_same_data"),
        *(
            "selection",
            "trials",
            "sweep",
            "not_charged",
            "data_declared_public",
            "epsilon_of_all_runs",
            "epsilon_lower_bounds",
        ),
        *("covered", "not_covered", "versions", "files", "digest"),
        *("format", "rows", "stated"),
    }


def test_a_bundle_of_a_run_over_data_declared_public_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, evidence(public=True))
    facts = verify_bundle(bundle)
    assert facts["data_declared_public"] is True
    assert any("declares that the data are public" in line for line in facts["not_covered"])
    for name in ("README.md", "report.html"):
        assert "The owner declares that the data are public" in (bundle / name).read_text()
    reseal(bundle, data_declared_public=False)
    with pytest.raises(UserError):
        verify_bundle(bundle)


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


def test_every_byte_of_privacy_json_counts(bundle: Path) -> None:
    kept = (bundle / "privacy.json").read_bytes()
    for place in range(len(kept)):
        for other in (kept[place] ^ 1, kept[place] ^ 0x20, ord(" ")):
            if other == kept[place]:
                continue
            (bundle / "privacy.json").write_bytes(kept[:place] + bytes([other]) + kept[place + 1 :])
            with pytest.raises(UserError, match=r"privacy\.json"):
                verify_bundle(bundle)


def test_a_file_added_or_missing_is_found(bundle: Path) -> None:
    (bundle / "data" / "more.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"more\.parquet: is not part"):
        verify_bundle(bundle)
    (bundle / "data" / "more.parquet").unlink()
    for name, target in (("data/more", "/"), ("dangling", "nowhere")):
        (bundle / name).symlink_to(target)
        with pytest.raises(UserError, match=f"{name}: is a symbolic link"):
            verify_bundle(bundle)
        (bundle / name).unlink()
    (bundle / "folder").mkdir()
    with pytest.raises(UserError, match="folder: is not part"):
        verify_bundle(bundle)
    (bundle / "folder").rmdir()
    verify_bundle(bundle)
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
        ("sampling_rate", 0.005),
        ("neighbouring", "replace one unit"),
        ("runs_over_the_same_data", 2),
        ("noise", "none"),
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


def test_a_guarantee_that_makes_no_sense_is_refused_in_one_line(bundle: Path) -> None:
    facts = read_json(bundle / "privacy.json")
    other = facts["spent"][0]
    changes: list[Row] = [
        {"spent": [1]},
        {"spent": [*facts["spent"], other | {"sampling_rate": 2}]},
        {"spent": [*facts["spent"], other | {"steps": -3}]},
        {"epsilon": None},
        {"epsilon": "inf"},
        {"units": "1000"},
        {"units": 0},
        {"files": []},
    ]
    for change in changes:
        write_sealed(bundle / "privacy.json", facts | change)
        with pytest.raises(UserError):
            verify_bundle(bundle)
    for text in ("[]", '{"epsilon": NaN}', '{"epsilon": "\\ud800"}', "{"):
        (bundle / "privacy.json").write_text(text)
        with pytest.raises(UserError, match=r"privacy\.json"):
            verify_bundle(bundle)


def test_other_runs_over_the_same_data_compose(bundle: Path, adapter: Path) -> None:
    both = bundle.with_name("both")
    facts = release(evidence(others=(Spent(0.01, 2.0, 500),)), ROWS, adapter, both)
    assert facts["runs_over_the_same_data"] == 2
    assert facts["epsilon"] > 1.5 * verify_bundle(bundle)["epsilon"]
    assert verify_bundle(both)["epsilon"] == facts["epsilon"]


NOT_CHARGED = evidence(
    plan=replace(PLAN, selection="not-charged"), others=(Spent(0.01, 2.0, 500), Spent(0.01, 3, 9))
)


def test_runs_that_are_not_charged_are_counted_and_said_loudly(
    tmp_path: Path, adapter: Path
) -> None:
    out = tmp_path / "out"
    facts = release(NOT_CHARGED, ROWS, adapter, out)
    together = PLAN.cost(NOT_CHARGED.others).epsilon
    assert facts["epsilon"] == PLAN.cost().epsilon < together / 1.5
    assert (facts["selection"], facts["runs_over_the_same_data"]) == ("not-charged", 3)
    assert facts["epsilon_of_all_runs"] == together
    words = (
        "NOT CHARGED: 2 other runs over the same data were made; settings chosen by looking at "
        f"such runs are not covered by this ε; with all of them ε = {epsilon_text(together)}"
    )
    for name in ("README.md", "report.html", "privacy.json"):
        assert words in (out / name).read_text()
    page = (out / "report.html").read_text()
    assert page.index(words) < page.index("<b>ε =")  # the first box
    assert (out / "README.md").read_text().index(words) < 1200
    verify_bundle(out)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"epsilon_of_all_runs": 0.1}, "epsilon_of_all_runs"),
        ({"runs_over_the_same_data": 1}, "runs_over_the_same_data"),
        ({"not_charged": []}, "epsilon_of_all_runs"),
        ({"not_covered": []}, "not_covered does not follow"),
        ({"selection": "composition"}, "states epsilon"),
        ({"accountant": "another"}, "accountant"),
    ],
)
def test_what_is_not_charged_cannot_be_left_out_of_a_bundle(
    tmp_path: Path, adapter: Path, changes: Row, word: str
) -> None:
    release(NOT_CHARGED, ROWS, adapter, tmp_path / "out")
    facts = read_json(tmp_path / "out" / "privacy.json")
    write_sealed(tmp_path / "out" / "privacy.json", facts | changes)
    with pytest.raises(UserError, match=word):
        verify_bundle(tmp_path / "out")


def test_the_best_of_several_trials_says_what_it_was_chosen_from(
    tmp_path: Path, adapter: Path
) -> None:
    plan = replace(PLAN, selection="trials", trials=4.0)
    settings = {"sanitize.learning_rate": [0.017, 0.29]}
    sweep = {"settings": settings, "score": {"task": "house", "model": "tuned"}}
    best = evidence(plan=plan, spent=(plan.spent(),), sweep=sweep)
    facts = release(best, ROWS, adapter, tmp_path / "out")
    assert facts["epsilon"] == facts["epsilon_rdp"] == plan.cost().epsilon > PLAN.cost().epsilon
    assert "RDP (Papernot & Steinke 2022)" in facts["accountant"]
    assert (facts["trials"], facts["sweep"], facts["runs_over_the_same_data"]) == (4.0, sweep, 1)
    assert any("Poisson, mean 4" in line for line in facts["covered"])
    for name in ("README.md", "report.html"):
        assert "Poisson with mean 4" in (tmp_path / "out" / name).read_text()
    assert "0.017, 0.29" in (tmp_path / "out" / "report.html").read_text()
    for change in ({"trials": 2.0}, {"trials": None}, {"trials": None, "selection": "composition"}):
        write_sealed(tmp_path / "out" / "privacy.json", facts | change)
        with pytest.raises(UserError, match=r"privacy\.json|privacy\.trials"):
            verify_bundle(tmp_path / "out")


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
    with pytest.raises(UserError, match="ε is not finite"):
        release(evidence(plan=plan, spent=spent), ROWS, adapter, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_run_beside_another_without_noise_is_not_released(tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(UserError, match="another over the same data trained without noise"):
        release(evidence(others=(Spent(0.01, 0.0, 5),)), ROWS, adapter, tmp_path / "no")


def test_a_bundle_that_would_not_verify_is_not_made(tmp_path: Path, adapter: Path) -> None:
    fewer = (PLAN.spent(3),)
    with pytest.raises(UserError, match="what was spent is not what the plan says"):
        release(evidence(spent=fewer), ROWS, adapter, tmp_path / "no")
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_the_card_names_the_license_and_no_place_on_the_owners_machine(
    tmp_path: Path, adapter: Path
) -> None:
    local = evidence(junior="/home/someone/small", premium="/home/someone/large")
    release(local, ROWS, adapter, tmp_path / "out", license="apache-2.0")
    assert 'license: "apache-2.0"' in (tmp_path / "out" / "README.md").read_text()
    for name in ("privacy.json", "README.md", "report.html"):
        assert "/home" not in (tmp_path / "out" / name).read_text()


def test_what_is_not_a_release_is_not_replaced(tmp_path: Path, adapter: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is there and is not a release"):
        release(evidence(), ROWS, adapter, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [100, 10_000, 200_000])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, adapter: Path, room: int) -> None:
    if room == 200_000:
        more = f"{LAYER.replace('.0.', '.1.')}.lora_"
        wide = {f"{more}A.weight": torch.ones(2, 40_000), f"{more}B.weight": torch.ones(8, 2)}
        write_tensors(adapter / "adapter_model.safetensors", **wide)
    with room_for(room), pytest.raises(UserError, match="cannot be written"):
        release(evidence(), ROWS, adapter, tmp_path / "no")
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, adapter: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        release(evidence(), ROWS, adapter, tmp_path / "file" / "release")


def test_a_bundle_can_be_moved(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle, tmp_path / "elsewhere")
    verify_bundle(tmp_path / "elsewhere")


def test_a_failed_release_leaves_the_old_one(bundle: Path, adapter: Path) -> None:
    before = sha256_tree(bundle)
    hashes = sha256_tree(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        release_files(evidence(title="other"), ROWS, adapter, hashes, bundle)
    assert sha256_tree(bundle) == before
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["adapter", "release"]


WORDS = "09f7627fce24e20368aeb910054772fdbf6a282c51158d7f16c57db2503bc4f3"


def test_the_words_of_card_and_page_are_those_of_this_format(bundle: Path) -> None:
    """Where they change, bundles that were published no longer verify: raise release.FORMAT."""
    shown = evidence(versions={"privcode": "1", "dp-accounting": "1", "python": "3"})
    words = card(shown, 3, "mit") + page(shown)
    assert hashlib.sha256(words.encode()).hexdigest() == WORDS, "raise FORMAT, and then this"
