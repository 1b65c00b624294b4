"""Do texts of one token come from a model's own probabilities? Is a greedy text the likeliest?"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import chisquare

from privcode.models import answer_texts, answer_tokens, end_tokens, prompt_tokens


def text_probabilities(
    model: Any, tokenizer: Any, prompt: str, temperature: float = 1.0, top_p: float = 1.0
) -> dict[str, float]:
    """Text of one token -> its probability. An end token gives the empty text."""
    ids = torch.tensor([prompt_tokens(tokenizer, prompt)], device=model.device)
    with torch.no_grad():
        chances = (model(input_ids=ids).logits[0, -1].double() / temperature).softmax(-1)
    order = chances.argsort(descending=True)
    before = chances[order].cumsum(0) - chances[order]
    kept = torch.zeros_like(chances)
    kept[order[before < top_p]] = chances[order[before < top_p]]
    kept /= kept.sum()
    ends = end_tokens(tokenizer, model.generation_config)
    rows = [[] if token in ends else [token] for token in range(len(kept))]
    found: Counter[str] = Counter()
    for text, chance in zip(answer_texts(tokenizer, rows), kept.tolist(), strict=True):
        found[text] += chance
    return found


def p_value(texts: Sequence[str], expected: dict[str, float], least: float = 5.0) -> float:
    """Chi-square over the texts that are expected `least` times, and the others as one.

    0 if a text is drawn that cannot be.
    """
    counts = Counter(texts)
    if any(not expected.get(text) for text in counts):
        return 0.0
    often = [text for text, chance in expected.items() if chance * len(texts) >= least]
    seen = [counts[text] for text in often]
    mean = [expected[text] * len(texts) for text in often]
    rest = len(texts) - sum(mean)
    if rest >= least:
        seen, mean = [*seen, len(texts) - sum(seen)], [*mean, rest]
    scale = sum(seen) / sum(mean)
    assert len(seen) > 3
    return float(chisquare(seen, [m * scale for m in mean]).pvalue)


def gap_where_they_part(model: Any, tokenizer: Any, prompt: str, one: str, other: str) -> float:
    """0 for equal texts. Else the two logits' difference where the texts' tokens first differ."""
    if one == other:
        return 0.0
    ends = [tokenizer.eos_token_id]
    rows = [[*answer_tokens(tokenizer, text).ids, *ends] for text in (one, other)]
    place = next(i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b)
    ids = [*prompt_tokens(tokenizer, prompt), *rows[0][:place]]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1]
    return float(abs(logits[rows[0][place]] - logits[rows[1][place]]))
