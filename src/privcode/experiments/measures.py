"""Measures of a set of texts: how varied it is, how far from another set, what it copies.

Promises:
- A measure depends on its texts alone. Samples are drawn with a fixed seed.
- Shares and accuracies that depend on the number of texts are of at most `SAMPLE` texts.

Does not: read files, or decide what may be shown. A measure against private texts is private.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from privcode.audit.exposure import clopper_pearson
from privcode.syntax.spans import parse

SAMPLE = 500
FEWEST = 20
"""The fewest texts a side that are told apart."""
COPIED = 20
"""Tokens in a row that two texts have in common only if one copies the other, or both quote."""
_FEATURES = 2**14
_FOLDS = 5
T = TypeVar("T")
_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and signs of a text."""
    return _WORD.findall(text)


def program_tokens(code: str, language: str) -> list[str]:
    """Tokens of a program, without comments and white space.

    Raises:
        ValueError: the language is unknown.
    """
    found: list[str] = []
    nodes = [parse(code, language).root_node]
    while nodes:
        node = nodes.pop()
        if "comment" in node.type:
            continue
        # A string is one token: white space in it says something.
        if node.child_count and "string" not in node.type:
            nodes += reversed(node.children)
        elif node.text:
            found.append(node.text.decode("utf-8", "surrogatepass"))
    return found


def sample(texts: Sequence[T], most: int = SAMPLE) -> list[T]:
    """At most `most` of the texts, always the same ones."""
    return Random("privcode measures").sample(list(texts), min(most, len(texts)))


def distinct_share(texts: Sequence[Sequence[str]]) -> float:
    """Distinct texts as a share of all. A text is its tokens."""
    return len({tuple(text) for text in texts}) / len(texts)


def distinct_ngrams(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Distinct-n: distinct n-grams as a share of all n-grams (Li et al. 2016); None without any."""
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def self_similarity(texts: Sequence[Sequence[str]]) -> float | None:
    """Mean likeness of a text to the one that is most like it; None of fewer than two texts.

    It is 1 if each text has a copy, and 0 if no two texts share a word. Likeness is the Jaccard
    index of the sets of words and pairs of words.
    """
    sets = [{*text, *_ngrams(text, 2)} for text in texts]
    if len(sets) < 2:
        return None
    best = [0.0] * len(sets)
    for i, one in enumerate(sets):
        for j in range(i):
            either = len(one | sets[j])
            alike = len(one & sets[j]) / either if either else 1.0
            best[i], best[j] = max(best[i], alike), max(best[j], alike)
    return sum(best) / len(best)


@dataclass(frozen=True)
class ToldApart:
    """How well a classifier tells two sets of texts apart; see `told_apart`."""

    accuracy: float
    low: float
    high: float


def told_apart(ours: Sequence[str], theirs: Sequence[str]) -> ToldApart | None:
    """Classifier two-sample test: held-out accuracy, 0.5 if the sets cannot be told apart.

    The classifier is a logistic regression on counts of words and pairs of words, hashed, each
    text scaled to length 1. It is cross-validated over five parts. Both sides are samples of one
    size. The interval is Clopper and Pearson's, 95 %. It takes the answers as independent, which
    those of one part are not quite. Source: Lopez-Paz and Oquab 2017, "Revisiting Classifier
    Two-Sample Tests".

    Returns:
        None if a side has fewer than `FEWEST` texts.
    """
    size = min(len(ours), len(theirs), SAMPLE)
    if size < FEWEST:
        return None
    features = _features([*sample(ours, size), *sample(theirs, size)])
    labels = np.repeat([1.0, -1.0], size)
    parts = np.concatenate([np.arange(size) % _FOLDS] * 2)  # the sides are in random order
    right = 0
    for part in range(_FOLDS):
        inside = parts != part
        weights = _fit(features[inside], labels[inside])
        scores = features[~inside] @ weights[:-1] + weights[-1]
        right += int((np.sign(scores) == labels[~inside]).sum())
    low, high = clopper_pearson(right, 2 * size)
    return ToldApart(right / (2 * size), low, high)


def _features(texts: Sequence[str]) -> csr_matrix:
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        tokens = words(text.lower())
        grams = [*tokens, *("\0".join(pair) for pair in _ngrams(tokens, 2))]
        places, counts = np.unique(
            [zlib.crc32(gram.encode("utf-8", "surrogatepass")) % _FEATURES for gram in grams],
            return_counts=True,
        )
        rows += [row] * len(places)
        columns += places.astype(int).tolist()
        values += (counts / np.linalg.norm(counts)).tolist()
    return csr_matrix((values, (rows, columns)), shape=(len(texts), _FEATURES))


def _fit(features: csr_matrix, labels: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression, the intercept last. The penalty is |weights|² / 2."""

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = labels * (features @ weights[:-1] + weights[-1])
        slope = -labels / (1 + np.exp(np.clip(margins, -500, 500)))
        value = np.logaddexp(0, -margins).sum() + weights[:-1] @ weights[:-1] / 2
        return float(value), np.append(features.T @ slope + weights[:-1], slope.sum())

    start = np.zeros(features.shape[1] + 1)
    found: np.ndarray = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return found


@dataclass(frozen=True)
class Copies:
    """Shares of texts that stand in other texts; see `copies`."""

    whole: float
    part: float


def copies(texts: Sequence[str], others: Iterable[str]) -> Copies:
    """What share of `texts` is one of `others` word for word, and what share has a part of one.

    A part is `COPIED` tokens in a row. Memory holds the texts and not the others, which are read
    once.
    """
    tokens = [words(text) for text in texts]
    wholes, parts = _places(map(tuple, tokens)), dict[tuple[str, ...], set[int]]()
    for place, text in enumerate(tokens):
        for gram in _ngrams(text, COPIED):
            parts.setdefault(gram, set()).add(place)
    whole, part = set[int](), set[int]()
    for other in others:
        text = words(other)
        whole |= wholes.pop(tuple(text), set())
        for gram in _ngrams(text, COPIED):
            part |= parts.pop(gram, set())
    return Copies(len(whole) / len(texts), len(part) / len(texts))


def _places(texts: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], set[int]]:
    found: dict[tuple[str, ...], set[int]] = {}
    for place, text in enumerate(texts):
        found.setdefault(text, set()).add(place)
    return found


def _ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)
