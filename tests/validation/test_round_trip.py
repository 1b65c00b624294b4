import importlib.util
from itertools import islice
from typing import Any

import pytest
import torch

from privcode.errors import UserError
from privcode.exercises.corpus import public_documents
from privcode.generation import Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import load_model, load_tokenizer
from privcode.validation.round_trip import (
    Asking,
    bertscore,
    best_similarity,
    describe,
    embeddings,
    likelihood,
)

torch.set_num_threads(1)
PAIRS = [(pair.prompt, pair.code) for pair in islice(public_documents(11), 40)]


def question(code: str) -> str:
    return f"Answer:\n{code}\n\nQuestion:\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("bundled:premium")


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("bundled:premium")


def test_the_right_prompt_is_likelier_than_a_shuffled_one(model: Any, tokenizer: Any) -> None:
    prompts, codes = zip(*PAIRS, strict=True)
    shuffled = prompts[7:] + prompts[:7]
    right = likelihood(model, tokenizer, PAIRS, question)
    wrong = likelihood(model, tokenizer, list(zip(shuffled, codes, strict=True)), question)
    wins = sum(a > b for a, b in zip(right, wrong, strict=True))
    assert wins >= 36
    assert sum(score > 0 for score in right) >= 36


def test_likelihood_is_the_difference_of_two_means_over_the_prompts_tokens(
    model: Any, tokenizer: Any
) -> None:
    prompt, code = PAIRS[0]
    target = tokenizer(prompt)["input_ids"]

    def mean(context: str) -> float:
        ids = tokenizer(context)["input_ids"]
        total = 0.0
        for token in target:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids], device=model.device)).logits
            total += float(logits[0, -1].log_softmax(-1)[token])
            ids = [*ids, token]
        return total / len(target)

    expected = mean(f"Answer:\n{code}\n\nQuestion:\n") - mean("Answer:\n\n\nQuestion:\n")
    assert likelihood(model, tokenizer, [(prompt, code)], question) == [
        pytest.approx(expected, abs=1e-4)
    ]


def test_likelihood_does_not_depend_on_the_batch_and_keeps_the_order(
    model: Any, tokenizer: Any
) -> None:
    finished: list[int] = []
    together = likelihood(model, tokenizer, PAIRS[:7], question, 3, finished.append)
    alone = [likelihood(model, tokenizer, [pair], question)[0] for pair in PAIRS[:7]]
    assert together == pytest.approx(alone, abs=1e-4)
    assert finished == [3, 3, 1]


def test_code_that_is_empty_tells_nothing(model: Any, tokenizer: Any) -> None:
    assert likelihood(model, tokenizer, [(PAIRS[0][0], "")], question) == pytest.approx([0])


@pytest.mark.parametrize(
    ("pair", "asking", "fault"),
    [
        (("", "pass"), question, "pair 2 .* empty prompt"),
        (("p", "x = 1\n" * 600), question, "pair 2 .* context is 1024"),
        (("p", "pass"), str, "template"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_named_by_number(
    model: Any, tokenizer: Any, pair: tuple[str, str], asking: Asking, fault: str
) -> None:
    with pytest.raises(UserError, match=fault):
        likelihood(model, tokenizer, [PAIRS[0], pair], asking)


def test_descriptions_are_nearer_to_their_own_prompt(model: Any, tokenizer: Any) -> None:
    prompts, codes = (list(column) for column in zip(*PAIRS[:8], strict=True))
    generator = LocalGenerator(model, tokenizer)
    sampling = Sampling(temperature=0.8, max_new_tokens=80, n=2)
    descriptions = describe(generator, codes, question, sampling)
    assert [len(texts) for texts in descriptions] == [2] * 8
    similarity = embeddings("bundled:premium")
    own = best_similarity(similarity, descriptions, prompts)
    other = best_similarity(similarity, descriptions, prompts[3:] + prompts[:3])
    assert sum(a > b for a, b in zip(own, other, strict=True)) >= 7


def test_the_best_of_a_pairs_own_descriptions_counts() -> None:
    def same(candidates: list[str], references: list[str]) -> list[float]:
        return [float(a == b) for a, b in zip(candidates, references, strict=True)]

    descriptions = [["a", "b"], ["a"], ["x", "y", "c"]]
    assert best_similarity(same, descriptions, ["b", "b", "c"]) == [1, 0, 1]
    assert best_similarity(same, [], []) == []


def test_embeddings_of_the_same_text_agree_whatever_the_batch() -> None:
    texts = [prompt for prompt, _ in PAIRS[:4]] + ["short"]
    one, many = (embeddings("bundled:premium", size) for size in (1, 8))
    assert one(texts, texts) == pytest.approx([1] * 5)
    assert many(texts, texts[::-1]) == pytest.approx(one(texts, texts[::-1]), abs=1e-5)
    assert one(texts[:1], texts[1:2])[0] < 0.9999
    assert one([], []) == []


@pytest.mark.skipif(
    importlib.util.find_spec("bert_score") is not None, reason="bert-score is installed"
)
def test_bertscore_without_its_extra_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"pip install 'privcode\[bertscore\]'"):
        bertscore("bundled:premium", 2)


def test_a_similarity_model_that_is_absent_is_named() -> None:
    with pytest.raises(UserError, match="bundled:absent"):
        embeddings("bundled:absent")
