"""Which code of a text is meant: the block that is run, tested or scored.

Promises:
- Of several fenced blocks, the first one in the wanted language is taken. A fence that names no
  language is in it. If there is none, the first block in another known language is taken, and if
  there is none either, the first block. Blank blocks are passed over.
- Code of a fence that is indented, as in a list, loses the indentation of its fence.
- The text of an end token (`<|endoftext|>`) at the end of a line ends the code.
- Without a fence, the whole text is code.

Does not: judge whether code is valid.
"""

import re

from privcode.languages import canonical_language
from privcode.syntax.spans import code_blocks

_END_TOKENS = (
    *("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|end|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|end_of_text|>", "<|endofmask|>", "<|file_sep|>", "<|file_separator|>", "<|EOT|>"),
    *("<|end▁of▁sentence|>", "<｜end▁of▁sentence｜>"),
)
# What is also a tag or a type counts at the end of the text alone.
_LAST = ("</s>", "<eos>", "<end_of_turn>")
_END = re.compile(
    rf"({'|'.join(map(re.escape, _END_TOKENS))})(?=[ \t]*(\r?\n|\Z|<))"
    rf"|({'|'.join(map(re.escape, _LAST))})(?=\s*\Z)"
)


def before_end(text: str) -> str:
    """`text` up to the text of an end token."""
    found = _END.search(text)
    return text[: found.start()] if found else text


def code_in(text: str, language: str, *, any_language: bool = False) -> tuple[str, str]:
    """The code in a text, and its language, by the rules above.

    Args:
        text: a completion or an answer.
        language: the wanted language.
        any_language: take the first block in any known language.
    """
    text = before_end(text)
    blocks = [
        (_unindented(text, start, end), named)
        for start, end, named in code_blocks(text, language)
        if text[start:end].strip()
    ]
    known = [block for block in blocks if block[1]]
    own = [b for b in known if b[1] in (language, canonical_language(language))]
    for code, named in ((not any_language and own) or known or blocks)[:1]:
        return code, named or language
    return "", language


def _unindented(text: str, start: int, end: int) -> str:
    """The code of a block, without the indentation of the fence before it."""
    above = text[:start].splitlines()[-1:] or [""]
    indentation = len(above[0]) - len(above[0].lstrip(" \t"))
    if not indentation:
        return text[start:end]
    return re.sub(rf"(?m)^[ \t]{{1,{indentation}}}", "", text[start:end])
