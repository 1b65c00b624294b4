"""The backends that sample from a model: privcode's own, and those that other packages add.

Promises:
- A backend is a function from the files of a model to a `Generator`.
- Another package adds a backend by an entry point of the group `privcode.backends` (see
  `extensions`). A config names it in `synthesize.backend` and `evaluate.backend`.

Does not: load a model before it is asked for.
"""

from collections.abc import Callable
from functools import cache

from privcode.extensions import named, with_added
from privcode.generation import Generator, Weights

Backend = Callable[[Weights, int], Generator]
"""Makes a generator from a model's files and a batch size (sequences)."""


def _local(weights: Weights, batch_size: int) -> Generator:
    from privcode.generation.local import load

    return load(weights, batch_size)


@cache
def backends() -> dict[str, Backend]:
    """All backends by name.

    Raises:
        UserError: an extension cannot be used.
    """
    return with_added("backends", {"local": _local}, Callable)  # type: ignore[arg-type]


def backend_named(name: str, field: str) -> Backend:
    """The backend of this name.

    Raises:
        UserError: there is no such backend. The message begins with `field`.
    """
    return named(backends(), name, field)
