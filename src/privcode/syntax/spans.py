"""Where the structure of code is: character spans that the PrivSA term acts on (paper, stage 1).

Promises:
- Spans are sorted, disjoint, non-empty character offsets. They are made from tree-sitter's byte
  offsets.
- Broken code gives the spans that were found, never an exception.
- Names, literals, strings and comments are never covered.

One rule serves eleven languages:
- A node is structural if one of its own tokens is a keyword of definition or control flow
  (`_KEYWORDS`). It is also structural if it is a definition or branch that a grammar writes without
  a keyword (`_KEYWORDLESS`: Java's methods, Rust's match arms).
- A frame is what a structural node opens around its parts: block, body, parameter list,
  modifiers, the parentheses of a condition (`_FRAME`). A frame directly inside a frame is one too.
- The structural tokens are the anonymous tokens (keywords, brackets, separators, arrows) directly
  in a structural node or frame. In code that does not parse, they are the keywords alone.

Why not names and literals: they are the private content, which the model must stay free to learn.
Keywords and delimiters are what the pretrained teacher already knows.

Does not: judge whether code is valid, or look inside strings (code in a docstring is text).
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from importlib import import_module

from tree_sitter import Language, Node, Parser, Tree

from privcode.languages import canonical_language, languages

Span = tuple[int, int]

_DEFINITION_WORDS = """
    def lambda function func fn class interface enum struct union record trait impl protocol type
    typealias extension namespace module mod package import export using use #include template
    delegate init deinit subscript extends implements throws where
"""
_CONTROL_WORDS = """
    if elif elseif else endif then fi for foreach endfor endforeach while until endwhile do done
    loop repeat switch endswitch match case esac when select range guard try catch except finally
    with return break continue pass raise throw yield goto go defer fallthrough co_return co_yield
