"""What is known of a model and its tokenizer before anything is trained.

Promises: what would end training or sampling later is refused before any budget is spent, by the
field of the config.
Does not: run the model. Whether its records can be clipped is found by trial (`training.dp_sgd`).
"""

from typing import Any

from privcode.errors import UserError
from privcode.models.loading import check_model, context_length, load_config, load_tokenizer, sizes
from privcode.models.settings import Model
from privcode.models.templates import asking
from privcode.models.tokens import prompt_tokens, tokenizer_of


def check(section: Model, field: str) -> None:
    """Refuse a model that cannot be used as its section says.

    Args:
        section: the section of the config.
        field: its name, "junior" or "premium".

    Raises:
        UserError: the model or its tokenizer cannot be loaded, a special token has no embedding,
            `max_tokens` is more than the positions of the model, its template cannot be used, or
            no layer can be adapted.
    """
    tokenizer = check_template(section, field)
    check_model(section.model, section.dtype)
    config = load_config(section.model)
    _check_special_tokens(section, field, tokenizer, config)
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
