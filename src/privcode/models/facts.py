"""What is known of a model and its tokenizer before anything is trained.

Promises: what would end training or sampling later is refused before any budget is spent, by the
field of the config.
Does not: find whether its records can be clipped. A trial does (`training.learner`).
"""

from typing import Any

from privcode.errors import UserError
from privcode.models import quantised
from privcode.models.loading import (
    check_model,
    context_length,
    device_here,
    load_config,
    load_tokenizer,
    sizes,
)
from privcode.models.settings import Model
from privcode.models.templates import asking
from privcode.models.tokens import answer_texts, answer_tokens, prompt_tokens, tokenizer_of

_CODES = ("def f(x):\n    if x:\n\t\treturn  'a'\n\n    return x  # 1\n", "    return x\n")


def check(section: Model, field: str) -> None:
    """Refuse a model that cannot be used as its section says.

    Args:
        section: the section of the config.
        field: its name, "junior" or "premium".

    Raises:
        UserError: the model or its tokenizer cannot be loaded; the model fails its trial; a token
            of a text has no embedding; code does not come back from its tokens; `max_tokens` is
            more than the positions of the model; its template cannot be used; or no layer can be
            adapted; or the machine cannot quantise it.
    """
    tokenizer = check_template(section, field)
    quantised.check(section.quantization, section.model, field, device_here())
    check_model(section.model, section.dtype)
    config = load_config(section.model)
    _check_special_tokens(section, field, tokenizer, config)
    whose = f"{field}.model: the tokenizer of {section.model}"
    _check_tokenizer(tokenizer, whose, config.get_text_config().vocab_size)
    if section.max_tokens > (context := context_length(config)):
        raise UserError(
            f"{field}.max_tokens: is {section.max_tokens}, and the model has {context} positions; "
            "lower it"
        )
    try:
        sizes(section.model, section.lora.r, section.lora.targets)
    except UserError as error:
        raise UserError(f"{field}.{error}") from None


def check_template(section: Model, field: str) -> Any:
    """The section's tokenizer, after a trial of its template.

    Raises:
        UserError: the tokenizer cannot be loaded, or the template cannot be used.
    """
    load_tokenizer(section.model)
    try:
        tokenizer = tokenizer_of(section)
        text = asking(section.template, tokenizer, section.system)("prompt")
    except UserError as error:
        raise UserError(f"{field}.{error}") from None
    if not prompt_tokens(tokenizer, text):
        raise UserError(f"{field}.template: gives an empty text; write a template with words")
    return tokenizer


def _check_special_tokens(section: Model, field: str, tokenizer: Any, config: Any) -> None:
    embeddings = config.get_text_config().vocab_size
    for kind in ("bos", "eos", "pad"):
        number = getattr(tokenizer, f"{kind}_token_id")
        if number is not None and number >= embeddings:
            token = getattr(tokenizer, f"{kind}_token")
            raise UserError(
                f"{field}.model: the {kind} token {token} of {section.model}'s tokenizer has the "
                f"number {number}, and the model has {embeddings} embeddings; choose a {kind} "
                "token that it has, in tokenizer_config.json, or resize the model"
            )


def _check_tokenizer(tokenizer: Any, whose: str, embeddings: int) -> None:
    if tokenizer.eos_token_id is None:
        raise UserError(f"{whose} has no end token; set eos_token in its tokenizer_config.json")
    # Special tokens are no part of a text: multimodal models have some that only images use.
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    last, token = max((n, t) for t, n in tokenizer.get_vocab().items() if n not in special)
    if last >= embeddings:
        raise UserError(
            f"{whose} has a token {token!r} with the number {last}, and the model has {embeddings} "
            "embeddings; resize the model (resize_token_embeddings), or take its own tokenizer"
        )
    for code in _CODES:
        (back,) = answer_texts(tokenizer, [answer_tokens(tokenizer, code).ids])
        if back != code:
            raise UserError(
                f"{whose} loses spaces or new lines of code; choose a model that is made for code"
            )
