"""Attacks on a run's models that other packages add.

Promises: an attack is a function from the models (`measure.Target`) to figures. A package adds one
by an entry point of the group `privcode.audits` (see `extensions`), and a config names it in
`audit.attacks`. What it finds goes to `private/`, because nobody can recompute what it read.
Does not: hand private records to an attack.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from privcode.audit.measure import Target
from privcode.extensions import named, with_added

Attack = Callable[[Sequence[Target]], dict[str, Any]]
"""The models under attack, to figures that JSON can hold."""


@cache
def _added() -> dict[str, Attack]:
    return with_added("audits", {}, Callable)  # type: ignore[arg-type]


def named_attacks(names: Sequence[str]) -> dict[str, Attack]:
    """The attacks of these names.

    Raises:
        UserError: there is none of a name, or it cannot be used.
    """
    return {name: named(_added(), name, "audit.attacks") for name in names}
