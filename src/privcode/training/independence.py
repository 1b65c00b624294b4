"""The trial of a model: does a record's contribution depend on it and the model alone, to the bit?

Promises:
- `grouping_of` finds how the records of a step may share a batch without influencing each other's
  gradients. It runs before any budget is spent, on made-up tokens.
- There are three ways: any number of records of the same padded length; always the same number of
  rows, filled up with made-up ones; or each unit by itself.
- The gradients of records alone and in company are compared: first and last in the batch, after
  longer and after shorter records. A way is taken only if every bit is the same.
- A model that no way fits is refused, and so is a model that mixes records by more than rounding.
- What such trials may miss is looked up by name: positions that follow the longest text seen,
  experts of limited capacity, statistics over the batch, random noise in a router.
- A mixture of experts always takes each unit by itself. Otherwise the other records in the batch
  decide how many tokens an expert gets, and so how its products round.

Does not:
- See an effect that depends on the tokens and does not happen in the trial.
- Try the lengths between those of the trial.
- Say anything about other machines.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from privcode.errors import UserError
from privcode.training.examples import Example, padded

Grouping = Literal["any number", "always as many", "alone"]
WAYS: tuple[Grouping, ...] = ("any number", "always as many", "alone")
_ALONE = 16
"""The most records of a trial that are computed alone. Their passes take most of its time."""
Gradients = Callable[[Sequence[Example], int], torch.Tensor]
"""Examples, and how many made-up rows are added -> the gradients [examples, parameters]."""
Made = Callable[[int, int], Example]
"""A length in tokens and a seed -> a made-up example."""

# How transformers computes rotary frequencies. "longrope" looks at the longest position of the
# batch. It is the same for records of one padded length. "dynamic" also remembers it.
_ROPES = {"default", "linear", "yarn", "llama3", "proportional", "longrope", "dynamic"}
_LIMITED = ("capacity", "drop_token", "token_drop")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def refuse_by_name(model: nn.Module, max_tokens: int) -> None:
    """Refuse models with features that a trial may not show.

    Args:
        model: the model as it will be trained.
        max_tokens: the length of the longest possible record.

    Raises:
        UserError: names the setting or the module, and what to do instead.
    """
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and "Batch" in type(module).__name__:
            raise UserError(
                f"module {name}: {type(module).__name__} keeps statistics over the batch, so one "
                "record would change the gradients of others; choose another model"
            )
        for field, value in vars(module).items():
            if "jitter" in field and module.training and value:
                raise UserError(
                    f"module {name}: {field} adds random noise to its router, drawn for the whole "
                    "batch; set it to 0 in the model's config.json"
                )
        _refuse_ropes(name, module, max_tokens)
    for config in _configs(model):
        for field, value in vars(config).items():
            if value and any(part in field for part in _LIMITED):
                raise UserError(
                    f"the model's config.json, {field}: is {value}; experts that drop tokens "
                    "beyond a capacity let earlier records crowd out later ones; set it to null, "
                    "or choose another model"
                )


def _refuse_ropes(name: str, module: nn.Module, max_tokens: int) -> None:
    kinds = getattr(module, "rope_type", None)
    for kind in kinds.values() if isinstance(kinds, dict) else [kinds]:
        if kind is None:
            continue
        if kind not in _ROPES:
            raise UserError(
                f"module {name}: rotary positions of type {kind} are not known to privcode. "
                "They may let one record change the positions of others; choose another model"
            )
        if kind != "dynamic":
            continue
        original = int(vars(module)["original_max_seq_len"])
        if max_tokens > original:
            raise UserError(
                f"module {name}: rotary positions of type dynamic follow the longest text seen "
                f"so far, so one record would change the others'; set max_tokens to at most "
                f"{original}, within which they never change"
            )
        if any(
            int(value) > original
            for field, value in vars(module).items()
            if field.endswith("max_seq_len_cached")
        ):
            raise UserError(
                f"module {name}: its rotary positions still follow a longer text that the model "
                "has read; load the model again"
            )


def rope_types(model: nn.Module) -> list[str]:
    """The model's kinds of rotary positions, sorted. Empty if no module has rotary positions."""
    found: set[str] = set()
    for module in model.modules():
        kinds = getattr(module, "rope_type", None) or ()
        found |= {kinds} if isinstance(kinds, str) else set(dict(kinds).values())
    return sorted(found)


def has_experts(model: nn.Module) -> bool:
    """Whether the model sends tokens to experts, by its config or the names of its modules."""
    by_config = any(
        isinstance(count := getattr(config, field, None), int) and count > 1
        for config in _configs(model)
        for field in _EXPERTS
    )
    return by_config or any(
        type(module).__name__.endswith(("Experts", "MoE", "MoeBlock")) for module in model.modules()
    )


