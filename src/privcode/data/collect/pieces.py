"""What a definition becomes: the prompt, the completion, and the lines that both quote.

Two styles:
- describe: the prompt asks for a definition in words (its language, kind, class, signature and
  documentation). The completion is the whole definition. Its documentation is not repeated there:
  a model would only copy it, and it would take the place of code in the context.
- fim: the prompt is a window of the file with `GAP` in place of some statements. The completion is
  these statements. Their documentation stays in the window.

Promises: texts are those of the file. A text that holds `GAP` itself is no piece.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from privcode.data.collect.definitions import Definition, definitions
from privcode.data.collect.grammars import GRAMMARS
from privcode.data.collect.options import Options
from privcode.syntax import GAP

_FEWEST = 10  # characters of a gap, without white space


@dataclass(frozen=True)
class Piece:
    """A record without the columns that say where it comes from.

    `code` is what makes two pieces duplicates. `lines` are those of the definition. `quoted` are
    all that the piece quotes, in ranges: these, and others that stand in the prompt.
    """

    prompt: str
    completion: str
    code: str
    lines: tuple[int, int]
    quoted: tuple[tuple[int, int], ...]


def pieces(text: str, language: str, options: Options, skipped: Counter[str]) -> Iterator[Piece]:
    """The pieces of a file in the order of the file. What is left out is counted."""
    if options.style == "describe":
        for one in definitions(text, language, _describable(language, options), skipped):
            yield _described(one, language)
        return
    source = text.encode()
    for one in definitions(text, language, lambda _: None, skipped, classes=False):
        piece = _with_gap(one, source, options.context)
        if isinstance(piece, str):
            skipped[piece] += 1
        else:
            yield piece


def _describable(language: str, options: Options) -> Callable[[Definition], str | None]:
    def reason(one: Definition) -> str | None:
        if not one.documentation:
            return "definition without documentation"
        if len(one.code) + len(_request(one, language)) > options.longest:
            return f"definition over {options.longest:,} characters"
        return None

    return reason


def _request(one: Definition, language: str) -> str:
    of = f" of `{one.owner}`" if one.owner else ""
    return (
        f"Write a {GRAMMARS[language].title} {one.kind}{of}.\n\n"
        f"Signature:\n{one.signature}\n\nDescription:\n{one.documentation}"
    )


def _described(one: Definition, language: str) -> Piece:
    return Piece(_request(one, language), one.code, one.code, one.rows, (one.rows, *one.owner_rows))


def _with_gap(one: Definition, source: bytes, most: int) -> Piece | str:
    """The piece of a definition, or why there is none.

    The gap is all statements, or the largest statement of several lines that is not too long.
    """

    def text(start: int, end: int) -> str:
        return source[start:end].decode("utf-8", "ignore")

    choices = [one.statements, *sorted(one.blocks, key=lambda span: (span[0] - span[1], span[0]))]
    gap = next((span for span in choices if len(text(*span)) <= most), None)
    if gap is None:
        return f"definition without a block of at most {most:,} characters"
    start, end = gap
    middle = text(start, end)
    if len("".join(middle.split())) < _FEWEST:
        return "definition without code"
    reach = 4 * most + 4  # bytes of so many characters, and of one more
    before, after = (
        _tail(text(max(start - reach, 0), start), most),
        _head(text(end, end + reach), most),
    )
    if GAP in before + middle + after:
        return f"definition near the text {GAP}"
    first = source.count(b"\n", 0, start) + 1
    quoted = (first - before.count("\n"), first + middle.count("\n") + after.count("\n"))
    return Piece(f"{before}{GAP}{after}", middle, one.code, one.rows, (one.rows, quoted))


def _tail(text: str, most: int) -> str:
    """The last `most` characters, without a first line that is cut."""
    if len(text) <= most:
        return text
    kept = text[-most:]
    return kept if text[-most - 1] == "\n" else kept.partition("\n")[2] or kept


def _head(text: str, most: int) -> str:
    """The first `most` characters, without a last line that is cut."""
    if len(text) <= most:
        return text
    kept = text[:most]
    return kept if text[most] == "\n" else kept.rpartition("\n")[0] or kept
