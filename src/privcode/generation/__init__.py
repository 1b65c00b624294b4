"""Sampling text from a model: one small interface, chosen by config.

Promises:
- `Sampling` is what a generator is asked for, and `Generator` is what it gives back.
- A local model, vLLM and an OpenAI-compatible server all fit this interface.

Does not: import any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from privcode.models.settings import Dtype


@dataclass(frozen=True)
class Sampling:
    """How to sample: `n` texts a prompt, each of at most `max_new_tokens` tokens.

    A temperature of 0 is greedy decoding. `seed` is the seed of the whole run; see
    `Generator.generate`. `latent` puts a prefix before each text, for a z of the prior
    (`models.latent`); only a local generator can.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    n: int = 1
    seed: int = 0
    latent: bool = False


@dataclass(frozen=True)
class Weights:
    """The files of a model that is to be sampled.

    Attributes:
        model: the name of the model, or the folder of a whole one.
        tokenizer: the name of the model that the tokenizer belongs to.
        dtype: data type of the weights.
        adapters: folders of PEFT adapters on `model`, in the order of their training.
        end: the token that ends an answer. Default: the tokenizer's end token.
        label: what a run calls the model: junior, base, tuned, untuned junior or describer.
    """

    model: str
    tokenizer: str
    dtype: Dtype
    adapters: tuple[Path, ...] = ()
    end: str | None = None
    label: str = ""


class Generator(Protocol):
    """Turns prompts into texts."""

    @property
    def batch_size(self) -> int:
        """How many sequences it draws together: the unit of a progress bar."""
        ...

    def fits(self, prompt: str) -> bool:
        """Whether `prompt` leaves room for an answer in the model's context."""
        ...

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, chunk: int = 0
    ) -> list[list[str]]:
        """`sampling.n` continuations of each prompt, in the prompts' order.

        `chunk` numbers the call within a run. Chunks draw from different seeds, and any chunk can
        be drawn again by itself. A text contains neither the prompt nor special tokens.

        Raises:
            UserError: a prompt is empty or leaves no room in the model's context.
        """
        ...
