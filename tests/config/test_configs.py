"""Every config that comes with privcode loads and makes its arms; published figures are as listed.

Offline: a config names models and files that need not be here.
"""

from pathlib import Path

import pytest

from privcode.config import Compare, load_config
from privcode.pipeline.arms import arms, check_published

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER = CONFIGS / "paper"

HEADLINE = {
    "humaneval": 66.5,
    "humaneval+": 61.0,
    "humaneval-complete": 43.9,
    "humaneval+-complete": 43.3,
}
"""PrivCode, Qwen2.5-Coder-7B, ε 4, pass@1 in % (arXiv 2512.05459); no other figure is at hand."""


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_a_config_loads_and_makes_its_arms(path: Path) -> None:
    config = load_config(path)
    check_published(config)
    assert len(arms(config)) >= len(config.compare.methods)
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_figure_said_to_be_the_papers_is_the_papers(path: Path) -> None:
    config = load_config(path)
    for row in config.compare.published:
        of = {name: row[name] for name in row if name not in HEADLINE}
        assert of.pop("method") == "privcode"
        assert of.pop("epsilon") == config.privacy.epsilon == 4
        assert of.pop("premium.model", config.premium.model) == "Qwen/Qwen2.5-Coder-7B"
        assert not of
        assert {name: row[name] * 100 for name in HEADLINE} == pytest.approx(HEADLINE)
    assert bool(config.compare.published) == (path.stem in ("main", "ablations"))


def test_the_main_comparison_is_that_of_the_paper() -> None:
    config = load_config(PAPER / "main.yaml")
    found = arms(config)
    assert config.compare != Compare()
    assert {arm.config.premium.model for arm in found.values()} == {
        "deepseek-ai/deepseek-coder-6.7b-base",
        "Qwen/Qwen2.5-Coder-7B",
        "google/codegemma-7b",
        "Qwen/CodeQwen1.5-7B",
    }
    assert {arm.config.junior.model for arm in found.values()} == {"Qwen/Qwen2.5-Coder-1.5B"}
    for method in ("privcode", "dpft", "jft"):
        budgets = sorted(a.epsilon or 0 for a in found.values() if a.method == method)
        assert budgets == sorted([0.2, 1, 4, 10] * 4)
    # PrivSA is the method's own, and one DP junior for each ε serves all premium models.
    for arm in found.values():
        trained = arm.config.sanitize.syntax.schedule
        assert trained == ("off" if arm.method in ("dpft", "jft") else "decay")
    juniors = [a for a in found.values() if a.method == "privcode" and "sanitize" not in a.taken]
    assert len(juniors) == 4
