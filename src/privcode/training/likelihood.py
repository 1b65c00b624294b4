"""How likely a model finds given answers. Exposure and membership inference are computed from it.

Promises:
- Each example's figures depend on that example and the model alone, whatever else is in its batch
  (to rounding).
- The model is left as it was.

Does not: sample, or train.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from privcode.data.records import Record
from privcode.data.settings import Latent as Latents
from privcode.generation.local import LocalGenerator
from privcode.models import Latent
from privcode.training.examples import Batch, Example, collate, lesson
from privcode.training.latent import Draws
from privcode.training.loss import Conditioning, conditioned, without_adapter


def record_log_probabilities(
    generator: LocalGenerator,
    records: Sequence[Record],
    asking: Callable[[str], str],
    max_tokens: int,
    batch_size: int,
    progress: Callable[[int], object] = lambda records: None,
) -> list[tuple[np.ndarray, bool]]:
    """For each record as training saw it: its code's log-probabilities, and whether it was cut.

    Args:
        generator: the model and its tokenizer.
        records: any records.
        asking: puts a prompt to the model; see `models.asking`.
        max_tokens: longer records are cut, as in training.
        batch_size, progress: see `token_log_probabilities`.
    """
    prefix = generator.latent.prefix if generator.latent else 0
    encoded = [
        lesson(record, asking, generator.tokenizer, max_tokens, prefix=prefix) for record in records
    ]
    examples = [example for example, _ in encoded]
    found = token_log_probabilities(
        generator.model, examples, batch_size, progress, generator.latent
    )
    return [(score, cut) for score, (_, cut) in zip(found, encoded, strict=True)]


@torch.inference_mode()
def token_log_probabilities(
    model: Any,
    examples: Sequence[Example],
    batch_size: int,
    progress: Callable[[int], object] = lambda examples: None,
    latent: Latent | None = None,
) -> list[np.ndarray]:
    """For each example, log p of each token of its completion, in nats, float64.

    Args:
        model: a causal language model, on its own device.
        examples: prompt and completion tokens. An example without completion tokens gives an empty
            array.
        batch_size: examples in one forward pass. It changes memory only, and the result is the
            same to rounding.
        progress: called with the number of examples just finished.
        latent: what was trained with the model's adapter, if it was. Prompts are then written for
            the likeliest z of their record.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))
    training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([examples[i] for i in rows], 0, model.device)  # no target sees the padding
        scored = batch.scored[:, 1:]
        text = {"input_ids": batch.ids}
        if latent:
            text = {"inputs_embeds": _for_records(model, batch, latent)}
        out = model(**text, attention_mask=batch.attention, use_cache=False).logits
        loss = cross_entropy(
            out[:, :-1][scored].float(), batch.ids[:, 1:][scored], reduction="none"
        )
        counts = scored.sum(1).tolist()
        for i, part in zip(rows, torch.split(loss.double().cpu(), counts), strict=True):
            found[i] = -part.numpy()
        progress(len(rows))
    model.train(training)
    return found


def _for_records(model: Any, batch: Batch, latent: Latent) -> torch.Tensor:
    """The embeddings of a batch, with the prefixes for the mean z of what its examples read."""
    with without_adapter(model):
        frozen = model.get_base_model().base_model(input_ids=batch.seen, use_cache=False)[0]
    none = Draws(torch.zeros(len(batch.ids), latent.size), torch.zeros(1, latent.size))
    return conditioned(
        model, batch, frozen, Conditioning(latent.to(model.device), none, Latents())
    )[0]
