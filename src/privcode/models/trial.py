"""A trial of a model, on a few tokens, before anything is trained.

Promises: a model is refused if what it says of a token depends on later tokens, or on padding.
Does not: look at gradients (`training.independence` does).
"""

import inspect
from statistics import median
from typing import Any

import torch

from privcode.errors import UserError

_TOLERANCE = 0.05
"""Share of the largest logit. Rounding moves less, and a later token that is seen moves more."""
_DRAWS, _TOKENS = 5, 8


def try_model(name: str, model: Any) -> None:
    """Refuse a model that cannot write a text token by token, next to texts of other lengths.

    Tokens are drawn from the middle of the vocabulary. Special tokens, which come first or last,
    make models round badly in half precision.

    Args:
        name: the model's, for the message.
        model: the model, in eval mode.

    Raises:
        UserError: it sees later tokens (BERT does), or reads padding (RWKV does).
    """
    size = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    reads = []
    for _ in range(_DRAWS):
        drawn = torch.randint(size // 10, size // 2, (2, 1, _TOKENS), generator=generator)
        ids, others = drawn.to(model.device)
        others[:, 0] = ids[:, 0]
        if _sees_what_follows(model, ids, others):
            raise UserError(
                f"model {name}: sees the tokens that follow, so it cannot write a text; choose a "
                "model that is made to write (a decoder), not to understand (an encoder)"
            )
        reads.append(_share_of_padding(model, ids, others))
    if median(reads) > 0.5:
        raise UserError(
            f"model {name}: reads padding, so a text would depend on the others that are written "
            "next to it; choose another model"
        )


def _sees_what_follows(model: Any, ids: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether the first token's logits differ between two texts that begin with it."""
    first, other = _logits(model, ids)[:, 0], _logits(model, others)[:, 0]
    return float((other - first).abs().max()) > _TOLERANCE * float(first.abs().max())


def _share_of_padding(model: Any, ids: torch.Tensor, others: torch.Tensor) -> float:
    """How much padding before a text moves its last logits: a share of what a text there moves.

    1 for a model that does not know what padding is. Far below for rounding alone: up to 0.3 was
    seen in bf16, with SmolLM2 and Gemma 3.
    """
    alone = _logits(model, ids)[:, -1]
    both = torch.cat([others, ids], 1)
    mask = torch.cat([torch.zeros_like(others), torch.ones_like(ids)], 1)
    after_padding, after_text = (_logits(model, both, m)[:, -1] for m in (mask, None))
    moved = float((after_text - alone).norm())
    return float((after_padding - alone).norm()) / moved if moved else 0.0


def _logits(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    positions = {}
    if "position_ids" in inspect.signature(model.forward).parameters:
        positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, use_cache=False, **positions)
    return torch.as_tensor(found.logits).float()
