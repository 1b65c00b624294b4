"""A quantised base is a dense base with the dequantised weights, for DP training and for plain."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from privcode.config import load_config
from privcode.errors import UserError
from privcode.models import attach_lora, load_model, quantised, save_model
from privcode.models.facts import check
from privcode.models.settings import Model
from privcode.pipeline.budget import settings_digest
from privcode.privacy.clipping import Clipper
from privcode.training.examples import Example, collate
from privcode.training.learner import Learner, try_out
from privcode.training.loss import per_example_losses, split_head
from privcode.training.settings import Boost
from privcode.training.tuning import boost

WAYS = ("8bit", "4bit")
missing = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes (extra quant) is not installed"
)


def packed(test: Any) -> Any:
    """A test that needs the extra, which only the slow tests have."""
    return pytest.mark.slow(missing(test))


def tuned(quantization: Any, targets: list[str] | None = None, **changes: Any) -> Any:
    """The bundled junior with an adapter, whose B is not zero."""
    base = load_model("bundled:junior", quantization=quantization, **changes)
    torch.manual_seed(0)
    model = attach_lora(base, 4, 8, 0.0, targets)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def dense(model: Any, targets: list[str] | None = None, **changes: Any) -> Any:
    """The same with the dequantised weights of `model` in ordinary layers."""
    other = tuned("none", targets, **changes)
    for name, layer in model.named_modules():
        if quantised.is_quantised(layer):
            weight = other.get_submodule(name).weight
            weight.data.copy_(quantised.dequantised(layer))
    return other


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(2)
    lengths = (9, 30, 17, 24, 12)
    return [
        Example(
            tuple(torch.randint(1, 200, (length,), generator=generator).tolist()),
            3,
            tuple(i % 2 == 0 for i in range(length)),
        )
        for length in lengths
    ]


def rows(model: Any) -> torch.Tensor:
    """[records, parameters]: what DP-SGD clips, with the syntax term and the head in chunks."""
    clipper = Clipper(model, 0.5)
    batch = collate(examples(), 0, clipper.device)
    head = split_head(model)
    assert head is not None
    with clipper.recording(len(batch.ids)):
        per_example_losses(model, batch, 2.0, head).sum().backward()
    return clipper.take_rows()


@packed
@pytest.mark.gpu
@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"]])
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_each_record_is_that_of_the_dequantised_model(
    way: Any, targets: list[str] | None
) -> None:
    model = tuned(way, targets)
    layers = [m for m in model.modules() if quantised.is_quantised(m)]
    assert layers
    assert all(m.weight.dtype in (torch.int8, torch.uint8) for m in layers)
    got, expected = rows(model), rows(dense(model, targets))
    apart = (got - expected).double().norm(dim=1) / expected.double().norm(dim=1)
    assert float(apart.max()) < 1e-5
    plain = rows(tuned("none", targets))  # quantising does change the model
    assert float((got - plain).norm() / plain.norm()) > 1e-3


@packed
@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_quantised_model_passes_the_trial_of_records_in_company(way: Any) -> None:
    model = tuned(way)
    expected = "any number" if model.device.type == "cpu" else "always as many"
    assert try_out(Learner(model, 0, 48), Clipper(model, 0.5), 4) == expected


@packed
@pytest.mark.parametrize("way", WAYS)
def test_the_adapter_of_a_quantised_model_is_saved_and_fits_the_dense_one(
    way: Any, tmp_path: Path
) -> None:
    from privcode.models import load_adapter

    model = tuned(way)
    save_model(model, tmp_path / "adapter", base="bundled:junior")
    again = load_adapter(load_model("bundled:junior"), tmp_path / "adapter")
    saved = {n: p for n, p in again.named_parameters() if "lora_" in n}
    own = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert saved.keys() == own.keys()
    assert all(torch.equal(saved[name], own[name]) for name in own)


@packed
@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_boost_trains_an_fp32_adapter_on_a_quantised_model(way: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from privcode.models import load_tokenizer

    section = Model(model="bundled:junior", quantization=way)
    boost(
        load_model(section.model, quantization=way),
        load_tokenizer(section.model),
        [(f"Problem {n}\n", f"x = {n}\n") for n in range(4)],
        section,
        Boost(epochs=1, batch_size=2, micro_batch=2),
        tmp_path / "checkpoints",
        tmp_path / "out",
    )
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert any(float(w.norm()) > 0 for n, w in weights.items() if "lora_B" in n)


def test_a_missing_extra_is_one_line_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"junior\.quantization: 4bit.*privcode\[quant\]"):
        check(Model(model="bundled:junior", quantization="4bit"), "junior")


@packed
@pytest.mark.parametrize("way", WAYS)
def test_a_machine_that_reads_back_other_numbers_is_refused(
    way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(Model(model="bundled:junior", quantization=way), "junior")
    monkeypatch.setattr(quantised, "dequantised", lambda layer: torch.zeros(64, 128))
    with pytest.raises(UserError, match=r"premium\.quantization: .bit does not work"):
        check(Model(model="bundled:junior", quantization=way), "premium")


@packed
def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = load_model("bundled:junior")
    model.model.layers[0].mlp.up_proj.weight.data[3, 3] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match="is not finite"):
        load_model(str(tmp_path / "broken"), quantization="4bit")


CONFIG = """\
data: {source: private.jsonl, language: python, public: true}
privacy: {epsilon: 8, delta: 1.0e-4, units: 100, batch: 8, steps: 12}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("sanitize: {shard: true}\njunior: {model: a, quantization: 8bit}", "sanitize.shard"),
        ("boost: {shard: true}\npremium: {model: a, quantization: 8bit}", r"boost\.shard"),
        ("method: jft\npremium: {model: a, quantization: 4bit}", "jft merges"),
        ("boost: {method: full}\npremium: {model: a, quantization: 4bit}", "must be lora"),
    ],
)
def test_ways_that_do_not_work_together_are_refused(
    tmp_path: Path, changes: str, words: str
) -> None:
    (tmp_path / "base.yaml").write_text(CONFIG)
    (tmp_path / "privcode.yaml").write_text(f"extends: base.yaml\n{changes}\n")
    with pytest.raises(UserError, match=words):
        load_config(tmp_path / "privcode.yaml")


def test_the_new_settings_at_their_defaults_are_no_part_of_a_ledgers_digest(
    tmp_path: Path,
) -> None:
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    values = load_config(tmp_path / "privcode.yaml").model_dump(by_alias=True)
    before = settings_digest(values)
    assert before == "ae109ab3453b503cd0cbc64bfa9dfa97c9289a33940f16f863a3ee618bac1bfb"
    del values["sanitize"]["shard"], values["junior"]["quantization"]
    assert settings_digest(values) == before  # a config.yaml that was written before
    values["junior"]["quantization"] = "4bit"
    assert settings_digest(values) != before
