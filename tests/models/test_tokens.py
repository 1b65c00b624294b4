"""One way from texts to tokens, for every stage."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from privcode.data.records import Record, Unit
from privcode.generation import Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import (
    end_tokens,
    load_generation_config,
    load_model,
    load_tokenizer,
    pair_tokens,
    prompt_tokens,
)
from privcode.training import examples, tuning
from tests.helpers import families

PROMPT, CODE = "Question: add\n\nAnswer:\n", "x = 1\n"
PUT_BEFORE = "<s>"


def tokenizer_that_puts(before: bool, behind: bool) -> Any:
    """The bundled junior's tokenizer, which then puts special tokens around every text."""
    tokenizer = load_tokenizer("bundled:junior")
    tokenizer.add_special_tokens({"bos_token": PUT_BEFORE})
    parts = [PUT_BEFORE] * before + ["$A"] + [tokenizer.eos_token] * behind
    special = [(PUT_BEFORE, tokenizer.bos_token_id), (tokenizer.eos_token, tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join(parts), pair=" ".join([*parts, "$B"]), special_tokens=special
    )
    return tokenizer


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_all_stages_see_the_same_prompt_and_the_same_end(
    before: bool, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_that_puts(before, behind)
    plain = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    asked = [tokenizer.bos_token_id] * before + plain
    answer = [*tokenizer(CODE, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert prompt_tokens(tokenizer, PROMPT) == asked
    assert pair_tokens(tokenizer, PROMPT, CODE) == ([*asked, *answer], len(asked))

    record = Record("add", CODE, "python", Unit("row", "1"), 1)
    example, cut = examples.encode(record, PROMPT, tokenizer, 99)
    assert (list(example.ids), example.start, cut) == ([*asked, *answer], len(asked), False)
    (row,) = tuning.encode(tokenizer, [(PROMPT, CODE)], 99)
    assert row == {"input_ids": [*asked, *answer], "labels": [-100] * len(asked) + answer}

    model, sent = load_model("bundled:junior"), []
    model.resize_token_embeddings(len(tokenizer))
    real = model.generate

    def generate(input_ids: Any, **options: Any) -> Any:
        sent.append(input_ids[0].tolist())
        return real(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", generate)
    LocalGenerator(model, tokenizer).generate([PROMPT], Sampling(max_new_tokens=1))
    assert sent == [asked]


def test_generation_stops_where_training_ended_and_where_the_model_always_did() -> None:
    model, tokenizer = load_model("bundled:junior"), load_tokenizer("bundled:junior")
    end = tokenizer.eos_token_id
    assert end_tokens(tokenizer, model.generation_config) == [end]
    model.generation_config.eos_token_id = [end + 1, end + 2]
    assert end_tokens(tokenizer, model.generation_config) == [end, end + 1, end + 2]
    whole = LocalGenerator(load_model("bundled:junior"), tokenizer)
    sampling = Sampling(temperature=0, max_new_tokens=60)
    assert LocalGenerator(model, tokenizer).generate([PROMPT], sampling) == whole.generate(
        [PROMPT], sampling
    )


def test_an_empty_prompt_has_no_tokens_but_those_before_it() -> None:
    assert prompt_tokens(tokenizer_that_puts(False, True), "") == []


@pytest.mark.parametrize("name", ["bundled:junior", *families.FAMILIES])
def test_the_end_tokens_are_known_without_the_weights(name: str, tmp_path: Path) -> None:
    model = name if name.startswith("bundled") else families.save(name, tmp_path)
    loaded = load_model(model).generation_config.eos_token_id
    assert load_generation_config(model).eos_token_id == loaded
    (Path(model) / "generation_config.json").unlink(missing_ok=True)
    if not name.startswith("bundled"):
        loaded = load_model(model).generation_config.eos_token_id
        assert load_generation_config(model).eos_token_id == loaded
