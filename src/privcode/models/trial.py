"""A trial of a model, on a few tokens, before anything is trained.

Promises: a model is refused if what it says of a token depends on later tokens, or on padding.
Does not: look at gradients (`training.independence` does).
"""

import inspect
from typing import Any

import torch

from privcode.errors import UserError

_TOLERANCE = 0.05
"""Share of the largest logit. Rounding in bf16 moves less, another token or padding moves more."""


def try_model(name: str, model: Any) -> None:
    """Refuse a model that cannot write a text token by token, next to texts of other lengths.

    Args:
        name: the model's, for the message.
        model: the model, in eval mode.

    Raises:
        UserError: it sees later tokens (BERT does), or reads padding (RWKV does).
    """
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(3, 11, device=model.device)[None] % size
    others = torch.cat([ids[:, :1], (ids[:, 1:] + 11) % size], 1)
    padded = torch.cat([others, ids], 1)
    mask = torch.cat([torch.zeros_like(others), torch.ones_like(ids)], 1)
    first, last = _logits(model, ids)[:, [0, -1]].unbind(1)
    most = _TOLERANCE * float(first.abs().max())
    if float((_logits(model, others)[:, 0] - first).abs().max()) > most:
        raise UserError(
            f"model {name}: sees the tokens that follow, so it cannot write a text; choose a model "
            "that is made to write (a decoder), not to understand (an encoder)"
        )
    if float((_logits(model, padded, mask)[:, -1] - last).abs().max()) > most:
        raise UserError(
            f"model {name}: reads padding, so a text would depend on the others that are written "
            "next to it; choose another model"
        )


def _logits(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    positions = {}
    if "position_ids" in inspect.signature(model.forward).parameters:
        positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, use_cache=False, **positions)
    return torch.as_tensor(found.logits).float()
