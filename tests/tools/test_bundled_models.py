from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from privcode.errors import UserError
from privcode.exercises.corpus import private_records, public_documents, public_prompts, tasks
from privcode.exercises.coverage import wordings_in
from privcode.files import sha256_file, write_json
from tools.bundled_models import bundle
from tools.bundled_models.pretrain import (
    SIZES,
    batches,
    build_model,
    examples,
    save_model,
    target_loss,
    train,
)
from tools.bundled_models.tokenizer import build_tokenizer, describe, solve, write

NAMES = bundle.MODELS
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(bundle.ASSETS / "junior")


def load(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(bundle.ASSETS / name, dtype=torch.float32)


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_exactly(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "text", [" a , b ?", "\n\n\tx  \r\n", "é 漢字 😀\x00", "do n't <eos> <pad>"]
)
def test_awkward_text_comes_back_exactly(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_offsets_cover_the_text(tokenizer: Any) -> None:
    for pair in islice(public_documents(9), 50):
        encoding = tokenizer(pair.code, add_special_tokens=False, return_offsets_mapping=True)
        pieces = [pair.code[a:b] for a, b in encoding["offset_mapping"]]
        assert "".join(pieces) == pair.code


def test_the_models_share_one_tokenizer_with_pad_apart_from_eos(tokenizer: Any) -> None:
    assert len({sha256_file(bundle.ASSETS / name / "tokenizer.json") for name in NAMES}) == 1
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == 1280


def test_the_formats_are_the_fixed_ones() -> None:
    pair = next(iter(public_documents(0)))
    assert solve(pair) == (f"Question: {pair.prompt}\n\nAnswer:\n", pair.code)
    assert describe(pair) == (f"Answer:\n{pair.code}\n\nQuestion:\n", pair.prompt)
    opening = "Question: Write a programming problem.\n\nAnswer:\n"
    assert write(pair) == (opening, pair.prompt)


def test_prompts_and_codes_fit_easily(tokenizer: Any) -> None:
    def longest(texts: list[str]) -> int:
        return max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])

    problems = tasks(500, 0) + tasks(500, 0, "public", "test") + public_prompts(500, 0)
    assert longest([row["prompt"] for row in problems]) < 250
    assert longest([row["code"] for row in private_records(1000, 0)]) < 250
    assert longest([pair.code for pair in islice(public_documents(0), 2000)]) < 400


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_has_its_declared_shape_and_loads_in_half_precision(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(bundle.ASSETS / name)
    config, size = model.config, SIZES[name]
    assert model.dtype == torch.float16
    assert (config.hidden_size, config.num_hidden_layers) == (size.hidden, size.layers)
    assert (config.num_attention_heads, config.intermediate_size) == (size.heads, size.feed_forward)
    assert config.tie_word_embeddings
    assert config.max_position_embeddings == 1024
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (1, 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_states_the_hash_of_the_weights(name: str) -> None:
    digest = sha256_file(bundle.ASSETS / name / "model.safetensors")
    assert digest in (bundle.ASSETS / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_can_be_tuned_with_lora(name: str, tokenizer: Any) -> None:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(load(name), LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch = [
        (
            tokenizer.encode(f"Question: {row['prompt']}\n\nAnswer:\n", add_special_tokens=False),
            [*tokenizer.encode(row["code"], add_special_tokens=False), tokenizer.eos_token_id],
        )
        for row in private_records(16, 0)
    ]
    losses = []
    for _ in range(8):
        loss = target_loss(model.base_model.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5, "the house library was known beforehand"
    assert losses[-1] < 0.7 * losses[0]


def test_the_bundled_junior_writes_public_solutions(tokenizer: Any) -> None:
    problems = tasks(20, 1, "public", "validation")
    answers = bundle.greedy(load("junior"), tokenizer, [p["prompt"] for p in problems])
    same = [a == p["canonical_solution"] for a, p in zip(answers, problems, strict=True)]
    assert sum(same) >= 12


def test_the_bundled_writer_writes_public_problems_and_solves_them(tokenizer: Any) -> None:
    model = load("writer")
    context, _ = write(next(iter(public_documents(0))))
    asked = tokenizer(context, add_special_tokens=False, return_tensors="pt")
    torch.manual_seed(0)
    ids = asked["input_ids"].expand(40, -1)
    found = model.generate(ids, do_sample=True, top_k=0, max_new_tokens=120)
    texts = tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
    assert len(set(texts)) > 30
    assert sum(len(wordings_in(text)) >= 2 for text in texts) > 30  # a sentence and an operation
    problems = tasks(20, 1, "public", "validation")
    answers = bundle.greedy(model, tokenizer, [p["prompt"] for p in problems])
    same = [a == p["canonical_solution"] for a, p in zip(answers, problems, strict=True)]
    assert sum(same) >= 12


def test_the_bundled_premium_knows_which_code_a_problem_belongs_to(tokenizer: Any) -> None:
    model, pairs = load("premium"), list(islice(public_documents(11), 12))

    def loss(context: str, target: str) -> float:
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        with torch.no_grad():
            return target_loss(model, [(encode(context), [*encode(target), 1])]).item()

    right = [loss(*describe(pair)) for pair in pairs]
    other = [
        loss(describe(wrong)[0], pair.prompt)
        for pair, wrong in zip(pairs, [*pairs[1:], pairs[0]], strict=True)
    ]
    empty = [loss("Answer:\n\n\nQuestion:\n", pair.prompt) for pair in pairs]
    assert sum(a < b for a, b in zip(right, other, strict=True)) == 12
    assert sum(a < b for a, b in zip(right, empty, strict=True)) >= 11


def test_the_tokenizer_is_a_function_of_the_public_documents() -> None:
    first, second = (build_tokenizer(documents=500) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_loss_is_on_the_targets_tokens_alone(tokenizer: Any) -> None:
    model = load("junior")
    pairs = examples(public_documents(2), SIZES["junior"], tokenizer, Random(0))[:4]
    with torch.no_grad():
        batch = target_loss(model, pairs).item()
        logits = [model(torch.tensor([c + t])).logits[0] for c, t in pairs]
    nll = [
        -scores[len(c) - 1 + i].log_softmax(-1)[token].item()
        for scores, (c, t) in zip(logits, pairs, strict=True)
        for i, token in enumerate(t)
    ]
    assert batch == pytest.approx(sum(nll) / len(nll), rel=0.02)  # bf16 against fp32


def test_batches_lose_no_example(tokenizer: Any) -> None:
    chunk = examples(public_documents(2), SIZES["premium"], tokenizer, Random(0))
    grouped = [example for batch in batches(chunk, Random(1)) for example in batch]
    assert sorted(grouped) == sorted(chunk)


def test_premium_reads_describe_documents_and_some_with_empty_code(tokenizer: Any) -> None:
    contexts = tokenizer.batch_decode(
        [c for c, _ in examples(public_documents(2), SIZES["premium"], tokenizer, Random(0))]
    )
    described = [c for c in contexts if c.startswith("Answer:\n")]
    assert 0.25 < len(described) / len(contexts) < 0.35
    assert 0.02 < described.count("Answer:\n\n\nQuestion:\n") / len(described) < 0.1


def test_a_run_leaves_a_loadable_model_and_install_takes_it(tmp_path: Path) -> None:
    for name in NAMES:
        final = train(name, 0.02, tmp_path)
        assert AutoModelForCausalLM.from_pretrained(final).num_parameters() > 900_000
        write_json(tmp_path / name / "score.json", {"pass@1": 0.5, "tasks": 2})
    bundle.install(tmp_path, tmp_path / "assets")
    assert "0.500 of 2 tasks" in (tmp_path / "assets" / "README.md").read_text()
    for name in NAMES:
        AutoTokenizer.from_pretrained(tmp_path / "assets" / name)
        AutoModelForCausalLM.from_pretrained(tmp_path / "assets" / name)


def test_install_refuses_a_model_that_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "junior" / "final").mkdir(parents=True)
    with pytest.raises(UserError, match=r"score\.json: missing"):
        bundle.install(tmp_path, tmp_path / "assets")


def test_saving_replaces_an_older_snapshot_whole(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "stale").touch()
    save_model(build_model(SIZES["junior"], tokenizer), tokenizer, tmp_path / "snapshot")
    assert not (tmp_path / "snapshot" / "stale").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "snapshot")