"""
_KEYWORDS = frozenset((_DEFINITION_WORDS + _CONTROL_WORDS).split())
_KEYWORDLESS = re.compile(
    r"(^|_)(function|method|constructor|destructor|lambda|closure|arrow"
    r"|switch|match|case|catch|for)(_|$)|^default_(statement|keyword)$"
)
# Kinds that use the words above for something else: calls, types, names, patterns.
_CONTENT = re.compile(
    r"call|invocation|reference|pattern|identifier|name$|(?<!struct_)(?<!interface_)type$|suffix"
    r"|generic|^(template_function|template_method|class_literal|constructor_expression)$"
)
# Keywords that have a named node in Swift's grammar.
_NAMED_KEYWORD = re.compile(r"^else$|_keyword$")
_FRAME = re.compile(
    r"(block|body|parameters|parenthesized_expression|compound_statement|do_group|modifiers?"
    r"|storage_class_specifier|condition_clause|test_command|resource_specification|imports"
    r"|(import|export)_clause|(parameter|argument|declaration|variant|enumerator|base|use|import_spec)_list)$"
)
_FENCE = re.compile(r"[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\r\n]*)[\r\n]*")
_INFO_WORD = re.compile(r"[\w+#-]+")


_DIALECTS = {
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "php_only": ("tree_sitter_php", "language_php_only"),
}


@cache
def _parser(grammar: str) -> Parser:
    """A parser by grammar: a canonical name, or `tsx` or `php_only`."""
    module, function = _DIALECTS.get(grammar) or languages()[grammar].grammar
    return Parser(Language(getattr(import_module(module), function)()))


def parse(code: str, language: str) -> Tree:
    """The syntax tree of `code`, over its UTF-8 bytes. `language` is canonical or an alias.

    PHP without an opening tag is read as code. TypeScript that does not parse is read as TSX.

    Raises:
        ValueError: the language is unknown.
    """
    canonical = canonical_language(language)
    if canonical is None:
        raise ValueError(f"unknown language {language!r}")
    source = code.encode("utf-8", "surrogatepass")
    if canonical == "php" and "<?" not in code:
        canonical = "php_only"
    tree = _parser(canonical).parse(source)
    if canonical == "typescript" and tree.root_node.has_error:
        tsx = _parser("tsx").parse(source)
        return tree if tsx.root_node.has_error else tsx
    return tree


@cache
def _matches(pattern: re.Pattern[str], kind: str) -> bool:
    return bool(pattern.search(kind))


def _is_keyword(token: Node) -> bool:
    return token.type in _KEYWORDS or _matches(_NAMED_KEYWORD, token.type)


def _structural_tokens(root: Node) -> list[Span]:
    """Byte spans of the structural tokens below `root`, sorted, with touching spans joined."""
    tokens: list[Span] = []
    pending = [(root, False)]
    while pending:
        node, inside = pending.pop()
        children = node.children
        if not children:
            continue
        kind = node.type
        own = [
            child
            for child in children
            if (not child.is_named or _matches(_NAMED_KEYWORD, child.type))
            and child.end_byte > child.start_byte
        ]
        if kind == "ERROR":
            inside, own = False, [token for token in own if _is_keyword(token)]
        else:
            structural = not _matches(_CONTENT, kind) and (
                _matches(_KEYWORDLESS, kind) or any(map(_is_keyword, own))
            )
            inside = structural or (inside and _matches(_FRAME, kind))
        if inside or kind == "ERROR":
            tokens.extend((token.start_byte, token.end_byte) for token in own)
        pending.extend((child, inside) for child in children if child.is_named)
    joined: list[Span] = []
    for start, end in sorted(tokens):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def structural_spans(code: str, language: str) -> list[Span]:
    """Sorted, disjoint character offsets [start, end) of the structural tokens of `code`.

    Raises:
        ValueError: the language is unknown. Broken code gives the spans that were found.
    """
    spans = _structural_tokens(parse(code, language).root_node)
    if code.isascii():
        return spans
    character_at: list[int] = []
    for index, character in enumerate(code):
        character_at.extend([index] * len(character.encode("utf-8", "surrogatepass")))
    character_at.append(len(code))
    return [(character_at[start], character_at[end]) for start, end in spans]


def code_blocks(completion: str, language: str | None) -> list[tuple[int, int, str | None]]:
    """Where code is in a completion: (start, end, language), in characters.

    Code is the content of ``` and ~~~ fences, whatever their indentation. An unclosed fence goes to
    the end. Without a fence, the whole text is code. A block's language is the one that its fence
    names (None if that is not one of `languages`), else `language`. In code without a fence, a
    fence line in a string (Markdown in a docstring) is taken for a fence.
    """
    blocks: list[tuple[int, int, str | None]] = []
    opened: tuple[str, int, str | None] | None = None
    position = 0
    for line in completion.splitlines(keepends=True):
        fence = _FENCE.fullmatch(line)
        if opened is None and fence:
            word = _INFO_WORD.search(fence["info"])
            named = canonical_language(word[0]) if word else language
            opened = (fence["mark"], position + len(line), named)
        elif opened and fence and not fence["info"] and fence["mark"].startswith(opened[0]):
            blocks.append((opened[1], position, opened[2]))
            opened = None
        position += len(line)
    if opened:
        blocks.append((opened[1], position, opened[2]))
    return blocks or [(0, len(completion), language)]


def completion_spans(completion: str, language: str | None) -> list[Span]:
    """Structural spans of all code blocks of a completion, in the completion's offsets.

    A block in an unknown language has none.
    """
    return [
        (block + start, block + end)
        for block, block_end, named in code_blocks(completion, language)
        if named is not None and canonical_language(named)
        for start, end in structural_spans(completion[block:block_end], named)
    ]


def spans_between(before: str, after: str, code: str, language: str | None) -> list[Span]:
    """Structural spans of `code` where it stands between other code, in the offsets of `code`.

    Code in an unknown language has none.
    """
    if language is None or canonical_language(language) is None:
        return []
    spans = structural_spans(before + code + after, language)
    first, last = len(before), len(before) + len(code)
    cut = ((max(start, first), min(end, last)) for start, end in spans)
    return [(start - first, end - first) for start, end in cut if start < end]


def token_mask(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """For each token's character offsets, whether they overlap a span.

    `spans` are sorted and disjoint. `offsets` may come in any order. Zero-width tokens (special
    tokens, padding) are False.
    """
    ends = [end for _, end in spans]
    mask = []
    for start, end in offsets:
        nearest = bisect_right(ends, start)
        mask.append(start < end and nearest < len(spans) and spans[nearest][0] < end)
    return mask
