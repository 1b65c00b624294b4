"""The methods that are compared, one row each: what it does, what it changes, whether it spends.

Promises: every row is a method of a run (`config.method`), or one of these with other settings: the
product without one part, a baseline on prompt and code.
Does not: run anything; `run` goes through the stages that a row names.
"""

from dataclasses import dataclass, field
from typing import Any

from privcode.config import Config
from privcode.config.several import Compared, Method


@dataclass(frozen=True)
class MethodRow:
    """One method.

    Attributes:
        words: what it is, in one line.
        stages: the names of its stages, in order.
        spends: whether it spends privacy budget.
        settings: what it changes of the config, dotted field -> value. Where there is something,
            its runs are runs of another method.
        of: that method.
    """

    words: str
    stages: tuple[str, ...]
    spends: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    of: Method = "privcode"


_WHOLE = ("sanitize", "synthesize", "validate", "boost", "evaluate", "audit")
_NO_EXECUTION = {"validate.execution.enabled": False}
_NO_ROUND_TRIP = {"validate.round_trip.method": "off"}
_NO_SUREST = {"validate.surest": 1.0}
_JOINT = {"prompts.source": "synthesised"}

METHODS: dict[Compared, MethodRow] = {
    "base": MethodRow("the premium model, untuned", ("evaluate",)),
    "control": MethodRow(
        "privcode with the untuned junior: what synthesis, filters and tuning give without "
        "the private data",
        _WHOLE[1:],
    ),
    "privcode": MethodRow(
        "DP-SGD on the junior; its answers to public prompts, filtered; the premium tuned "
        "on what is left",
        _WHOLE,
        spends=True,
    ),
    "dpft": MethodRow(
        "DP-SGD straight on the premium", ("sanitize", "evaluate", "audit"), spends=True
    ),
    "jft": MethodRow(
        "the premium tuned without noise on the private data with what looks personal masked, "
        "then with DP-SGD; its ε covers the second half alone",
        ("pretune", "sanitize", "evaluate", "audit"),
        spends=True,
    ),
    "nondpft": MethodRow(
        "the premium tuned on the private data without privacy: the ceiling",
        ("boost", "evaluate", "audit"),
    ),
    "dpft-joint": MethodRow(
        "dpft where prompts are secret, too: DP-SGD straight on the premium, which learns to "
        "write the prompts as well as the code",
        ("sanitize", "evaluate", "audit"),
        spends=True,
        settings=_JOINT,
        of="dpft",
    ),
    "nondpft-joint": MethodRow(
        "nondpft on the prompts as well as the code: shows that the audit can see the secrets "
        "of prompts come out",
        ("boost", "evaluate", "audit"),
        settings=_JOINT,
        of="nondpft",
    ),
    "synthesised": MethodRow(
        "privcode without public prompts: the junior learns to write them, too",
        _WHOLE,
        spends=True,
        settings=_JOINT,
    ),
    "latent": MethodRow(
        "the same, and what the junior writes follows a random vector whose meaning it learns",
        _WHOLE,
        spends=True,
        settings={"prompts.source": "latent"},
    ),
    "described": MethodRow(
        "privcode without prompts: the junior learns code alone, and the describer words it",
        _WHOLE,
        spends=True,
        settings={"prompts.source": "described"},
    ),
    "no-privsa": MethodRow(
        "privcode without the syntax-aware term in the junior's loss",
        _WHOLE,
        spends=True,
        settings={"sanitize.syntax.schedule": "off"},
    ),
    "constant-lambda": MethodRow(
        "privcode with that term at a constant weight",
        _WHOLE,
        spends=True,
        settings={"sanitize.syntax.schedule": "constant"},
    ),
    "no-execution": MethodRow(
        "privcode without the execution filter", _WHOLE, spends=True, settings=_NO_EXECUTION
    ),
    "no-round-trip": MethodRow(
        "privcode without the round-trip filter", _WHOLE, spends=True, settings=_NO_ROUND_TRIP
    ),
    "no-surest": MethodRow(
        "privcode without the choice of what the junior is surest of",
        _WHOLE,
        spends=True,
        settings=_NO_SUREST,
    ),
    "no-filters": MethodRow(
        "privcode without any filter",
        _WHOLE,
        spends=True,
        settings=_NO_EXECUTION | _NO_ROUND_TRIP | _NO_SUREST | {"validate.filters": []},
    ),
}
ABLATIONS = tuple(name for name, row in METHODS.items() if row.settings and row.of == "privcode")
"""Privcode without one part."""
BUDGETED = tuple(name for name, row in METHODS.items() if row.spends)


def stages_of(config: Config) -> tuple[str, ...]:
    """The names of a run's stages, in order."""
    return tuple(
        name
        for name in METHODS[config.method].stages
        if (name != "audit" or audited(config)) and (name != "evaluate" or config.evaluate.tasks)
    )


def audited(config: Config) -> bool:
    """Whether the config asks for anything that the audit does."""
    asked = config.audit
    return bool(asked.repetitions or asked.holdout or asked.attacks or coins(config))


def coins(config: Config) -> bool:
    """Whether the audit bounds ε from below."""
    trained = "sanitize" in METHODS[config.method].stages
    return bool(config.audit.coin_canaries or (trained and config.audit.gradient_canaries))
