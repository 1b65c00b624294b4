"""Log-probabilities are those of each example alone."""

import numpy as np
import pytest
import torch

from privcode.models import load_model
from privcode.training.examples import Example
from privcode.training.likelihood import token_log_probabilities

ROWS = [(3, 5), (20, 40), (7, 7), (2, 33), (12, 13)]  # prompt tokens, all tokens


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        Example(tuple(rng.integers(5, 1000, n).tolist()), start, (False,) * n) for start, n in ROWS
    ]


def test_they_are_the_model_s_own_for_one_example_at_a_time() -> None:
    model = load_model("bundled:junior")
    for example, found in zip(
        examples(), token_log_probabilities(model, examples(), 3), strict=True
    ):
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            logits = torch.log_softmax(model(ids).logits[0].double(), -1)
        alone = [float(logits[i - 1, example.ids[i]]) for i in range(example.start, len(ids[0]))]
        assert found.tolist() == pytest.approx(alone, abs=1e-4)


def test_the_batch_size_changes_nothing_and_the_model_is_left_in_its_mode() -> None:
    model = load_model("bundled:junior").train()
    done: list[int] = []
    one, all_ = (token_log_probabilities(model, examples(), n, done.append) for n in (1, 99))
    assert model.training
    assert sum(done) == 2 * len(ROWS)
    for a, b in zip(one, all_, strict=True):
        assert a.tolist() == pytest.approx(b.tolist(), abs=1e-4)
