"""The words of a comment or docstring, without the marks that make it one.

Promises:
- What comes back is text that stands in the source. Only marks, indentation, tags of XML comments,
  and lines for tools are removed.
- What is no documentation gives "": directives, licences, separators, code that is commented out,
  and fewer than three words.

Does not: judge whether the words are true or good.
"""

import re
import textwrap
from collections.abc import Sequence

_LINE_MARK = re.compile(r"^[ \t]*(?://[/!]?<?|#+[:!]?)")
_STARRED = re.compile(r"^[ \t]*\*+(?: |$)?")
_DIRECTIVE = re.compile(
    r"^\s*(?:noqa|type:\s*ignore|pyright:|mypy:|pylint:|flake8:|fmt:|yapf:|isort:|pragma\b|"
    r"eslint|jshint|jscs|prettier-|istanbul|c8 ignore|v8 ignore|@ts-|tslint|biome-|"
    r"NOLINT|clang-format|cppcheck|go:|nolint|\+build\b|export [A-Z]\w*$|shellcheck\b|swiftlint:|"
    r"#?region\b|#?endregion\b|-\*-|vim:|Copied from\b|@(?:inheritdoc|override)\b|\{@inheritdoc\})",
    re.IGNORECASE,
)
_LEGAL = re.compile(r"copyright\b|SPDX-License|licensed under|all rights reserved", re.IGNORECASE)
_CODE = re.compile(r"[;{}]\s*$|^\s*(?:return|import|if|for|while|def|var|let|const)\b.*[(:=]")
_WORD = re.compile(r"[^\W\d_]{2,}")
_STRING = re.compile(r"""^([rRuU]?)("{3}|'{3}|"|')(.*)\2$""", re.DOTALL)
_NAMED = re.compile(r'<(?:param|typeparam|exception)\s+(?:name|cref)="([^"]+)"\s*>')
_REFERENCE = re.compile(r'<(?:see|seealso|paramref|typeparamref)\s+\w+="([^"]+)"\s*/?>')
_TAG = re.compile(r"</?[a-z]\w*(?:\s+\w+=\"[^\"]*\")*\s*/?>")


def docstring(literal: str) -> str:
    """The documentation in Python's string literal, as it stands there. "" if it is none."""
    match = _STRING.match(literal)
    if not match:
        return ""
    text = match[3].removeprefix("\\\n")
    first, _, rest = text.partition("\n")
    return _worthy(f"{first.strip()}\n{textwrap.dedent(rest)}")


def comment(blocks: Sequence[str], language: str) -> str:
    """The documentation in comments that follow each other. "" if it is none."""
    raw = "\n".join(blocks)
    if _LEGAL.search(raw):
        return ""
    marked = all(re.match(r"\s*(/\*[*!]|///|//!)", block) for block in blocks)
    text = "\n".join(map(_unmarked, blocks))
    if language == "csharp" and "<" in text:
        text = _TAG.sub("", _REFERENCE.sub(r"\1", _NAMED.sub(r"\1: ", text)))
    lines = [line for line in text.split("\n") if line.strip()]
    if not marked and 2 * sum(bool(_CODE.search(line)) for line in lines) >= max(len(lines), 1):
        return ""
    return _worthy(textwrap.dedent(text))


def _unmarked(block: str) -> str:
    """One comment without its marks. The lines keep their order and number."""
    block = block.strip()
    if not block.startswith("/*"):
        return "\n".join(_LINE_MARK.sub("", line, count=1) for line in block.split("\n"))
    body = re.sub(r"^/\*+[!<]*|\*+/$", "", block)
    first, *rest = body.split("\n")
    if all(_STARRED.match(line) for line in rest if line.strip()):
        rest = [_STARRED.sub("", line, count=1) for line in rest]
    return "\n".join([first.strip(), textwrap.dedent("\n".join(rest))])


def _worthy(text: str) -> str:
    """`text` without lines for tools and needless blank ones. "" if too few words are left."""
    lines = [line.rstrip() for line in text.split("\n")]
    kept = [
        line for line in lines if not (_DIRECTIVE.match(line) or (line and _is_separator(line)))
    ]
    text = re.sub(r"\n{3,}", "\n\n", textwrap.dedent("\n".join(kept))).strip()
    return text if len(_WORD.findall(text)) >= 3 else ""


def _is_separator(line: str) -> bool:
    return len(line.strip()) > 3 and not any(c.isalnum() for c in line) and len(set(line)) <= 3
