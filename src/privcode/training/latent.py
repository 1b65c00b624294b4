"""What latent conditioning adds to the loss of one example.

The example is to write the prompt of a record. Before it stands the prefix for a z that is drawn
from the encoder's Gaussian for the record's code. The loss has two more terms:

    kl · KL(q(z | code) ‖ N(0, I)) + alignment · A

A is the cross-entropy of telling the z of the record's prompt from draws of the prior, by their
cosines with the z of its code, divided by a temperature (InfoNCE). PrivCode++ contrasts a record
with the others of its batch. Then a record moves the loss of others, and clipping per record does
not bound what it moves. Here the draws that it is contrasted with are public: they depend on the
step alone.

Promises:
- What is added to an example's loss depends on that example, the model and the step alone. So one
  unit more or less moves the clipped sum by at most one clip norm, as without these terms.
- The random part of z is a function of the step and the example's own tokens. No other example
  moves it.
- A is between 0 and 2 / temperature + log(1 + number of draws).

Does not: read a model's hidden states, or clip (`training.loss` and `privacy.clipping` do).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from privcode.data.settings import Latent as Settings
from privcode.models.latent import Latent


@dataclass(frozen=True)
class Draws:
    """What is random in the pass of a batch.

    Attributes:
        own: [examples, size] standard normal: the random part of each example's z.
        prior: [draws, size] standard normal: what all examples of a step are contrasted with.
    """

    own: torch.Tensor
    prior: torch.Tensor


def draws(read: Sequence[Sequence[int]], step: int, size: int, contrasted: int) -> Draws:
    """The draws for examples that read these tokens, at a step."""
    own = [_normal(f"z {step} {list(tokens)}", 1, size) for tokens in read]
    return Draws(torch.cat(own), _normal(f"prior {step}", contrasted, size))


def _normal(name: str, rows: int, size: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
    numbers = np.random.Generator(np.random.Philox(key=seed)).standard_normal((rows, size))
    return torch.from_numpy(numbers).float()


def prefixes_and_penalties(
    latent: Latent, pooled: torch.Tensor, drawn: Draws, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each example its prefix, [examples, prefix, hidden], and the added loss, [examples].

    Args:
        latent: encoder and decoder.
        pooled: [examples, 2, hidden]: means of the frozen hidden states of prompt and code.
        drawn: see `draws`.
        settings: weights of the terms.
    """
    mean, spread = latent.encode(pooled)
    of_prompt, of_code = mean[:, 0], mean[:, 1]
    spread = spread[:, 1]
    z = of_code + (spread / 2).exp() * drawn.own.to(mean.device)
    penalty = settings.kl * divergence(of_code, spread)
    if settings.alignment:
        prior = drawn.prior.to(mean.device)
        penalty = penalty + settings.alignment * alignment(
            of_code, of_prompt, prior, settings.contrast_temperature
        )
    return latent.prefixes(z), penalty


def divergence(mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """[examples] KL(N(mean, exp(spread)) ‖ N(0, I)) in nats, of [examples, size]."""
    return (spread.exp() + mean.square() - 1 - spread).sum(-1) / 2


def alignment(
    of_code: torch.Tensor, of_prompt: torch.Tensor, prior: torch.Tensor, temperature: float
) -> torch.Tensor:
    """[examples] -log of the share that the own prompt has among the draws of the prior."""
    own = cosine_similarity(of_code, of_prompt, dim=-1, eps=1e-6) / temperature
    others = cosine_similarity(of_code[:, None], prior[None], dim=-1, eps=1e-6) / temperature
    return torch.logsumexp(torch.cat([own[:, None], others], dim=1), dim=1) - own
