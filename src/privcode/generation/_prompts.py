"""What the backends share: prompts as tokens that leave room, and the seeds of chunks."""

import hashlib
from collections.abc import Sequence
from typing import Any

from privcode.errors import UserError
from privcode.generation import Weights
from privcode.models import load_tokenizer, prompt_tokens


def tokenizer_for(weights: Weights) -> Any:
    """The tokenizer of a model that is sampled. Its end token is the one that ends an answer."""
    tokenizer = load_tokenizer(weights.tokenizer)
    if weights.end:
        tokenizer.eos_token = weights.end
    return tokenizer


def encoded(tokenizer: Any, prompts: Sequence[str], context: int) -> list[list[int]]:
    """The tokens of the prompts of a chunk.

    Raises:
        UserError: a prompt is empty or leaves no room in `context` tokens.
    """
    rows = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    for number, ids in enumerate(rows, start=1):
        if not ids:
            raise UserError(f"prompt {number} of the chunk is empty; give it some text")
        if len(ids) >= context:
            raise UserError(
                f"prompt {number} of the chunk has {len(ids)} tokens and the model's context "
                f"is {context}; shorten it or choose a model with a longer context"
            )
    return rows


def seed_of(seed: int, chunk: int, number: int) -> int:
    """The seed of one draw of a chunk, below 2**63."""
    digest = hashlib.sha256(f"{seed} {chunk} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
