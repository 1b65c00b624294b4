"""Which files are not somebody's own source code: vendored, generated, packed, or too large.

Promises: every decision is about one file alone, and has a reason in words that can be counted.
Does not: know git. A file in a submodule, for example, never gets here.
"""

import re
from fnmatch import fnmatchcase

LARGEST = 1 << 20
"""The most bytes of a file of source code."""
LONGEST_LINE = 1000
"""The most characters of a line. Longer ones are data or packed code."""

ANOTHER = "file of another kind or language"
LOCK = "lock file"

_VENDORED = re.compile(
    r"(^|/)(_?vendor(s|ed)?|third[_-]?party|3rd[_-]?party|node_modules|bower_components"
    r"|jspm_packages|pods|carthage|(site|dist)-packages|\.?venv|\.tox|__pycache__)/"
)
_LOCKS = re.compile(
    r"(^|/)(.*\.lock|package-lock\.json|npm-shrinkwrap\.json|pnpm-lock\.yaml|go\.sum)$"
)
_PACKED = re.compile(r"[.-]min\.\w+$|\.bundle\.js$", re.IGNORECASE)
_GENERATED_NAME = re.compile(
    r"(_pb2(_grpc)?\.pyi?|\.pb\.(go|cc|h)|\.g\.cs|\.designer\.cs|[._](generated|gen)\.\w+)$",
    re.IGNORECASE,
)
_GENERATED_LINE = re.compile(
    r"^\s*(//|/?\*+|#|--|;|<!--).*("
    r"@generated\b|\bdo not (edit|modify)\b|\b(auto|automatically|code)[- ]?generated\b"
    r"|\bgenerated (by|from|with)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_HEAD = 2000


def by_name(path: str, exclude: tuple[str, ...] = ()) -> str | None:
    """Why a file is left out by its path from the root. None if it is not."""
    if any(fnmatchcase(path, pattern) for pattern in exclude):
        return "excluded"
    if _VENDORED.search(path.lower()):
        return "file in a vendored folder"
    if _LOCKS.search(path):
        return LOCK
    if _PACKED.search(path):
        return "packed file"
    if _GENERATED_NAME.search(path):
        return "generated file"
    return None


def by_text(text: str) -> str | None:
    """Why a file is left out by its content. None if it is not."""
    if _GENERATED_LINE.search(text[:_HEAD]):
        return "generated file"
    if any(len(line) > LONGEST_LINE for line in text.split("\n")):
        return f"file with a line over {LONGEST_LINE:,} characters"
    return None
