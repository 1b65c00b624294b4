"""`sanitize.micro_batch: auto`: what is found fits, is no more than is free, and stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.config import Config, load_config
from privcode.errors import UserError
from privcode.exercises.corpus import private_records, public_prompts
from privcode.files import read_json, write_jsonl
from privcode.pipeline.models import MICRO_BATCH, micro_batch
from privcode.pipeline.run import Run
from privcode.pipeline.stages import sanitize as stage
from privcode.privacy.plan import make_plan
from privcode.training import dp_sgd, fitting
from privcode.training.learner import Learner, fitting_micro_batch, try_out
from privcode.training.settings import Sanitize

MB = 1 << 20


def learner(tokens: int = 256) -> Learner:
    """A model whose activations are far larger than what the measure may miss."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
    )
    targets = ["q_proj", "down_proj"]
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=targets))
    return Learner(model, 0, tokens)


def plan(batch: int = 512) -> Any:
    return make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-4, units=2000, batch=batch, steps=1
    )


@pytest.mark.parametrize("free", [150, pytest.param(400, marks=pytest.mark.slow)])
def test_what_is_found_takes_no_more_than_what_is_free(
    free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_free_on_cpu", lambda: free * MB)
    found = fitting_micro_batch(learner(), plan())
    assert found & (found - 1) == 0
    taken = []
    for rows in (found, 4 * found):
        one = learner()
        clipper = plan().clipper(one.model)
        taken.append(fitting._on_cpu(lambda one=one, c=clipper, rows=rows: try_out(one, c, rows)))
    assert taken[0] < free * MB < taken[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_what_is_found_takes_no_more_than_what_is_free_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = learner()
    one.model.cuda()
    monkeypatch.setattr(fitting, "_free_on_gpu", lambda: 400 * MB)
    found = fitting_micro_batch(one, plan())
    clipper = plan().clipper(one.model)
    assert fitting._on_gpu(lambda: try_out(one, clipper, found)) < 400 * MB


def test_longer_records_and_less_memory_give_fewer_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for tokens, free in ((128, 600), (512, 600), (128, 100)):
        monkeypatch.setattr(fitting, "_free_on_cpu", lambda free=free: free * MB)
        found.append(fitting_micro_batch(learner(tokens), plan()))
    assert found[1] < found[0]
    assert found[2] < found[0]


def test_no_more_records_are_found_than_a_batch_is_expected_to_have() -> None:
    assert fitting_micro_batch(learner(64), plan(batch=9)) == 8


def test_memory_for_not_even_one_record_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_free_on_cpu", lambda: MB)
    with pytest.raises(UserError, match=r"sanitize\.micro_batch: memory is too small"):
        fitting_micro_batch(learner(), plan())


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{70 * MB}\n")
    (tmp_path / "memory.current").write_text(f"{30 * MB}\n")
    monkeypatch.setattr(fitting, "_CGROUP", tmp_path)
    assert fitting._free_on_cpu() == 40 * MB
    (tmp_path / "memory.max").write_text("max\n")
    assert fitting._free_on_cpu() > 40 * MB


def test_a_measure_leaves_nothing_in_the_next_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    one = learner(64)
    before = {n: p.clone() for n, p in one.model.named_parameters()}
    fitting_micro_batch(one, plan(batch=4))
    assert all(torch.equal(p, before[n]) for n, p in one.model.named_parameters())
    assert all(p.grad is None for p in one.model.parameters())


CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 60, batch: 6, steps: 2}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 64}
sanitize: {micro_batch: auto, syntax: {schedule: "off"}}
premium: {model: "bundled:premium", lora: {r: 2, alpha: 4}}
"""


def config_in(folder: Path) -> Config:
    write_jsonl(folder / "private.jsonl", private_records(60, seed=1))
    write_jsonl(folder / "prompts.jsonl", public_prompts(4, seed=1))
    (folder / "privcode.yaml").write_text(CONFIG)
    return load_config(folder / "privcode.yaml")


def test_memory_is_measured_before_a_private_record_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reading leaves in memory depends on the longest record, and what is found is printed."""
    order: list[str] = []

    def measured(*_: Any) -> int:
        order.append("measured")
        return 2

    def read(*_: Any, **__: Any) -> Any:
        order.append("read")
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "fitting_micro_batch", measured)
    monkeypatch.setattr(stage, "private_records", read)
    with Run(config_in(tmp_path), tmp_path / "run") as run, pytest.raises(KeyboardInterrupt):
        run.do("sanitize")
    assert order == ["measured", "read"]


def test_a_run_keeps_what_was_found_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path)
    real, given = dp_sgd.sanitize, []

    def killed(*arguments: Any) -> Any:
        given.append(arguments[4].micro_batch)
        if len(given) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(dp_sgd, "sanitize", killed)
    with Run(config, tmp_path / "run") as run:
        with pytest.raises(KeyboardInterrupt):
            run.do("sanitize")
        assert read_json(run.private / MICRO_BATCH) == {"records": 4}
        monkeypatch.setattr(stage, "fitting_micro_batch", lambda *_: 2)  # less memory today
        run.do("sanitize")
        assert micro_batch(run) == 4
    assert given == [4, 4]
    assert stage.STAGE.private[-1] == MICRO_BATCH


@pytest.mark.parametrize("value", [0, 1.5, True, "all", None, 10**7])
def test_a_micro_batch_that_is_neither_a_number_nor_auto_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be auto, or a whole number"):
        Sanitize(micro_batch=value)
    assert Sanitize(micro_batch="auto").micro_batch == "auto"
    assert Sanitize(micro_batch=8.0).micro_batch == 8  # type: ignore[arg-type]
