"""Sampling with transformers in this process.

Promises:
- The same prompts, sampling, chunk and batch size give the same texts on the same machine,
  whatever was drawn before.
- A batch for which memory is too small is drawn in halves. Only a single text may be too large.
- The global random state is left as it was.
- Texts are drawn from the model's distribution as `Sampling` says. Of the model's own
  generation_config only the end tokens are applied.

Does not: spread a chunk over devices. Where memory was short, another machine draws other texts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from privcode.errors import UserError
from privcode.generation import Sampling, Weights
from privcode.generation._prompts import encoded, seed_of, tokenizer_for
from privcode.models import (
    Latent,
    answer_texts,
    context_length,
    end_tokens,
    load_adapter,
    load_latent,
    load_model,
    prompt_tokens,
)


@dataclass(frozen=True)
class LocalGenerator:
    """A `Generator` over a loaded model. `batch_size` counts sequences, not prompts."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 64
    latent: Latent | None = None
    _too_many: list[int] = field(default_factory=list)  # sequences that did not fit in memory

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, chunk: int = 0
    ) -> list[list[str]]:
        """See `Generator.generate`.

        The longest prompt of a batch may leave less room in the context than `max_new_tokens`.
        The batch then stops where the context ends.
        """
        room = context_length(self.model.config) - self._prefix(sampling.latent)
        tokens = encoded(self.tokenizer, prompts, room)
        copies = sampling.n if sampling.temperature > 0 else 1
        # Longest first: a batch that does not fit in memory fails at once, not after an hour.
        rows = sorted(
            (index for index in range(len(prompts)) for _ in range(copies)),
            key=lambda index: -len(tokens[index]),
        )
        texts: list[list[str]] = [[] for _ in prompts]
        training = self.model.training
        self.model.eval()
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                for start in range(0, len(rows), self.batch_size):
                    batch = rows[start : start + self.batch_size]
                    seed = seed_of(sampling.seed, chunk, start // self.batch_size)
                    answers = self._fitting([tokens[index] for index in batch], sampling, seed)
                    for index, answer in zip(batch, answers, strict=True):
                        texts[index].append(answer)
        finally:
            self.model.train(training)
        return [answers * (sampling.n // copies) for answers in texts]

    def _fitting(self, batch: list[list[int]], sampling: Sampling, seed: int) -> list[str]:
        """One continuation of each row, all at once or, where memory is too small, in halves.

        What did not fit once is not tried again. A half has a seed of its own, so the texts are the
        same whether or not it was known before that the whole does not fit.

        Raises:
            UserError: a single row does not fit.
        """
        if len(batch) < min(self._too_many, default=len(batch) + 1):
            torch.manual_seed(seed)
            try:
                return self._continue(batch, sampling)
            except (MemoryError, RuntimeError) as error:
                if not _is_for_memory(error):
                    raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(batch) == 1:
                raise UserError(
                    f"memory is too small for one text of {len(batch[0])} + "
                    f"{sampling.max_new_tokens} tokens; lower max_new_tokens, or take a smaller "
                    "model, or dtype: bfloat16"
                )
            self._too_many.append(len(batch))
        half = len(batch) // 2
        halves = (batch[:half], batch[half:])
        return [
            t
            for i, rows in enumerate(halves)
            for t in self._fitting(rows, sampling, seed_of(seed, 0, i))
        ]

    def _continue(self, batch: list[list[int]], sampling: Sampling) -> list[str]:
        """One continuation of each row of token ids, drawn with the global random generator."""
        device = self.model.device
        prefix = self._prefix(sampling.latent)
        ids = [torch.tensor(row, device=device) for row in batch]
        longest = max(len(row) for row in batch)
        room = context_length(self.model.config) - longest - prefix
        attended = [torch.ones(prefix + len(row), dtype=torch.long, device=device) for row in batch]
        inputs = {"input_ids": pad_sequence(ids, True, self.tokenizer.pad_token_id, "left")}
        if prefix:
            inputs = {"inputs_embeds": self._after_prefixes(ids)}
        with _no_preferences(self.model):
            output = self.model.generate(
                **inputs,
                attention_mask=pad_sequence(attended, True, 0, "left"),
                generation_config=self._config(sampling, room),
            )
        ends = set(end_tokens(self.tokenizer, self.model.generation_config))
        new = output if prefix else output[:, longest:]  # of embeddings, none are given back
        answers = [list(takewhile(lambda token: token not in ends, row)) for row in new.tolist()]
        return answer_texts(self.tokenizer, answers)

    @torch.no_grad()
    def _after_prefixes(self, ids: list[torch.Tensor]) -> torch.Tensor:
        """The embeddings of each row after the prefix for a z of the prior, padded to the left."""
        assert self.latent is not None
        embed = self.model.get_input_embeddings()
        prefixes = self.latent.prefixes(torch.randn(len(ids), self.latent.size))
        rows = [
            torch.cat([prefix.to(embedded), embedded])
            for prefix, embedded in zip(prefixes, map(embed, ids), strict=True)
        ]
        return pad_sequence(rows, True, 0.0, "left")

    def _config(self, sampling: Sampling, room: int) -> Any:
        drawn: dict[str, float] = {}
        if sampling.temperature > 0:
            drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            do_sample=sampling.temperature > 0,
            max_new_tokens=min(sampling.max_new_tokens, room),
            eos_token_id=end_tokens(self.tokenizer, self.model.generation_config) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            **drawn,
        )

    def fits(self, prompt: str) -> bool:
        """Whether `prompt` leaves room for an answer in the model's context."""
        room = context_length(self.model.config) - self._prefix(True)
        return len(prompt_tokens(self.tokenizer, prompt)) < room

    def _prefix(self, latent: bool) -> int:
        """Virtual tokens before a text, which is written for a z if `latent` says so."""
        return self.latent.prefix if latent and self.latent else 0


def load(weights: Weights, batch_size: int) -> LocalGenerator:
    """The model of these files, ready to sample in this process."""
    model: Any = load_model(weights.model, weights.dtype)
    *before, last = weights.adapters or (None,)
    for adapter in before:
        model = load_adapter(model, adapter).merge_and_unload()
    latent = None
    if last is not None:
        model, latent = load_adapter(model, last), load_latent(last)
    return LocalGenerator(model, tokenizer_for(weights), batch_size, latent)


def _is_for_memory(error: Exception) -> bool:
    """Whether memory ran out: a GPU's, or, by its allocator's words, the processor's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error)


@contextmanager
def _no_preferences(model: Any) -> Iterator[None]:
    """Without the model's own generation_config, from which transformers fills unset fields."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    own, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = own
