"""How a prompt is put to a model: in a text, in a chat, or as a gap to fill.

Promises:
- Only the placeholders of a text template are read, so code may hold any other braces.
- A prompt gives the same text on any day, whatever a chat template asks of the clock.
- A chat is one user turn, after a system turn if there is one. The text ends where the template
  writes an answer. A template that leaves out one of the turns is refused.

Does not: make tokens (`models.tokens`), or load a tokenizer.
"""

import re
from collections.abc import Callable
from typing import Any

from privcode.errors import UserError
from privcode.syntax import GAP

CHAT, FIM = "chat", "fim"
"""The templates that the tokenizer knows: its chat template, its tokens to fill in the middle."""

FIM_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder2, Granite
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
)
"""How models spell their tokens before the prefix, before the suffix and before the middle."""

_FIELDS = ("prompt", "code", "language", "prefix", "suffix")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(_FIELDS) + r")\}")
_VARIABLES = {
    "date_string": "26 Jul 2024",  # Llama 3's own, for a system without a clock
    "enable_thinking": False,  # Qwen3: private code comes without thoughts
    "thinking": False,  # DeepSeek, Granite
}
"""What chat templates read beside the turns."""

_DAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24"}
_CLOCK = (
    "{%- macro strftime_now(form) -%}{{ form"
    + "".join(f" | replace('{code}', '{value}')" for code, value in _DAY.items())
    + " }}{%- endmacro %}\n"
)
"""Jinja: put before a chat template, it stops the clock that transformers gives to it.

It writes nothing, and leaves spaces and new lines at the template's beginning as they were.
"""

_QUESTION, _ANSWER = "question 4711", "answer 4711"


def render(template: str, **fields: str) -> str:
    """`template` with {prompt}, {code}, {language}, {prefix} and {suffix} replaced by `fields`.

    Other braces stay as they are, also braces inside a field. A placeholder without a field stays
    too. A field that the template does not use is ignored.

    Raises:
        TypeError: a field is none of these.
    """
    if unknown := set(fields) - set(_FIELDS):
        raise TypeError(f"render() has no field {', '.join(sorted(unknown))}")
    return _PLACEHOLDER.sub(lambda match: fields.get(match[1], match[0]), template)


def is_chat(template: str) -> bool:
    """Whether this is the tokenizer's chat template, or a Jinja chat template of the user's own."""
    return template == CHAT or "{{" in template or "{%" in template


def is_fim(template: str) -> bool:
    """Whether the model fills a gap between a prefix and a suffix."""
    return template == FIM or (not is_chat(template) and "{suffix}" in template)


def around(template: str, prompt: str) -> tuple[str, str]:
    """The code before and after an answer. Both are empty unless the template is to fill a gap.

    A prompt without `GAP` is all prefix.
    """
    if not is_fim(template):
        return "", ""
    prefix, _, suffix = prompt.partition(GAP)
    return prefix, suffix


def asking(template: str, tokenizer: Any, system: str | None = None) -> Callable[[str], str]:
    """The function from a prompt to the text that the model gets.

    Args:
        template: `CHAT`, `FIM`, a Jinja chat template, or a text with {prompt}, or with {prefix}
            and {suffix}.
        tokenizer: the model's.
        system: text of the system turn of a chat.

    Raises:
        UserError: the tokenizer has no chat template or no tokens to fill in the middle; the chat
            template fails, also from the function, or leaves out a turn.
    """
    if is_chat(template):
        chat = _chat_template(template, tokenizer)
        opening, _ = _around_an_answer(tokenizer, chat, system)
        return lambda prompt: _chat(tokenizer, chat, turns(prompt, system), True) + opening
    text = _fim_template(tokenizer) if template == FIM else template

    def ask(prompt: str) -> str:
        prefix, suffix = around(template, prompt)
        return render(text, prompt=prompt, prefix=prefix, suffix=suffix)

    return ask


def after_an_answer(template: str, tokenizer: Any, system: str | None = None) -> str:
    """What a chat template writes after the text of an answer: its end of turn.

    Empty for a template that has no place for an answer.

    Raises:
        UserError: see `asking`.
    """
    return _around_an_answer(tokenizer, _chat_template(template, tokenizer), system)[1]


def turns(prompt: str, system: str | None = None) -> list[dict[str, str]]:
    """The turns of a chat before the answer, as `apply_chat_template` takes them."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": prompt}]


def _chat_template(template: str, tokenizer: Any) -> str:
    if template != CHAT:
        return template
    found = tokenizer.chat_template
    if isinstance(found, str):
        return found
    if found and "default" in found:
        return str(found["default"])
    if found:
        raise UserError(
            f"template: is chat, and none of the tokenizer's chat templates "
            f"({', '.join(sorted(found))}) is called default; write the one to use as the template"
        )
    raise UserError(
        "template: is chat, and the tokenizer has no chat template; choose an instruct model, or "
        "write a template"
    )


def _around_an_answer(tokenizer: Any, chat: str, system: str | None) -> tuple[str, str]:
    """What a chat template writes before an answer, beyond its generation prompt, and after it.

    Some templates have no generation prompt, or one that ends before the answer does begin.

    Raises:
        UserError: the template fails, or leaves out a turn.
    """
    conversation = turns(_QUESTION, system)
    asked = _chat(tokenizer, chat, conversation, True)
    for turn in conversation:
        if turn["content"].strip() not in asked:
            remedy = "leave out system" if turn["role"] == "system" else "write a Jinja template"
            raise UserError(
                f"template: the chat template leaves out the text of the {turn['role']} turn; "
                f"{remedy}"
            )
    answered = [*conversation, {"role": "assistant", "content": _ANSWER}]
    before, found, after = _chat(tokenizer, chat, answered, False).rpartition(_ANSWER)
    if not found:
        return "", ""
    opening = before.removeprefix(asked) if before.startswith(asked) else ""
    # A space alone is part of the answer's first token.
    return (opening if opening.strip() else ""), after


def _chat(tokenizer: Any, chat: str, conversation: list[dict[str, str]], asks: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            conversation,
            chat_template=_CLOCK + chat,
            tokenize=False,
            add_generation_prompt=asks,
            **_VARIABLES,
        )
    except Exception as error:  # a template is a program, and may fail in any way
        # The kind only: a template's message may quote the prompt.
        roles = [turn["role"] for turn in conversation]
        answer = " and an answer" if "assistant" in roles else ""
        system = " with a system turn" if "system" in roles else ""
        raise UserError(
            f"template: the chat template fails ({type(error).__name__}) on one user "
            f"turn{answer}{system}; {'leave out system' if system else 'correct it'}"
        ) from None
    return text


def _fim_template(tokenizer: Any) -> str:
    known = tokenizer.get_vocab()
    for prefix, suffix, middle in FIM_TOKENS:
        if {prefix, suffix, middle} <= known.keys():
            return f"{prefix}{{prefix}}{suffix}{{suffix}}{middle}"
    raise UserError(
        "template: is fim, and the tokenizer has none of the known tokens to fill in the middle "
        f"({', '.join(row[0] for row in FIM_TOKENS)}); choose a code model, or write a template "
        "with {prefix} and {suffix}"
    )
