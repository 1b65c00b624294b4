"""A config may extend another: merged before it is checked, and wrong in one line."""

from pathlib import Path

import pytest

from privcode.config import load_config
from privcode.errors import UserError

BASE = """\
data: {source: private.jsonl, public: true}
privacy: {epsilon: 4, delta: 1.0e-6, units: 16000, batch: 256, steps: 60}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 4, targets: [q_proj, v_proj]}}
premium: {model: "bundled:premium"}
compare: {epsilons: {privcode: [1, 4]}}
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_file_that_extends_nothing_is_what_it_says(tmp_path: Path) -> None:
    write(tmp_path, base=BASE, child="extends: base.yaml\n")
    assert load_config(tmp_path / "child.yaml") == load_config(tmp_path / "base.yaml")


def test_mappings_are_merged_and_all_else_is_replaced(tmp_path: Path) -> None:
    write(
        tmp_path,
        base=BASE,
        middle="extends: base.yaml\nprivacy: {steps: 70}\njunior: {lora: {targets: [k_proj]}}\n",
        child="extends: middle.yaml\nprivacy: {epsilon: 1}\ncompare: {epsilons: {dpft: [2]}}\n",
    )
    config = load_config(tmp_path / "child.yaml")
    assert (config.privacy.epsilon, config.privacy.steps, config.privacy.batch) == (1, 70, 256)
    assert (config.junior.lora.r, config.junior.lora.targets) == (4, ["k_proj"])
    assert config.compare.epsilons == {"privcode": [1, 4], "dpft": [2]}


def test_the_extended_file_lies_beside_the_one_that_names_it_and_data_beside_the_first(
    tmp_path: Path,
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "own").mkdir()
    write(tmp_path / "shared", base=BASE, middle="extends: base.yaml\n")
    write(tmp_path / "own", child="extends: ../shared/middle.yaml\n")
    for folder in ("shared", "own"):
        (tmp_path / folder / "private.jsonl").write_text("")
    config = load_config(tmp_path / "own" / "child.yaml")
    assert config.data.source == str(tmp_path / "own" / "private.jsonl")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"child": "extends: none.yaml\n"}, r"none\.yaml: cannot be read"),
        ({"child": "extends: [a, b]\n"}, r"child\.yaml, field extends: must be the name of one"),
        ({"child": "extends: child.yaml\n"}, "field extends: child.yaml extends this file in turn"),
        (
            {"child": "extends: base.yaml\n", "base": "extends: ./child.yaml\n"},
            r"base\.yaml, field extends: \./child\.yaml extends this file in turn",
        ),
        ({"child": "extends: base.yaml\n", "base": "- 1\n"}, r"base\.yaml: holds no settings"),
        ({"child": "extends: base.yaml\n", "base": "a: {\n"}, r"base\.yaml, line 2: not valid"),
        (
            {"child": "extends: base.yaml\n", "base": BASE + "boost: {speed: 1}\n"},
            r"child\.yaml over \S*base\.yaml, field boost\.speed: is not a setting",
        ),
    ],
)
def test_a_wrong_extension_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    write(tmp_path, **files)
    with pytest.raises(UserError, match=words) as refused:
        load_config(tmp_path / "child.yaml")
    assert "\n" not in str(refused.value)


def test_dropout_on_the_junior_is_refused(tmp_path: Path) -> None:
    write(tmp_path, base=BASE, child="extends: base.yaml\njunior: {lora: {dropout: 0.05}}\n")
    with pytest.raises(UserError, match=r"junior\.lora\.dropout: .*leave it out"):
        load_config(tmp_path / "child.yaml")
