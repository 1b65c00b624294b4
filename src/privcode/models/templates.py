"""Prompts made from templates.

Promises: only the placeholders of a template are read, so code may hold any other braces.
"""

import re

_FIELDS = ("prompt", "code", "language")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(_FIELDS) + r")\}")


def render(template: str, **fields: str) -> str:
    """`template` with {prompt}, {code} and {language} replaced once by `fields`.

    Other braces stay as they are, also braces inside a field. A placeholder without a field stays
    too. A field that the template does not use is ignored.

    Raises:
        TypeError: a field is none of the three.
    """
    if unknown := set(fields) - set(_FIELDS):
        raise TypeError(f"render() has no field {', '.join(sorted(unknown))}")
    return _PLACEHOLDER.sub(lambda match: fields.get(match[1], match[0]), template)
