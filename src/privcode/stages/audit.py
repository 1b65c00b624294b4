"""Audit: attack what a run made, with canaries that were planted before training.

Promises: what is asked of the models is made up, so that with a model tuned under the plan the
result is post-processing, and holds no secret. Does not: bound the privacy loss.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from privcode.audit.canaries import Canary, leaks

Ask = Callable[[list[str]], list[str]]
"""Prompts to everything that a model answered."""


def leakage(
    planted: Sequence[Canary], places: Mapping[str, Sequence[str]], models: Mapping[str, Ask]
) -> dict[str, Any]:
    """Which secrets come out, by place: `places` (name -> texts), and what `models` answer.

    Each model is asked every canary's own prompt.
    """
    texts = {place: list(found) for place, found in places.items()}
    for name, ask in models.items():
        texts[f"{name}, asked for them"] = ask([canary.prompt for canary in planted])
    texts["anywhere"] = [text for found in texts.values() for text in found]
    return {place: leaks(planted, found) for place, found in texts.items()}
