"""Boost: what is learned from, what is written, and that a kill costs nothing but time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

import privcode
from privcode.errors import UserError
from privcode.files import failed_write, sha256_tree
from privcode.models import load_model
from privcode.models.settings import Lora, Model
from privcode.training import tuning
from privcode.training.settings import Boost
from privcode.training.tuning import boost, encode

ASSET = Path(privcode.__file__).parent / "assets" / "junior"
PAIRS = [(f"Return {n}.\n", f"def f():\n    return {n}\n") for n in range(24)]


def tiny() -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(ASSET)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def run(tmp: Path, method: Any = "lora", **changes: Any) -> int:
    model, tokenizer = changes.pop("model", None) or tiny()
    torch.seed()  # what was drawn before must not matter
    progress, pairs = changes.pop("progress", None), changes.pop("pairs", PAIRS)
    section = Model(
        model="bundled:junior",
        max_tokens=changes.pop("max_tokens", 128),
        lora=Lora(r=4, alpha=8, dropout=0.1),
        gradient_checkpointing=changes.pop("gradient_checkpointing", False),
    )
    settings = Boost(
        **{
            "method": method,
            "epochs": 3,
            "learning_rate": 1e-2,
            "batch_size": 4,
            "micro_batch": 2,
            "warmup_ratio": 0.1,
            "weight_decay": 0.01,
            "seed": 5,
        }
        | changes
    )
    tuning.SAVE_EVERY = 4
    places = (tmp / "checkpoints", tmp / "out")
    return boost(model, tokenizer, pairs, section, settings, *places, progress)


def test_the_loss_is_on_the_completion_and_its_end_token_only() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSET)
    (row,) = encode(tokenizer, PAIRS[:1], 128)
    head = tokenizer(PAIRS[0][0], add_special_tokens=False)["input_ids"]
    learned = [token for token in row["labels"] if token != -100]
    assert row["labels"][: len(head)] == [-100] * len(head)
    assert row["input_ids"] == head + learned
    assert tokenizer.decode(learned[:-1]) == PAIRS[0][1]
    assert learned[-1] == tokenizer.eos_token_id


def test_a_pair_that_is_too_long_is_left_out_whole_and_counted(tmp_path: Path) -> None:
    long = ("Return it.\n", "x = 1\n" * 200)
    assert run(tmp_path, pairs=[*PAIRS[:4], long], epochs=1) == 1


def test_no_pair_short_enough_is_refused_by_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"premium\.max_tokens"):
        run(tmp_path, max_tokens=2)


def test_a_batch_that_micro_batches_do_not_divide_is_taken_whole(tmp_path: Path) -> None:
    steps: list[int] = []
    for name, micro in (("two", 2), ("whole", 5)):
        where = tmp_path / name
        run(where, "full", batch_size=5, micro_batch=micro, learning_rate=1e-3)
    run(tmp_path / "steps", batch_size=5, progress=steps.append)
    assert sum(steps) == 3 * 5  # 24 pairs: four steps of five and one of four
    one, other = (
        load_file(tmp_path / name / "out" / "model.safetensors") for name in ("two", "whole")
    )
    assert max(float((one[n] - other[n]).norm() / one[n].norm()) for n in one) < 1e-5


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_processor_takes_the_steps_of_trls_own_loss(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> tuple[Any, Any]:
        plain, tokenizer = tiny()
        if family == "llama":
            return plain, tokenizer
        torch.manual_seed(0)
        shape = plain.config.to_dict() | {"num_local_experts": 4, "router_aux_loss_coef": 0.5}
        del shape["architectures"], shape["model_type"]
        return MixtralForCausalLM(MixtralConfig(**shape)), tokenizer

    run(tmp_path / "ours", model=model(), batch_size=5)
    monkeypatch.setattr(tuning, "split_head", lambda model: None)
    run(tmp_path / "trls", model=model(), batch_size=5)
    ours, trls = (
        load_file(tmp_path / name / "out" / "adapter_model.safetensors")
        for name in ("ours", "trls")
    )
    assert max(float((ours[n] - trls[n]).norm() / trls[n].norm()) for n in trls) < 1e-4
    if family == "llama":
        assert any(bool((ours[n] != trls[n]).any()) for n in trls)  # two ways, not one twice


def test_lora_writes_a_plain_adapter_that_lowers_the_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[int] = []
    assert run(tmp_path, progress=steps.append) == 0
    assert capsys.readouterr().out == ""
    assert sum(steps) == 3 * 24 // 4
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    model, tokenizer = tiny()
    rows = list(encode(tokenizer, PAIRS, 128))

    def loss(model: Any) -> float:
        with torch.no_grad():
            return sum(
                model(**{k: torch.tensor([v]) for k, v in row.items()}).loss.item() for row in rows
            )

    before = loss(model.eval())
    assert loss(PeftModel.from_pretrained(model, tmp_path / "out").eval()) < before


def test_full_writes_a_model_and_tokenizer_that_load_and_the_prompt_is_not_learned(
    tmp_path: Path,
) -> None:
    run(tmp_path, "full", learning_rate=1e-3)
    before, tokenizer = tiny()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(tokenizer)
    # Output rows move by gradient for every token through the softmax, so look at the loss.
    head = torch.tensor([tokenizer(PAIRS[0][0], add_special_tokens=False)["input_ids"]])
    (row,) = encode(tokenizer, PAIRS[:1], 128)
    body, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    with torch.no_grad():
        gain = [
            (before(x, labels=y).loss - after(x, labels=y).loss).item()
            for x, y in ((head, head), (body, labels))
        ]
    assert gain[1] > 2 * abs(gain[0])


def test_a_model_whose_own_sampling_settings_contradict_each_other_can_be_tuned(
    tmp_path: Path,
) -> None:
    model, tokenizer = tiny()
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    own = {"temperature": 0.6, "top_p": 0.9, "do_sample": False, "eos_token_id": [1, 5]}
    file.write_text(json.dumps(own))
    run(tmp_path, "full", model=(load_model(str(tmp_path / "model")), tokenizer), epochs=1)
    assert load_model(str(tmp_path / "out")).generation_config.eos_token_id is not None


@pytest.mark.parametrize("wanted", [False, True])
def test_activations_are_recomputed_if_the_models_section_says_so(
    tmp_path: Path, wanted: bool
) -> None:
    model, tokenizer = tiny()
    run(tmp_path, model=(model, tokenizer), epochs=1, gradient_checkpointing=wanted)
    assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules()) == wanted


def test_a_second_call_continues_from_the_last_whole_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    left = iter(range(10))

    def stop(_: int) -> None:
        if next(left) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", progress=stop)
    broken = tmp_path / "cut" / "checkpoints" / "checkpoint-12"  # a kill in the middle of a save
    broken.mkdir()
    (broken / "trainer_state.json").write_text("{")
    steps: list[int] = []
    run(tmp_path / "cut", progress=steps.append)
    assert steps == [8] + [1] * 10
    assert sha256_tree(tmp_path / "cut" / "out") == sha256_tree(tmp_path / "whole" / "out")


def start(tmp: Path, method: str) -> subprocess.Popen[bytes]:
    code = f"import test_tuning, pathlib; test_tuning.run(pathlib.Path({str(tmp)!r}), {method!r})"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(privcode.__file__).parents[1])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_called_again_writes_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, method: str
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start(whole, method)
    assert process.wait(timeout=120) == 0, process.stderr and process.stderr.read()

    process = start(cut, method)
    deadline = time.monotonic() + 120
    while not list(cut.glob("checkpoints/checkpoint-*/complete.json")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "out").exists()
    # What a kill in the middle of the next save leaves: a newer checkpoint without its mark.
    broken = cut / "checkpoints" / "checkpoint-17"
    broken.mkdir()
    (broken / "trainer_state.json").write_text(json.dumps({"global_step": 17})[:9])

    process = start(cut, method)
    assert process.wait(timeout=120) == 0, process.stderr and process.stderr.read()
    assert sha256_tree(cut / "out") == sha256_tree(whole / "out")


def test_checkpoints_of_other_settings_are_not_continued(tmp_path: Path) -> None:
    stale = tmp_path / "checkpoints" / "checkpoint-4"
    stale.mkdir(parents=True)
    (stale / "complete.json").write_text('{"key": "of another run"}')
    assert run(tmp_path, epochs=1) == 0


def test_a_write_that_the_disk_refused_is_known_by_whatever_class_its_writer_gave_it() -> None:
    # As met on a full disk: Python, tokenizers, torch's zip writer, and one wrapped in another.
    wrapped = ValueError("while saving")
    wrapped.__cause__ = Exception("No space left on device (os error 28)")
    refused = (
        OSError(28, "No space left on device"),
        Exception("No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576256 vs 576144"),
        wrapped,
    )
    assert all(failed_write(error) for error in refused)
    assert failed_write(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