def _configs(model: nn.Module) -> Iterator[Any]:
    config = getattr(model, "config", None)
    if config is not None:
        yield config
        if hasattr(config, "get_text_config") and (text := config.get_text_config()) is not config:
            yield text


def made_up(length: int, vocabulary: torch.Tensor, seed: int) -> Example:
    """A public example of random tokens from `vocabulary`. Half of them are structural."""
    generator = torch.Generator().manual_seed(seed)
    ids = vocabulary[torch.randint(len(vocabulary), (length,), generator=generator)].tolist()
    return Example(tuple(ids), max(1, length // 4), tuple(i % 2 == 0 for i in range(length)))


def grouping_of(
    gradients: Gradients,
    layer_of: Callable[[int], str],
    example: Made,
    micro_batch: int,
    max_tokens: int,
    precision: float,
    ways: Sequence[Grouping] = WAYS,
    same: Callable[[torch.Tensor, torch.Tensor], bool] = torch.equal,
) -> Grouping:
    """The first way to group records in which each record's gradient keeps its bits.

    Args:
        gradients: computes gradients of examples of one padded length, as in training.
        layer_of: gives the module that a coordinate of a gradient belongs to.
        example: a made-up one of a length. The seeds of those side by side follow each other, from
            an even one on.
        micro_batch: the most records in one batch.
        max_tokens: the length of the longest possible record.
        precision: the precision of the model's numbers. A relative difference above its square
            root is not rounding.
        ways: those to try, in this order.
        same: whether two gradients have the same bits, on every rank.

    Raises:
        UserError: no way fits. Names the first module whose gradient differs.
    """
    for way in WAYS[2:] if micro_batch == 1 else ways:
        differing = None
        for expected, got in _pairs(gradients, way, example, micro_batch, max_tokens):
            if same(got, expected):
                continue
            apart = (got - expected).double()
            differing = layer_of(int(apart.abs().argmax()))
            if not float(apart.norm()) <= precision**0.5 * float(expected.double().norm()):
                raise UserError(
                    f"module {differing}: its gradient for one record depends on the others in "
                    "the batch, or on chance; a model that mixes records, or drops out at random, "
                    "cannot be clipped per record"
                )
            break
        if differing is None:
            return way
    raise UserError(
        f"module {differing}: gives a record other bits when it is computed again. The noise does "
        "not cover this; set dtype: float32, or choose another model or machine"
    )


def passes(micro_batch: int) -> int:
    """How many passes a trial takes if the first way fits. Each further way takes as many again."""
    two = min(micro_batch, 2)  # of two other lengths alone, and in the company of three
    return len(_places(micro_batch)) + 5 * two + (3 if micro_batch > _ALONE else 0)


def _places(count: int) -> list[int]:
    """The records of `count` that are computed alone: all, or the first, the last and between."""
    few = min(count, _ALONE)
    return sorted({round(i * (count - 1) / max(1, few - 1)) for i in range(few)})


def _pairs(
    gradients: Gradients, way: Grouping, example: Made, most: int, max_tokens: int
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Gradients of the same record twice: as computed at first, and in other company.

    The shortest records, medium ones and the longest take turns, first in this order and then in
    reverse. So what a model remembers from longer or shorter records shows. Each set has as many
    records as the run puts together. Of the shortest, up to `_ALONE` records are also computed
    alone. Of the others, the first and the last are. If some of the shortest were not, both halves
    of a set are computed as well as all of it, so every record is seen in two companies.
    """
    count = 1 if way == "alone" else most
    lengths = sorted({min(16, max_tokens), min(padded(max_tokens // 3), max_tokens), max_tokens})
    sets = [
        [example(max(2, length - i % 8), 1000 * length + i) for i in range(count)]
        for length in lengths
    ]

    def computed(records: list[Example], which: Sequence[int]) -> dict[int, torch.Tensor]:
        fill = most - len(which) if way == "always as many" else 0
        return dict(zip(which, gradients([records[i] for i in which], fill), strict=True))

    first: list[dict[int, torch.Tensor]] = []
    for records in sets:
        first.append({})
        for one in _places(count) if records is sets[0] else {0, count - 1}:
            first[-1] |= computed(records, [one])
    turned = list(range(count))[::-1]
    for records, known in zip(reversed(sets), reversed(first), strict=True):
        for company in (turned, turned[1::2], turned[::2] if count > _ALONE else []):
            if company:
                for one, row in computed(records, company).items():
                    yield known.setdefault(one, row), row
