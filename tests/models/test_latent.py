"""Encoder and decoder of latent conditioning: kept, read back, and used to write."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.data.prompts import Lessons
from privcode.data.records import Record, Unit
from privcode.data.settings import Prompts
from privcode.errors import UserError
from privcode.generation import Sampling, Weights
from privcode.generation.local import LocalGenerator, load
from privcode.models import (
    Latent,
    asking,
    attach_latent,
    attach_lora,
    context_length,
    load_latent,
    load_model,
    load_tokenizer,
    prompt_tokens,
    save_model,
    saving,
)
from privcode.models.latent import save_latent
from privcode.training.examples import lesson
from privcode.training.likelihood import record_log_probabilities

JUNIOR = "bundled:junior"
PLAIN = "Question: {prompt}\n\nAnswer:"


def junior(moved: float = 0.0) -> Any:
    torch.manual_seed(3)
    model = attach_lora(load_model(JUNIOR), 2, 4, 0.0)
    attach_latent(model, 4, 3)
    torch.nn.init.normal_(model.latent.decoder.weight, std=moved)
    return model.eval()


def records() -> list[Record]:
    return [
        Record(f"Add {n} to x.", f"x += {n}\n", "python", Unit("row", str(n)), n) for n in range(5)
    ]


def test_what_was_kept_is_read_back_and_another_model_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = junior(1.0)
    save_model(model, tmp_path / "adapter", base=JUNIOR)
    found = load_latent(tmp_path / "adapter")
    assert found is not None
    for name, value in model.latent.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    save_model(attach_lora(load_model(JUNIOR), 2, 4, 0.0), tmp_path / "other", base=JUNIOR)
    assert load_latent(tmp_path / "other") is None
    with monkeypatch.context() as patched:
        patched.setattr(saving, "save_latent", lambda latent, to: save_latent(Latent(4, 3, 2), to))
        with pytest.raises(UserError, match="is not the model in memory"):
            save_model(model, tmp_path / "adapter", base=JUNIOR)
    (tmp_path / "adapter" / "latent.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(UserError, match=r"latent\.safetensors: cannot be read; restore"):
        load_latent(tmp_path / "adapter")


def test_a_text_follows_its_z_and_one_seed_gives_the_same_texts(tmp_path: Path) -> None:
    save_model(junior(2.0), tmp_path / "adapter", base=JUNIOR)
    generator = load(Weights(JUNIOR, JUNIOR, "float32", (tmp_path / "adapter",)), 4)
    prompts = ["Question: Go.\n\nAnswer:"] * 8
    greedy = Sampling(temperature=0.0, max_new_tokens=8, latent=True)
    texts = [text for (text,) in generator.generate(prompts, greedy)]
    assert len(set(texts)) > 3  # the likeliest text for each z
    assert texts == [text for (text,) in generator.generate(prompts, greedy)]
    assert texts != [text for (text,) in generator.generate(prompts, greedy, chunk=1)]
    without = Sampling(temperature=0.0, max_new_tokens=8)
    assert len({text for (text,) in generator.generate(prompts, without)}) == 1


def test_a_text_after_a_prefix_is_the_models_own_continuation() -> None:
    """Greedy decoding by hand, from the embeddings, with rows of two lengths."""
    model, tokenizer = junior(2.0), load_tokenizer(JUNIOR)
    generator = LocalGenerator(model, tokenizer, 2, model.latent)
    rows = [tokenizer(text)["input_ids"] for text in ("Add one", "Subtract two from it and")]
    torch.manual_seed(11)
    found = generator._continue(rows, Sampling(temperature=0, max_new_tokens=6, latent=True))
    torch.manual_seed(11)
    prefixes = model.latent.prefixes(torch.randn(2, 4))
    for row, prefix, text in zip(rows, prefixes, found, strict=True):
        ids = list(row)
        for _ in range(6):
            embedded = model.get_input_embeddings()(torch.tensor(ids))
            whole = torch.cat([prefix, embedded])[None]
            ids.append(int(model(inputs_embeds=whole).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert tokenizer.decode(ids[len(row) :], skip_special_tokens=True) == text


def test_a_prompt_leaves_room_for_its_prefix_or_is_too_long() -> None:
    model, tokenizer = junior(), load_tokenizer(JUNIOR)
    generator = LocalGenerator(model, tokenizer, 2, model.latent)
    context, sampling = context_length(model.config), Sampling(max_new_tokens=9, latent=True)
    text = "x" + " x" * (context - 5)
    assert len(prompt_tokens(tokenizer, text)) == context - 4
    assert generator.fits(text)
    assert len(generator.generate([text], sampling)) == 1
    assert not generator.fits(f"{text} x")
    with pytest.raises(UserError, match="shorten it or choose a model with a longer context"):
        generator.generate([f"{text} x"], sampling)


def test_a_prompt_is_scored_for_its_own_record_and_in_any_company() -> None:
    model, tokenizer = junior(2.0), load_tokenizer(JUNIOR)
    put = asking(PLAIN, tokenizer)
    pairs = Lessons(records(), Prompts(source="latent", limit=1, opening="Go."))
    plain = LocalGenerator(model, tokenizer)
    conditioned = LocalGenerator(model, tokenizer, latent=model.latent)
    scores = []
    for size in (1, 10):
        ours = record_log_probabilities(conditioned, pairs, put, 64, size)
        theirs = record_log_probabilities(plain, pairs, put, 64, size)
        for number, ((own, _), (other, _)) in enumerate(zip(ours, theirs, strict=True)):
            assert len(own) == len(other)
            close = torch.allclose(torch.tensor(own), torch.tensor(other), atol=1e-4)
            assert close == (number % 2 == 1)  # code is scored as without a prefix
        scores.append(torch.cat([torch.tensor(own) for own, _ in ours]))
    assert torch.allclose(*scores, atol=1e-4)


def test_an_example_has_room_for_its_prefix_and_is_cut_to_the_context() -> None:
    tokenizer = load_tokenizer(JUNIOR)
    put = asking(PLAIN, tokenizer)
    written, code = Lessons(records()[:1], Prompts(source="latent", limit=1, opening="Go."))
    whole, cut = lesson(written, put, tokenizer, 64, prefix=3)
    bare, _ = lesson(written, put, tokenizer, 64)
    read, _ = lesson(code, put, tokenizer, 64)
    assert not cut
    assert whole.ids[3:] == bare.ids
    assert (whole.start, whole.read, whole.read_start) == (bare.start + 3, read.ids, read.start)
    assert whole.size == max(len(whole.ids), len(read.ids))
    short, cut = lesson(written, put, tokenizer, len(bare.ids), prefix=3)
    assert cut
    assert len(short.ids) == len(bare.ids)


def test_a_model_that_reads_embeddings_in_another_way_is_refused() -> None:
    class Shifted(LlamaForCausalLM):
        def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **more: Any) -> Any:
            if inputs_embeds is not None:
                inputs_embeds = inputs_embeds * 2
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **more)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    with pytest.raises(UserError, match="latent puts embeddings before a text"):
        attach_latent(attach_lora(Shifted(config), 2, 4, 0.0), 4, 2)
