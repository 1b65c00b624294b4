"""A section of settings as YAML lines, each with the description of its field as a comment.

Promises: every field is there. A field without a default shows `CHANGE_ME`, one whose default is
none is commented out.
Does not: choose a value.
"""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

CHANGE_ME = "CHANGE_ME"
"""Stands where only the owner can decide. `load_config` refuses a config with it in a section."""

Line = tuple[str, str]
"""YAML, and the comment to its right."""


def lines_of(
    section: type[BaseModel], values: Mapping[str, Any], path: str, notes: Mapping[str, str]
) -> Iterator[Line]:
    """The lines of all fields of `section`, also of nested sections, without indentation.

    `values` replace defaults. `notes`, by dotted path, are put above a field.
    """
    for name, field in section.model_fields.items():
        key = field.alias or name
        here = f"{path}{key}"
        nested = _nested(field.annotation)
        value = values.get(key, {} if nested and field.is_required() else default_of(field))
        if not path:
            yield "", ""
        if nested:
            yield from _commented(
                (line, "") for line in inspect.cleandoc(nested.__doc__ or "").splitlines()
            )
        if here in notes:
            yield from _commented((line, "") for line in notes[here].splitlines())
        if nested is None:
            line = f"{key}: {on_one_line(value)}", _comment(field)
            yield from _commented([line]) if value is None else [line]
        elif get_origin(field.annotation) is list:
            yield f"{key}:" if value else f"{key}: []", _comment(field)
            for item in value:
                yield from _item(lines_of(nested, item, f"{here}.", notes))
            if not value:
                yield from _commented(_item(lines_of(nested, {}, f"{here}.", notes)))
        else:
            block = [(f"{key}:", _comment(field))]
            inner = lines_of(nested, value or {}, f"{here}.", notes)
            block += ((f"  {text}", comment) for text, comment in inner)
            yield from _commented(block) if value is None else block


def _commented(lines: Iterable[Line]) -> Iterator[Line]:
    return ((f"# {text}", comment) for text, comment in lines)


def _item(lines: Iterator[Line]) -> Iterator[Line]:
    """One item of a list."""
    return (
        (f"{'    ' if number else '  - '}{text}", comment)
        for number, (text, comment) in enumerate(lines)
    )


def default_of(field: FieldInfo) -> Any:
    """A field's default, a section as a mapping. `CHANGE_ME` if it has none."""
    if field.is_required():
        return CHANGE_ME
    value = field.get_default(call_default_factory=True)
    return value.model_dump(by_alias=True) if isinstance(value, BaseModel) else value


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The section in a field's type: `S`, `S | None` or `list[S]`."""
    kinds = (annotation, *get_args(annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _comment(field: FieldInfo) -> str:
    """A field's description, and its choices if the description does not name them."""
    words = field.description or ""
    kinds = (field.annotation, *get_args(field.annotation))
    choices = [str(c) for kind in kinds if get_origin(kind) is Literal for c in get_args(kind)]
    named = all(choice in words for choice in choices)
    return words if named else "; ".join(filter(None, (words, " | ".join(choices))))


def on_one_line(value: Any) -> str:
    """A scalar or a flat list on one line."""
    text: str = yaml.safe_dump(
        value, allow_unicode=True, width=math.inf, default_flow_style=True
    ).removesuffix("...\n")[:-1]
    if text.isprintable():
        return text
    quoted: str = yaml.safe_dump(value, allow_unicode=True, width=math.inf, default_style='"')
    return quoted.removesuffix("\n")
