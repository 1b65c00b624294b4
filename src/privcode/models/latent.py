"""Latent conditioning: a vector z of a record, and the virtual tokens that z puts before a text.

After PrivCode++ (arXiv 2606.09145): an encoder over the frozen model's hidden states gives a
Gaussian over z, and a decoder maps z to a prefix of embeddings. Text is then written for a z of
the prior N(0, I).

Promises:
- Both parts are bias-free linear layers, which the clipper covers as it covers an adapter.
- Each row is encoded and decoded by itself.
- At first the encoder is a random map of states of length 1, so the part of a gradient that is
  its own is small. The decoder gives 0: the prefix is a public one, the same for every z.

Does not: say how they are trained (`training.latent` does).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import layer_norm, pad

from privcode.errors import UserError

FILE = "latent.safetensors"
"""In the folder of the adapter that it was trained with."""
_BLOCK = 16
_NARROW = -2.0
"""log σ² before anything is learned: z then says much of its record."""
_WIDEST = 10.0
"""The largest |log σ²| of the encoder: its exponential stays finite."""


class Latent(nn.Module):
    """Encoder and decoder.

    Attributes:
        size: numbers of z.
        prefix: virtual tokens that a text begins with.
        encoder: [hidden] -> mean and log variance, [2 · size].
        decoder: [size] -> what z adds to the prefix, [prefix · hidden].
        anchor: [prefix, hidden]: the prefix before anything is learned.
        scale: the size of the model's own embeddings, which the decoder's output is multiplied by.
    """

    anchor: torch.Tensor
    scale: torch.Tensor

    def __init__(self, size: int, prefix: int, hidden: int) -> None:
        """Parts with nothing learned, for a model with `hidden` numbers in a hidden state."""
        super().__init__()
        self.size, self.prefix = size, prefix
        self.encoder = nn.Linear(hidden, 2 * size, bias=False)
        self.decoder = nn.Linear(size, prefix * hidden, bias=False)
        nn.init.normal_(self.encoder.weight)
        nn.init.zeros_(self.encoder.weight[size:])
        nn.init.zeros_(self.decoder.weight)
        self.register_buffer("anchor", torch.zeros(prefix, hidden))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of z, each [rows, n, size], for states [rows, n, hidden]."""
        length = states.shape[-1]
        read = layer_norm(states.float(), (length,)) / length**0.5
        found = _in_blocks(self.encoder, read)
        mean, spread = found[..., : self.size], found[..., self.size :]
        return mean, (spread + _NARROW).clamp(-_WIDEST, _WIDEST)

    def prefixes(self, z: torch.Tensor) -> torch.Tensor:
        """[rows, prefix, hidden] fp32: what a text begins with, for z [rows, size]."""
        added = _in_blocks(self.decoder, z[:, None])
        return self.anchor + self.scale * added.view(len(z), self.prefix, -1)


def _in_blocks(layer: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    """`layer` of [rows, n, numbers], whose bits do not depend on how many rows there are.

    A product with few rows is added up in another order than one with many. So each row is filled
    up to a whole block of such products.
    """
    filled: torch.Tensor = layer(pad(rows, (0, 0, 0, -rows.shape[1] % _BLOCK)))
    return filled[:, : rows.shape[1]]


def attach_latent(model: Any, size: int, prefix: int) -> Latent:
    """New parts for `model`, as its part `latent`. They start from torch's random state.

    Raises:
        UserError: the model does not read embeddings as it reads their tokens.
    """
    weights = model.get_input_embeddings().weight.detach()
    known = weights[weights.isfinite().all(1)].float()
    latent = Latent(size, prefix, weights.shape[1])
    latent.scale.fill_(float(known.std()))
    latent.anchor.copy_(torch.randn(prefix, weights.shape[1]) * latent.scale)
    _refuse_unlike(model, len(known))
    model.latent = latent.to(weights.device)
    return latent


def _refuse_unlike(model: Any, tokens: int) -> None:
    ids = torch.arange(8, device=model.device)[None] % tokens
    training = model.training
    model.eval()
    with torch.no_grad():
        as_tokens = model(input_ids=ids, use_cache=False).logits
        embedded = model.get_input_embeddings()(ids)
        as_embeddings = model(inputs_embeds=embedded, use_cache=False).logits
    model.train(training)
    if not torch.equal(as_tokens, as_embeddings):
        raise UserError(
            "prompts.source: latent puts embeddings before a text, and this model reads them in "
            "another way than tokens; choose another model, or source: synthesised"
        )


def save_latent(latent: Latent, folder: Path) -> None:
    """Write the parts to `folder`."""
    kept = {name: value.detach().cpu().contiguous() for name, value in latent.state_dict().items()}
    save_file(kept, folder / FILE)


def load_latent(folder: Path) -> Latent | None:
    """The parts that were written to `folder`, on the CPU. None if there are none.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        kept = load_file(path)
        prefix, hidden = kept["anchor"].shape
        latent = Latent(kept["decoder.weight"].shape[1], prefix, hidden)
        latent.load_state_dict(kept)
    except Exception as error:
        raise UserError(f"{path}: cannot be read; restore the file") from error
    return latent.eval()
