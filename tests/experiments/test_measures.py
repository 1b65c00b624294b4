"""Measures of texts: each against texts whose answer is known."""

from random import Random

import pytest

from privcode.exercises.corpus import public_documents, public_prompts
from privcode.experiments.measures import (
    COPIED,
    FEWEST,
    copies,
    distinct_ngrams,
    distinct_share,
    program_tokens,
    sample,
    self_similarity,
    told_apart,
    words,
)


@pytest.mark.parametrize(
    ("one", "other", "language", "same"),
    [
        ("x = 1  # a\n", "x=1", "python", True),
        ("x = 1\n", "y = 1\n", "python", False),
        ("bk.retain(f)", "bk.rework(f)", "python", False),
        ("x = 'a  b'", "x = 'a b'", "python", False),
        ("int a; // one\n", "int  a;\n/* two */", "java", True),
        ("return a", "return b", "rust", False),
    ],
)
def test_programs_are_the_same_but_for_comments_and_white_space(
    one: str, other: str, language: str, same: bool
) -> None:
    assert (program_tokens(one, language) == program_tokens(other, language)) == same


def test_a_language_that_is_unknown_is_no_program() -> None:
    with pytest.raises(ValueError, match="unknown language"):
        program_tokens("x", "klingon")


def test_distinct_texts_and_ngrams_are_shares_of_all() -> None:
    texts = [["a", "b"], ["a", "b"], ["a", "c"], ["d"]]
    assert distinct_share(texts) == 0.75
    assert distinct_ngrams(texts, 1) == 4 / 7
    assert distinct_ngrams(texts, 2) == 2 / 3
    assert distinct_ngrams(texts, 3) is None


def test_likeness_is_one_for_copies_and_nothing_for_strangers() -> None:
    assert self_similarity([["a", "b"], ["c"], ["a", "b"], ["c"]]) == 1
    assert self_similarity([["a"], ["b"], ["c"]]) == 0
    # {a, b, ab} and {a, c, ac} share one of five.
    assert self_similarity([["a", "b"], ["a", "c"]]) == pytest.approx(0.2)
    assert self_similarity([["a"]]) is None


def test_a_sample_is_the_same_each_time() -> None:
    assert sample(range(1000), 5) == sample(range(1000), 5)
    assert len(set(sample(range(1000), 5))) == 5
    assert sample("ab", 5) in (["a", "b"], ["b", "a"])


def test_prompts_of_one_world_cannot_be_told_apart_and_those_of_two_can() -> None:
    one, other = ([row["prompt"] for row in public_prompts(400, seed)] for seed in (1, 2))
    found = told_apart(one, other)
    assert found is not None
    # 800 answers: a standard deviation of 1.8 points; outside 4 of them once in 15,000.
    assert found.accuracy == pytest.approx(0.5, abs=0.072)
    assert found.low < found.accuracy < found.high
    stream = public_documents(seed=1)
    apart = told_apart(one, [next(stream).prompt for _ in range(400)])
    assert apart is not None
    assert apart.low > 0.9
    assert told_apart(one, other) == found


def test_a_collapsed_set_is_told_from_a_varied_one() -> None:
    varied = [row["prompt"] for row in public_prompts(400, seed=1)]
    collapsed = Random(0).choices(varied[:10], k=400)
    found = told_apart(collapsed, [row["prompt"] for row in public_prompts(400, seed=2)])
    assert found is not None
    assert found.low > 0.7


def test_few_texts_are_not_told_apart() -> None:
    texts = [str(n) for n in range(FEWEST)]
    assert told_apart(texts[1:], texts) is None
    assert told_apart(texts, texts) is not None


def test_copies_are_whole_texts_or_long_parts() -> None:
    long = [f"w{n}" for n in range(COPIED + 5)]
    ours = [" ".join(long), "a b", "a  b", "something else", " ".join(long[: COPIED - 1])]
    found = copies(ours, ["a b", "before " + " ".join(long[3:]) + " after"])
    assert (found.whole, found.part) == (2 / 5, 1 / 5)
    assert copies(ours, []).whole == copies(ours, []).part == 0
    assert copies(ours, iter(ours)).whole == 1


def test_words_are_words_and_signs() -> None:
    assert words("a_1 <= b.c") == ["a_1", "<", "=", "b", ".", "c"]
