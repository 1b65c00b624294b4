"""What other packages add to privcode: languages, backends, filters, formats and audits.

A package that is installed next to privcode adds one by an entry point. The entry point's group is
`privcode.KIND`. Its name is the name in a config or a command. Its value is a Python object. The
how-to page of each kind shows the object's type.

Promises:
- No other package can take a name of privcode's own.
- An extension that cannot be used gives an error of one line that names its package.

Does not: install anything, or run code of a package that adds nothing. An extension is code that
the owner installed. It is trusted like privcode itself. Privcode's tests do not cover it.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

from privcode.errors import UserError

Kind = Literal["languages", "backends", "filters", "formats", "audits"]
T = TypeVar("T")


def with_added(kind: Kind, own: Mapping[str, T], shape: type[Any]) -> dict[str, T]:
    """All of a kind by name: privcode's own first, then what other packages add.

    Args:
        kind: the kind of extension.
        own: privcode's own, by name.
        shape: the class that each must be an instance of.

    Raises:
        UserError: an extension cannot be imported, is of another class, or has a name that is
            already in use.
    """
    found = dict(own)
    for entry in _entries(kind):
        if entry.name in found:
            raise UserError(f"{_whose(entry)}: {entry.name} is taken; {_REMEDY}")
        found[entry.name] = _loaded(entry, shape)
    return found


def named(found: Mapping[str, T], name: str, field: str) -> T:
    """The one of this name.

    Raises:
        UserError: there is none. The message begins with `field`.
    """
    if name not in found:
        known = ", ".join(found) or "none is installed"
        raise UserError(f"{field}: {name} is unknown; known: {known}")
    return found[name]


_REMEDY = "uninstall or update that package"


@cache
def _entries(kind: Kind) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=f"privcode.{kind}"), key=lambda e: (e.name, e.value)))


def _loaded(entry: EntryPoint, shape: type[Any]) -> Any:
    try:
        found = entry.load()
    except Exception as error:
        raise UserError(
            f"{_whose(entry)}: {entry.value} cannot be imported ({type(error).__name__}); {_REMEDY}"
        ) from error
    if not isinstance(found, shape):
        raise UserError(f"{_whose(entry)}: {entry.value} is no {shape.__name__}; {_REMEDY}")
    return found


def _whose(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist is not None else "a package"
    return f"extension {entry.group}:{entry.name} of {package}"
