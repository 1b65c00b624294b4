"""The backends that sample from a model: privcode's own, and those that other packages add.

Promises:
- A backend is a function from the files of a model to a `Generator`.
- Another package adds a backend by an entry point of the group `privcode.backends` (see
  `extensions`). A config names it in `synthesize.backend`, `evaluate.backend` and
  `validate.round_trip.backend`.
- A package or a key that a backend needs is missed before anything is sampled.

Does not: load a model before it is asked for.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from privcode.errors import UserError
from privcode.extensions import named, with_added
from privcode.generation import Generator, Weights
from privcode.generation.settings import Sampled

Backend = Callable[[Weights, int], Generator]
"""Makes a generator from a model's files and a batch size (sequences)."""


def _local(weights: Weights, batch_size: int) -> Generator:
    from privcode.generation.local import load

    return load(weights, batch_size)


def _vllm(sampled: Sampled, weights: Weights, batch_size: int) -> Generator:
    from privcode.generation.vllm import load

    return load(weights, batch_size, sampled.vllm)


def _endpoint(sampled: Sampled, answers: Path, weights: Weights, batch_size: int) -> Generator:
    from privcode.generation.endpoint import load

    return load(weights, batch_size, sampled.endpoint, answers)


def backend_of(sampled: Sampled, field: str, answers: Path = Path()) -> Backend:
    """The backend that a section names, with its options.

    Args:
        sampled: the section.
        field: its name in the config, for messages.
        answers: file in which an endpoint keeps answers until its stage is done.

    Raises:
        UserError: there is no such backend, its package is not installed, or there is no key for
            the server.
    """
    own: dict[str, Backend] = {
        "local": _local,
        "vllm": partial(_vllm, sampled),
        "endpoint": partial(_endpoint, sampled, answers),
    }
    found = named(with_added("backends", own, Callable), sampled.backend, f"{field}.backend")  # type: ignore[arg-type]
    if sampled.backend == "vllm" and find_spec("vllm") is None:
        raise UserError(f"{field}.backend: vllm is not installed; pip install 'privcode[vllm]'")
    if sampled.backend == "endpoint":
        if find_spec("openai") is None:
            raise UserError(
                f"{field}.backend: endpoint needs openai; pip install 'privcode[endpoint]'"
            )
        from privcode.generation.endpoint import key_of

        key_of(sampled.endpoint, f"{field}.endpoint")
    return found


def free() -> None:
    """Free the memory that a backend holds for the next chunk: vLLM's engine fills its GPU."""
    if vllm := sys.modules.get("privcode.generation.vllm"):
        vllm.close()
