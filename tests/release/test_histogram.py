"""A bundle says that there was a histogram and what it cost, and `verify` recomputes it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privcode.release.verify import verify_bundle
from tests.helpers.bundles import PLAN, evidence, facts_of, forge, make_bundle, reseal
from tests.helpers.commands import refused

STEERED = replace(PLAN, histogram_noise_multiplier=2.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    shown = evidence(plan=STEERED, spent=(STEERED.spent(),), prompts=None)
    return make_bundle(tmp_path, shown)


def test_the_bundle_states_the_histogram_and_an_epsilon_that_covers_it(bundle: Path) -> None:
    facts = verify_bundle(bundle)
    assert facts["format"] == 2
    assert facts["histogram_noise_multiplier"] == 2.0
    assert facts["epsilon"] == STEERED.cost().epsilon > 1.5 * PLAN.cost().epsilon
    assert facts["spent"][0]["histogram_noise_multiplier"] == 2.0
    assert any("released once with Gaussian noise (noise mult" in line for line in facts["covered"])
    for name in ("README.md", "report.html"):
        assert "histogram of what prompts are about" in (bundle / name).read_text()


def test_without_a_histogram_nothing_of_a_bundle_mentions_one(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert facts_of(bundle)["format"] == 1
    for path in bundle.rglob("*"):
        assert path.is_dir() or b"histogram" not in path.read_bytes()


def removed_from_the_plan(bundle: Path) -> None:
    facts = facts_of(bundle)
    del facts["histogram_noise_multiplier"]
    (bundle / "privacy.json").unlink()
    _write(bundle, facts)


def removed_from_what_was_spent(bundle: Path) -> None:
    spent = PLAN.spent().facts()
    reseal(bundle, spent=[spent])


def removed_from_both(bundle: Path) -> None:
    facts = facts_of(bundle) | {"spent": [PLAN.spent().facts()]}
    del facts["histogram_noise_multiplier"]
    _write(bundle, facts)


def cheaper_epsilon(bundle: Path) -> None:
    reseal(bundle, epsilon=PLAN.cost().epsilon, epsilon_rdp=PLAN.cost().epsilon_rdp)


def more_noise(bundle: Path) -> None:
    spent = replace(STEERED, histogram_noise_multiplier=20.0).spent().facts()
    reseal(bundle, histogram_noise_multiplier=20.0, spent=[spent])


def more_noise_under_the_old_words(bundle: Path) -> None:
    words = {name: (bundle / name).read_bytes() for name in ("README.md", "report.html")}
    plan = replace(STEERED, histogram_noise_multiplier=20.0)
    forge(bundle, plan=plan, spent=(plan.spent(),))
    for name, text in words.items():
        (bundle / name).write_bytes(text)
    reseal(bundle)


def hidden_under_the_old_words(bundle: Path) -> None:
    words = {name: (bundle / name).read_bytes() for name in ("README.md", "report.html")}
    forge(bundle, plan=PLAN, spent=(PLAN.spent(),))
    for name, text in words.items():
        (bundle / name).write_bytes(text)
    facts = facts_of(bundle)
    facts.pop("histogram_noise_multiplier", None)
    _write(bundle, facts)


def _write(bundle: Path, facts: dict[str, Any]) -> None:
    from privcode.files import sha256_tree, write_sealed

    facts["files"] = {k: v for k, v in sha256_tree(bundle).items() if k != "privacy.json"}
    write_sealed(bundle / "privacy.json", facts)


def changed(**facts: Any) -> Callable[[Path], None]:
    return lambda bundle: reseal(bundle, **facts)


LIES: dict[str, Callable[[Path], None]] = {
    "removed from the plan": removed_from_the_plan,
    "removed from what was spent": removed_from_what_was_spent,
    "removed from both": removed_from_both,
    "a cheaper epsilon": cheaper_epsilon,
    "more noise": more_noise,
    "more noise under the old words": more_noise_under_the_old_words,
    "hidden under the old words": hidden_under_the_old_words,
    "the format of a bundle without one": changed(format=1),
    "no noise": changed(histogram_noise_multiplier=0.0),
    "noise of a text": changed(histogram_noise_multiplier="2.0"),
    "noise of minus one": changed(histogram_noise_multiplier=-1.0),
    "a named file of prompts": lambda bundle: forge(bundle, prompts="prompts.jsonl"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_the_histogram_is_refused(lie: str, bundle: Path) -> None:
    LIES[lie](bundle)
    refused("verify", bundle)


def test_a_histogram_of_another_run_is_stated_and_charged(tmp_path: Path) -> None:
    other = replace(PLAN, histogram_noise_multiplier=3.0).spent()
    bundle = make_bundle(tmp_path, evidence(others=(other,)))
    facts = verify_bundle(bundle)
    assert facts["spent"][1]["histogram_noise_multiplier"] == 3.0
    assert facts["epsilon"] == PLAN.cost((other,)).epsilon
    assert "a histogram with noise 3" in (bundle / "report.html").read_text()
    reseal(bundle, spent=[PLAN.spent().facts(), PLAN.spent().facts()])
    refused("verify", bundle)
