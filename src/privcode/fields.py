"""What every section of the config is made of: its base class, and the kinds of values.

Promises:
- Unknown keys are refused.
- A number out of its range, an invalid file name, and text that no file can hold are refused with
  words.

Does not: know any section. Each section is declared next to the code that it configures.
"""

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("is true or false, and must be a number")
    return value


def _temperature(value: float) -> float:
    if 0 < value < 1e-3:
        raise ValueError("must be 0 (the likeliest token), or at least 0.001")
    return value


def _file(name: str) -> str:
    if not name or "\0" in name or len(name) > 4000:
        raise ValueError("is not the name of a file")
    return name


def _text(text: str) -> str:
    if text != text.encode(errors="replace").decode():
        raise ValueError("has half a surrogate pair; remove it")
    return text


def _name(name: str) -> str:
    if not re.fullmatch(r"\w[^/\0]{0,99}", name):
        raise ValueError("must begin with a letter or digit, and hold no /; it names a file")
    return name


_Number = BeforeValidator(_number)  # otherwise `true` would be 1
Positive = Annotated[int, _Number, Field(ge=1, le=10**12)]
Count = Annotated[int, _Number, Field(ge=0, le=10**12)]
Size = Annotated[int, _Number, Field(ge=1, le=10**6)]
"""A number of things that are held in memory: records, tokens or samples."""
Seed = Annotated[int, _Number, Field(ge=0, lt=2**63)]
Finite = Annotated[float, _Number, Field(allow_inf_nan=False)]
Amount = Annotated[Finite, Field(ge=0, le=1e9)]
Rate = Annotated[Finite, Field(gt=0, le=1000)]
Temperature = Annotated[Finite, Field(ge=0, le=1000), AfterValidator(_temperature)]
Seconds = Annotated[Finite, Field(ge=0.01, le=1e6)]
Fraction = Annotated[Finite, Field(ge=0, le=1)]
Share = Annotated[Finite, Field(gt=0, le=1)]
Epsilon = Annotated[float, _Number]
Memory = Annotated[int, _Number, Field(ge=1, le=10**8)]
Repetitions = Annotated[int, _Number, Field(ge=1, le=10**5)]
Planted = Annotated[int, _Number, Field(ge=0, le=10**5)]
Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, AfterValidator(_name)]
File = Annotated[str, AfterValidator(_file)]


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def json_number(value: float) -> float | str:
    """`value` for JSON, which has no infinity: "inf" represents it."""
    return value if math.isfinite(value) else str(value)
