"""Can this model be clipped per record on this machine? `privcode doctor --model NAME`.

Promises:
- The model is loaded, gets its adapter and is tried out as in `sanitize`, on made-up tokens.
- No data are touched and nothing is spent.

Does not: look at a tokenizer or a template.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from privcode.data.settings import Latent as Latents
from privcode.doctor import Check, _check
from privcode.models import Dtype

_WAYS = {
    "any number": "with up to {} others that are padded alike",
    "always as many": "in micro-batches that are always filled up to {} rows",
    "alone": "unit by unit, whatever the micro-batch of {}",
}


def model_checks(
    name: str, dtype: Dtype, micro_batch: int, max_tokens: int, latents: Latents | None = None
) -> Iterator[Check]:
    """The checks, one after the other. The first that fails is the last.

    Args:
        name: a directory, hub name, or bundled model.
        dtype: of its weights.
        micro_batch: most records together.
        max_tokens: the longest record.
        latents: the model also gets the parts of `prompts.source: latent`, and is tried with them.
    """
    had: list[Any] = []
    for title, test in (
        ("weights", partial(_weights, name, dtype, had)),
        ("layers", partial(_layers, had, latents)),
        ("records by themselves", partial(_records, had, latents, micro_batch, max_tokens)),
    ):
        check = _named(title, test, name)
        yield check
        if not check.ok:
            return


def _named(title: str, test: Callable[[], str], name: str) -> Check:
    return _check(title, True, test, f"{name} can be clipped per record on this machine")


def _weights(name: str, dtype: Dtype, had: list[Any]) -> str:
    from privcode.models import load_model
    from privcode.training.independence import rope_types

    model = load_model(name, dtype)
    had.append(model)
    ropes = ", ".join(rope_types(model)) or "none"
    return (
        f"{model.num_parameters() / 1e6:.1f} M parameters in {dtype}, all there and finite; "
        f"on {model.device.type}; rotary positions: {ropes}"
    )


def _layers(had: list[Any], latents: Latents | None) -> str:
    from privcode.models import attach_latent, attach_lora
    from privcode.models.settings import Lora
    from privcode.privacy.clipping import Clipper

    lora = Lora()
    model = attach_lora(had.pop(), lora.r, lora.alpha, lora.dropout, lora.targets)
    if latents:
        attach_latent(model, latents.size, latents.prefix)
    clipper = Clipper(model, 1.0)
    had += [model, clipper]
    return f"{clipper.parameters:,} trainable parameters, each in a layer that can be clipped"


def _records(had: list[Any], latents: Latents | None, micro_batch: int, max_tokens: int) -> str:
    from privcode.training.learner import Learner, attend_plainly, try_out

    model, clipper = had
    learner = Learner(model, 0, max_tokens, latents=latents)
    attend_plainly(learner)
    way = try_out(learner, clipper, micro_batch)
    return (
        f"a record of up to {max_tokens} tokens gives the same bits in any company: trained "
        f"{_WAYS[way].format(micro_batch)}; nothing is added to the sensitivity"
    )
