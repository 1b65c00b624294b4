"""Which layers of a model get an adapter.

Promises:
- By default these are all linear layers of the language model but its head.
- A layer is left out if it cannot be clipped per record: it gets the tokens of all records in one
  row, or more than one input, or none. Experts and their routers are such layers.
- Layers are found by a trial of the model's structure, which has no weights.

Does not: show that a layer can be clipped. `training.independence` does, on the whole model.
"""

import copy
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from privcode.errors import UserError

_LINEAR = (nn.Linear, Conv1D)
_RECORDS, _TOKENS = 3, 5  # of the trial: numbers that no model has as a size


@dataclass(frozen=True)
class Layers:
    """The layers that get an adapter.

    Attributes:
        names: for peft, which adapts each module whose name is one of these or ends with it.
        modules: their full names.
    """

    names: list[str]
    modules: list[str]


def layers_of(model: PreTrainedModel, targets: list[str] | None = None) -> Layers:
    """The layers of `model` that get an adapter.

    Args:
        model: it stays as it is.
        targets: names of layers, or the ends of such names. Default: all that the module says.

    Raises:
        UserError: the model has no layer of a name in `targets`, or none that can be adapted, or
            the layer is a head that is tied to the embeddings.
    """
    shapes = _inputs(model)
    if targets is None:
        head = model.get_output_embeddings()
        found = [
            name
            for name, inputs in shapes.items()
            if len(inputs) == 1 and len(inputs[0]) > 2 and inputs[0][0] == _RECORDS
            if model.get_submodule(name) is not head
        ]
        if not found:
            raise UserError("lora.targets: no layer was found by itself; name linear layers")
        return Layers(_short(model, found), found)
    found = [name for name in shapes if _matches(name, targets)]
    embeddings = model.get_input_embeddings().weight
    if tied := [name for name in found if model.get_submodule(name).weight is embeddings]:
        raise UserError(
            f"lora.targets: {tied[0]} has the same weights as the embeddings in this model, so an "
            "adapter of it cannot be merged; leave it out"
        )
    for target in targets:
        if not any(_matches(name, [target]) for name in found):
            known = sorted({name.rpartition(".")[2] for name in shapes})
            raise UserError(
                f"lora.targets: {target} is no linear layer of the language model; "
                f"it has {', '.join(known)}"
            )
    everywhere = {name for name, _ in model.named_modules() if _matches(name, targets)}
    return Layers(targets if everywhere == set(found) else _short(model, found), found)


def left_out(model: nn.Module, modules: Collection[str]) -> dict[str, int]:
    """What holds weights and gets no adapter: the kind of part -> its number of weights.

    A part is as large as it can be: "vision_tower" and not each of its layers.
    """
    adapted = {prefix for name in modules for prefix in _prefixes(name)}
    found: dict[str, int] = defaultdict(int)
    for name, weight in model.named_parameters():  # a tied weight once
        module = name.rpartition(".")[0]
        if weight.dim() > 1 and module not in modules:
            part = next((p for p in _prefixes(module) if p not in adapted), module)
            found[_kind(part)] += weight.numel()
    return dict(found)


def _inputs(model: PreTrainedModel) -> dict[str, list[tuple[int, ...]]]:
    """The linear layers that a batch of texts goes through, with the shapes of what they get."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    with torch.device("meta"):
        bare: Any = type(model)._from_config(copy.deepcopy(model.config))
    for name, module in bare.named_modules():
        if isinstance(module, _LINEAR):
            module.register_forward_pre_hook(_noting(shapes, name))
        elif hasattr(module, "rope_type"):  # other kinds look at values, and change no shape
            kinds = module.rope_type
            module.rope_type = (
                dict.fromkeys(kinds, "default") if isinstance(kinds, dict) else "default"
            )
        elif "Experts" in type(module).__name__:  # how many tokens each gets depends on values
            module.forward = lambda tokens, *_, **__: tokens
    ids = torch.zeros((_RECORDS, _TOKENS), dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            bare(input_ids=ids, use_cache=True)  # without, transformers looks at the positions
    except Exception as error:
        raise UserError(
            f"model: its layers cannot be found by a trial ({type(error).__name__}); "
            "choose another model"
        ) from error
    return {name: shapes[name] for name, _ in model.named_modules() if name in shapes}


def _noting(shapes: dict[str, list[tuple[int, ...]]], name: str) -> Any:
    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        shapes.setdefault(name, []).append(tuple(inputs[0].shape))

    return note


def _short(model: nn.Module, found: list[str]) -> list[str]:
    """The last parts of the names in `found`; the whole names where others end so too."""
    last = [name.rpartition(".")[2] for name in found]
    others = {name.rpartition(".")[2] for name, _ in model.named_modules() if name not in found}
    return list(
        dict.fromkeys(
            name if short in others else short for name, short in zip(found, last, strict=True)
        )
    )


def _matches(name: str, targets: Collection[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _prefixes(name: str) -> list[str]:
    """ "a.b.c" -> "a", "a.b", "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _kind(name: str) -> str:
    """The last part of a name that is no number."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), name)
