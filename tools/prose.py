"""How the prose reads: words a sentence and semicolons per thousand words.

    python tools/prose.py [DOCS_FOLDER] [SOURCE_FOLDER]

Promises: counts sentences of Markdown pages and of Python docstrings; code, tables, headings,
generated pages and links' targets do not count.
Does not: judge; the aim is a median of at most 17 words, and below 3 semicolons per 1,000 words.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
GENERATED = "<!-- generated"
_SENTENCE = re.compile(r"(?<=[.!?:])[\"')\]*_]*\s+(?=[\"'(\[*_`]*[A-ZÀ-Þ0-9ε-ω`])")
_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Example):")


def paragraphs(text: str) -> Iterator[str]:
    """The running text of a Markdown page: paragraphs and items of lists, in one line each."""
    text = re.sub(r"^---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.S | re.M)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    block: list[str] = []
    blank = True
    for line in [*text.splitlines(), ""]:
        bare = line.strip()
        code = line.startswith("    ") and blank
        item = re.match(r"\s*([-*+]|\d+\.)\s+", line)
        skip = not bare or bare.startswith(("|", "#", "![", "!!!", ">")) or code
        if (skip or item) and block:
            yield " ".join(block)
            block = []
        if not skip:
            block.append(line[item.end() :] if item else bare)
        blank = not bare or code


def plain(text: str) -> str:
    """Text without marks: each piece of code is one word, a link is its words."""
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[*_]{1,3}", "", text)


def docstrings(path: Path) -> Iterator[str]:
    """The paragraphs of every docstring of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                parts = paragraphs(text)
                yield from (p for p in parts if not _SECTION.fullmatch(p))


def measure(texts: Iterable[str]) -> tuple[int, float, float, float]:
    """Words, median and mean words a sentence, semicolons per thousand words."""
    lengths: list[int] = []
    semicolons = 0
    for text in map(plain, texts):
        semicolons += text.count(";")
        lengths += [len(s.split()) for s in _SENTENCE.split(text) if len(s.split()) > 2]
    words = sum(lengths)
    return words, median(lengths), words / len(lengths), 1000 * semicolons / words


def pages(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and paragraphs of every page that is not generated."""
    for path in sorted(folder.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if GENERATED not in text:
            yield str(path.relative_to(folder)), list(paragraphs(text))


def main(docs: Path, source: Path) -> None:
    """Print one line for each page, all pages, and all docstrings."""
    found = dict(pages(docs))
    strings = [p for path in sorted(source.rglob("*.py")) for p in docstrings(path)]
    found["all pages"] = [p for page in found.values() for p in page]
    found["docstrings"] = strings
    print(f"{'':<42} {'words':>6} {'median':>6} {'mean':>5} {'; / 1,000':>9}")
    for name, texts in found.items():
        if any(len(t.split()) > 2 for t in texts):
            words, middle, mean, semicolons = measure(texts)
            print(f"{name:<42} {words:>6} {middle:>6.1f} {mean:>5.1f} {semicolons:>9.1f}")


if __name__ == "__main__":
    folders = [Path(given) for given in sys.argv[1:]]
    main(*folders, *[ROOT / "docs", ROOT / "src"][len(folders) :])
