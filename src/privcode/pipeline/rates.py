"""How fast a machine is at the work of a config: what `doctor --measure` writes and `plan` reads.

Promises:
- `Doing` is what a rate is matched by. Whoever measures and whoever plans make it in one way
  (`pipeline.work`), so a setting that changes the speed gives another `Doing`.
- A file that is broken is refused in one line. A file of another machine, or of other versions, is
  not used, and one line says why.

Does not: measure. `doctor.measure` does.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from privcode.errors import UserError
from privcode.fields import Finite, Section
from privcode.files import read_json
from privcode.machine import cores, processor
from privcode.models.settings import Dtype, Quantization
from privcode.training.settings import MicroBatch

PACKAGES = ("privcode", "torch", "transformers", "peft", "trl", "vllm")
"""Whose versions a speed depends on."""


def _printable(text: str) -> str:
    if not text.isprintable() or len(text) > 300:
        raise ValueError("is not a short line of text")
    return text


_Line = Annotated[str, AfterValidator(_printable)]
_Speed = Annotated[Finite, Field(gt=0, le=1e12)]


class Doing(Section):
    """One kind of work with one model: all that its speed depends on, the machine aside."""

    what: Literal["dp", "tune", "read", "sample"] = Field(
        description="training with DP-SGD, plain training, reading texts, or sampling them"
    )
    model: _Line
    dtype: Dtype
    batch: MicroBatch = Field(description="records or sequences that are taken together")
    length: int = Field(0, ge=0, description="tokens of the longest record that is trained on")
    quantization: Quantization = "none"
    rank: int = Field(0, ge=0, description="of the adapter; 0: there is none")
    targets: tuple[str, ...] = ()
    checkpointing: bool = False
    syntax: bool = Field(False, description="whether the syntax-aware term is computed")
    backend: _Line = "local"
    gpus: int = Field(1, ge=1, description="that share the model")
    packed: _Line | None = Field(None, description="how vLLM quantises the weights")


class Rate(Section):
    """How fast something was done: tokens a second, and what the figure was taken from.

    `written` are new tokens of sampling.
    """

    doing: Doing
    read: _Speed
    written: _Speed | None = None
    tokens: int = Field(ge=1)
    seconds: _Speed


class RatesFile(Section):
    """What `privcode doctor --measure` writes."""

    privcode_rates: Literal[1]
    device: _Line
    versions: dict[_Line, _Line]
    rates: list[Rate]
    programs: dict[str, _Speed] = Field(
        default_factory=dict, description="by language: programs a second in the sandbox"
    )


@dataclass(frozen=True)
class Rates:
    """Rates that are to be used, the device that they are of, and the file they came from."""

    table: Mapping[Doing, Rate] = field(default_factory=dict)
    programs: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    path: str = ""


def rates_path(config: Path) -> Path:
    """Where the rates of a config are kept: next to it."""
    return config.with_name(f"{config.stem}.rates.json")


def read_rates(path: Path) -> RatesFile:
    """The rates in a file.

    Raises:
        UserError: it is missing or broken, in one line that names the field.
    """
    again = "remove it, or write it again with privcode doctor --measure"
    found = read_json(path)
    try:
        return RatesFile.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:100] or "the whole"
        raise UserError(f"{path}, field {where}: {first['msg']}; {again}") from None


def chosen_rates(config: Path, named: Path | None = None) -> tuple[Rates, str]:
    """The rates to plan a config with, and one line on why a file is not used, or "".

    Args:
        config: the config's file. Its own rates are used if they are of this machine.
        named: a file that is used instead, whatever machine it is of.

    Raises:
        UserError: the file is broken, or the named one is missing.
    """
    path = named or rates_path(config)
    if named is None and not path.exists():
        return Rates(), ""
    found = read_rates(path)
    here = versions()
    other = [
        f"{name} {then} (here {here[name]})"
        for name, then in found.versions.items()
        if here.get(name, then) != then
    ]
    again = "run privcode doctor --measure again"
    if other:
        return Rates(), f"{path}: not used: it is of {', '.join(other)}; {again}"
    if named is None and found.device != (device := this_device()):
        return Rates(), (
            f"{path}: not used: it is of {found.device}, and this machine is {device}; {again}, "
            f"or plan for the other with --rates {path}"
        )
    table = {rate.doing: rate for rate in found.rates}
    return Rates(table, found.programs, found.device, str(path)), ""


def versions() -> dict[str, str]:
    """The versions that a speed depends on, without the build of each (+cpu)."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found


def this_device() -> str:
    """What this machine computes on: the name of its GPU, or of its processor with the cores."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{processor()}, {cores()} core{'s' * (cores() > 1)}"
