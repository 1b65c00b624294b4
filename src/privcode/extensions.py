"""What other packages add to privcode: languages, backends, filters, formats and audits.

A package that is installed next to privcode adds one by an entry point. The group is
`privcode.KIND`, the name is what a config or a command calls it, and the value is a Python object
whose type the how-to page of its kind shows.

Promises:
- A name of privcode's own cannot be taken by another package.
- An extension that cannot be used ends in one line that names its package.

Does not: install anything, or run code of a package that adds nothing. An extension is code that
the owner installed. It is trusted as privcode itself is, and is not covered by privcode's tests.
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
        kind: what is added.
        own: privcode's own.
        shape: the class that each has to be an instance of.

    Raises:
        UserError: an extension cannot be imported, is of another class, or takes a name that is
            in use.
    """
    found = dict(own)
    for entry in _entries(kind):
        if entry.name in found:
            raise UserError(f"{_whose(entry)}: {entry.name} is taken; {_REMEDY}")
        found[entry.name] = _loaded(entry, shape)
    return found


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
