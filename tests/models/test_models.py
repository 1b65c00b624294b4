"""A model or adapter without a weight, or with one that is not a number, is refused by name."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from privcode.config import Config, parse_config
from privcode.errors import UserError
from privcode.models import (
    attach_lora,
    check_model,
    load_adapter,
    load_encoder,
    load_model,
    load_tokenizer,
    save_model,
)
from privcode.pipeline.preflight import refuse_early
from tests.helpers.bundled import ASSETS

WEIGHT = "model.layers.0.mlp.down_proj.weight"
Weights = dict[str, torch.Tensor]


def changed(source: Path, target: Path, file: str, change: Callable[[Weights], None]) -> Path:
    shutil.copytree(source, target)
    weights = load_file(target / file)
    change(weights)
    save_file(weights, target / file, metadata={"format": "pt"})
    return target


def model_with(folder: Path, change: Callable[[Weights], None]) -> str:
    return str(changed(ASSETS / "junior", folder / "model", "model.safetensors", change))


def without(weights: Weights) -> None:
    del weights[WEIGHT]


def with_value(value: float) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[WEIGHT] = weights[WEIGHT].float()
        weights[WEIGHT].view(-1)[7] = value

    return change


@pytest.mark.parametrize("load", [load_model, load_encoder])
def test_a_model_without_one_of_its_weights_is_refused_by_the_weights_name(
    tmp_path: Path, load: Callable[[str], object]
) -> None:
    name = model_with(tmp_path, without)
    with pytest.raises(UserError, match=r"lacks weight .*layers\.0\.mlp\.down_proj\.weight"):
        load(name)


@pytest.mark.parametrize("load", [load_model, load_encoder])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_its_name(
    tmp_path: Path, load: Callable[[str], object], value: float
) -> None:
    name = model_with(tmp_path, with_value(value))
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.down_proj\.weight is not finite"):
        load(name)


def test_a_weight_too_large_for_the_dtype_is_refused_by_its_name(tmp_path: Path) -> None:
    name = model_with(tmp_path, with_value(1e6))
    load_model(name)
    with pytest.raises(UserError, match=r"down_proj\.weight is not finite .* another dtype"):
        load_model(name, "float16")


def test_a_tied_head_is_no_missing_weight() -> None:
    assert "lm_head.weight" not in load_file(ASSETS / "junior" / "model.safetensors")
    assert load_model("bundled:junior").config.tie_word_embeddings


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "tokenizer.json"])
def test_a_pointer_in_place_of_a_file_is_named(tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(ASSETS / "junior", tmp_path / "model"))
    if file.endswith(".bin"):
        (folder / "model.safetensors").unlink()
    (folder / file).write_text(POINTER)
    load: Callable[[str], object] = load_tokenizer if "tokenizer" in file else load_model
    with pytest.raises(UserError, match=rf"cannot be loaded .*{file} is a pointer .* git lfs pull"):
        load(str(folder))


@pytest.mark.parametrize("files", [[], ["config.json"]])
def test_an_adapters_folder_is_no_model(adapter: Path, files: list[str]) -> None:
    for file in files:
        shutil.copy(ASSETS / "junior" / file, adapter)
    with pytest.raises(UserError, match=r"cannot be loaded .*it is an adapter; merge it"):
        load_model(str(adapter))


def test_an_adapter_next_to_the_weights_is_refused(adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ASSETS / "junior", tmp_path / "both"))
    for file in adapter.iterdir():
        shutil.copy(file, folder)
    with pytest.raises(UserError, match="has an adapter next to its weights"):
        load_model(str(folder))


@pytest.fixture
def junior_with(tmp_path: Path) -> Callable[..., str]:
    def make(file: str, **fields: object) -> str:
        path = Path(shutil.copytree(ASSETS / "junior", tmp_path / "changed")) / file
        path.write_text(
            json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields)
        )
        return str(path.parent)

    return make


def test_a_configuration_that_cannot_be_is_one_line(junior_with: Callable[..., str]) -> None:
    name = junior_with("config.json", pad_token_id=99999)
    with pytest.raises(UserError, match=r"cannot be loaded \(Padding_idx must be within"):
        load_model(name)


def test_a_model_that_gives_tuples_can_be_used(junior_with: Callable[..., str]) -> None:
    model = load_model(junior_with("config.json", return_dict=False))
    assert model(input_ids=torch.tensor([[3, 4]])).logits.shape[:2] == (1, 2)


def config_of(junior: str, premium: str) -> Config:
    return parse_config(
        {
            "data": {"source": "none.jsonl"},
            "privacy": {"delta": 1e-5, "units": 1000},
            "prompts": {"source": "public", "file": "prompts.txt"},
            "junior": {"model": junior},
            "premium": {"model": premium},
        }
    )


@pytest.mark.parametrize("which", ["junior", "premium"])
@pytest.mark.parametrize("change", [without, with_value(math.nan)])
def test_both_models_of_a_run_are_checked_before_any_budget(
    tmp_path: Path, which: str, change: Callable[[Weights], None]
) -> None:
    bad = model_with(tmp_path, change)
    models = {"junior": "bundled:junior", "premium": "bundled:premium"} | {which: bad}
    check_model.cache_clear()
    with pytest.raises(UserError, match=r"model .*layers\.0\.mlp\.down_proj"):
        refuse_early(config_of(**models), ["boost"])


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = attach_lora(load_model("bundled:junior"), 2, 4, 0.0)
    save_model(model, tmp_path / "adapter", base="bundled:junior")
    load_adapter(load_model("bundled:junior"), tmp_path / "adapter")
    return tmp_path / "adapter"


def lacking(weights: Weights) -> None:
    del weights[next(name for name in sorted(weights) if "layers.1.self_attn.q_proj" in name)]


def strange(weights: Weights) -> None:
    first = next(iter(weights.values()))
    weights["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = first.clone()


def infinite(weights: Weights) -> None:
    name = next(name for name in sorted(weights) if "layers.1.self_attn.q_proj" in name)
    weights[name].view(-1)[0] = math.inf


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lacking, r"lacks weight .*layers\.1\.self_attn\.q_proj"),
        (strange, r"no place for, .*layers\.9\.mlp\.up_proj"),
        (infinite, r"layers\.1\.self_attn\.q_proj.* is not finite"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused_by_the_weights_name(
    tmp_path: Path, adapter: Path, change: Callable[[Weights], None], says: str
) -> None:
    bad = changed(adapter, tmp_path / "bad", "adapter_model.safetensors", change)
    with pytest.raises(UserError, match=says):
        load_adapter(load_model("bundled:junior"), bad)
