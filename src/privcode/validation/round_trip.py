"""Round-trip validation: does the code do what the prompt asked? (paper, stage 2, step 3)

Promises:
- It gives one score for each pair, from a public model. The score is by likelihood: how much the
  code helps to guess the prompt, without sampling. Or it is as in the paper: describe the code in
  words, and compare the description with the prompt.
- All of it is post-processing of samples of the DP model.

Does not: choose the threshold τ, run code, or read a private record.
"""

import math
from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from privcode.errors import UserError
from privcode.generation import Generator, Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import (
    answer_tokens,
    context_length,
    load_encoder,
    load_tokenizer,
    prompt_tokens,
    render,
)
from privcode.validation.settings import RoundTrip

Asking = Callable[[str], str]
"""A question to the text that the describer gets; see `models.asking`."""

Similarity = Callable[[list[str], list[str]], list[float]]
"""Candidates and references, one to one, to scores. The score 1 is the same text."""

Scorer = Callable[[list[tuple[str, str]], int], list[float | None]]
"""(prompt, code) pairs and the number of their chunk to scores. None: too long for the model."""


def scorer(settings: RoundTrip, describer: Generator, asking: Asking = str) -> Scorer:
    """The round-trip score that `settings` ask for.

    Args:
        settings: their template makes a question of code.
        describer: the describer. A `LocalGenerator` for method likelihood.
        asking: puts the question to the describer.

    Raises:
        UserError: a similarity model is not named, cannot be loaded, or needs a package that is
            not installed.
    """

    def question(code: str) -> str:
        return asking(render(settings.template, code=code))

    if settings.method == "likelihood":
        assert isinstance(describer, LocalGenerator)  # as the settings insist
        return _by_likelihood(describer, question)
    return _by_similarity(settings, describer, question)


def _by_likelihood(describer: LocalGenerator, question: Asking) -> Scorer:
    model, tokenizer = describer.model, describer.tokenizer
    context = context_length(model.config)

    def score(pairs: list[tuple[str, str]], chunk: int) -> list[float | None]:
        texts = [question(code) + prompt for prompt, code in pairs]
        short = [len(prompt_tokens(tokenizer, text)) + 1 < context for text in texts]
        chosen = [pair for pair, fits in zip(pairs, short, strict=True) if fits]
        found = iter(likelihood(model, tokenizer, chosen, question, describer.batch_size))
        return [next(found) if fits else None for fits in short]

    return score


def _by_similarity(settings: RoundTrip, describer: Generator, question: Asking) -> Scorer:
    similarity = _similarity(settings)
    sampling = Sampling(
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        n=settings.samples,
        seed=settings.seed,
    )

    def score(pairs: list[tuple[str, str]], chunk: int) -> list[float | None]:
        short = [describer.fits(question(code)) for _, code in pairs]
        chosen = [pair for pair, fits in zip(pairs, short, strict=True) if fits]
        texts = describe(describer, [code for _, code in chosen], question, sampling, chunk)
        best = best_similarity(similarity, texts, [prompt for prompt, _ in chosen])
        # A describer that says nothing explains nothing.
        found = iter(b if any(said) else -math.inf for b, said in zip(best, texts, strict=True))
        return [next(found) if fits else None for fits in short]

    return score


def _similarity(settings: RoundTrip) -> Similarity:
    if settings.similarity_model is None:
        raise UserError(
            f"validate.round_trip.similarity_model: {settings.method} needs one; name an encoder"
        )
    if settings.method == "embeddings":
        return embeddings(settings.similarity_model)
    if settings.similarity_layers is None:
        raise UserError(
            "validate.round_trip.similarity_layers: bertscore reads one layer; give its number"
        )
    return bertscore(settings.similarity_model, settings.similarity_layers)


def describe(
    generator: Generator, codes: Sequence[str], question: Asking, sampling: Sampling, chunk: int = 0
) -> list[list[str]]:
    """`sampling.n` descriptions of each code. `question` makes a text of code; they follow it.

    The paper draws 20 at temperature 0.8, of at most 200 tokens.
    """
    return generator.generate(list(map(question, codes)), sampling, chunk)


def best_similarity(
    similarity: Similarity, descriptions: Sequence[Sequence[str]], prompts: Sequence[str]
) -> list[float]:
    """For each prompt, the highest similarity among its descriptions. Each prompt has at least one.

    The paper keeps a pair if this is at least τ.
    """
    flat = [text for texts in descriptions for text in texts]
    references = [
        prompt for prompt, texts in zip(prompts, descriptions, strict=True) for _ in texts
    ]
    scores = iter(similarity(flat, references))
    return [max(next(scores) for _ in texts) for texts in descriptions]


def bertscore(model_path: str, num_layers: int) -> Similarity:
    """BERTScore F1 by layer `num_layers` of an encoder, not rescaled (the paper's similarity).

    Raises:
        UserError: bert-score is not installed, or the model cannot be loaded.
    """
    try:
        from bert_score import BERTScorer
    except ImportError:
        raise UserError(
            "round trip by BERTScore needs bert-score; pip install 'privcode[bertscore]'"
        ) from None
    try:
        scorer = BERTScorer(model_type=model_path, num_layers=num_layers)
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(
            f"model {model_path}: cannot be loaded for BERTScore with {num_layers} layers; "
            "give an encoder's directory or hub name, and a layer it has"
        ) from error

    def f1(candidates: list[str], references: list[str]) -> list[float]:
        return [float(score) for score in scorer.score(candidates, references)[2]]

    return f1


def embeddings(model_path: str, batch_size: int = 64) -> Similarity:
    """Cosine of mean-pooled last hidden states. Texts are cut at the tokenizer's own length.

    Raises:
        UserError: the model cannot be loaded.
    """
    tokenizer, model = load_tokenizer(model_path), load_encoder(model_path)

    @torch.inference_mode()
    def embed(texts: list[str]) -> torch.Tensor:
        means = []
        for start in range(0, len(texts), batch_size):
            inputs = tokenizer(
                texts[start : start + batch_size],
                padding=True,
                padding_side="right",
                truncation=True,
                return_tensors="pt",
            ).to(model.device)
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            means.append((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
        return torch.cat(means)

    def cosine(candidates: list[str], references: list[str]) -> list[float]:
        if not candidates:
            return []
        # n candidates share a reference, so each text is embedded once.
        texts = list(dict.fromkeys(candidates + references))
        row = {text: index for index, text in enumerate(texts)}
        vectors = embed(texts)
        left = vectors[[row[text] for text in candidates]]
        right = vectors[[row[text] for text in references]]
        return [float(score) for score in cosine_similarity(left, right)]

    return cosine


def likelihood(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    question: Asking,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Mean over the prompt's tokens of log p(prompt | code) − log p(prompt), in nats a token.

    Above 0, the code says something about the prompt. The second term asks about empty code. So a
    prompt that is just common gains nothing.

    Args:
        model: a causal language model that can describe code, on its own device.
        tokenizer: the model's tokenizer.
        pairs: (prompt, code).
        question: makes a text of code. The prompt is expected right after it.
        batch_size: sequences in one forward pass. Memory grows with it. The scores do not change.
        progress: called with the number of pairs just finished.

    Raises:
        UserError: the question holds nothing but the code, a prompt is empty, or a pair is longer
            than the model's context.
    """
    context = context_length(model.config)
    empty = prompt_tokens(tokenizer, question(""))
    if not empty:
        raise UserError("round-trip template: holds nothing but {code}; add words around it")
    encoded = []
    for number, (prompt, code) in enumerate(pairs, start=1):
        given = prompt_tokens(tokenizer, question(code))
        target = answer_tokens(tokenizer, prompt).ids
        if not target:
            raise UserError(f"pair {number} of the chunk has an empty prompt; give it some text")
        if len(given) + len(target) > context:
            raise UserError(
                f"pair {number} of the chunk has {len(given) + len(target)} tokens and the model's "
                f"context is {context}; shorten it or choose a model with a longer context"
            )
        encoded.append((given, target))
    scores = [0.0] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, encoded[index])))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        explained = _mean_log_probability(model, [encoded[row] for row in rows])
        alone = _mean_log_probability(model, [(empty, encoded[row][1]) for row in rows])
        for row, with_code, without in zip(rows, explained, alone, strict=True):
            scores[row] = with_code - without
        if progress:
            progress(len(rows))
    return scores


@torch.inference_mode()
def _mean_log_probability(
    model: PreTrainedModel | PeftModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[float]:
    """log p(target | context) / tokens of the target, for rows of (context, target) token ids."""
    ids = [torch.tensor([*context, *target], device=model.device) for context, target in rows]
    logits = model(
        # Right padding: no target sees it, so any id will do.
        input_ids=pad_sequence(ids, batch_first=True),
        attention_mask=pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        use_cache=False,
    ).logits
    means = []
    for row, (context, target), scores in zip(ids, rows, logits, strict=True):
        predicting = scores[len(context) - 1 : len(context) + len(target) - 1]
        means.append(-float(cross_entropy(predicting.float(), row[len(context) :])))
    return means
