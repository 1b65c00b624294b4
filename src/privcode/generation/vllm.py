"""Sampling with vLLM in this process: for GPUs, and for models that several GPUs share.

Promises:
- vLLM gets the tokens that every other stage sees, and privcode makes texts of the tokens that it
  gives back. It applies nothing of the model's own generation_config but the end tokens.
- Every text has a seed of its own, and the engine's cache is emptied before a chunk. So any chunk
  can be drawn again by itself.
- An adapter stays an adapter. Only those before the last are merged, as in the local backend.
- vLLM sends no usage statistics.
- The global random state, torch's threads and the cores of this process are left as they were.

Does not: draw what the local backend draws. The distribution is the same. Where two tokens are
nearly as likely as each other, rounding decides, and the engines round differently. vLLM keeps an
adapter in the type of the model's weights.
"""

import gc
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privcode.errors import UserError
from privcode.files import read_json
from privcode.generation import Sampling, Weights
from privcode.generation._prompts import encoded, seed_of, tokenizer_for
from privcode.generation.settings import Vllm
from privcode.models import (
    answer_texts,
    context_length,
    end_tokens,
    load_adapter,
    load_generation_config,
    load_model,
    prompt_tokens,
    source_of,
)
from privcode.models.loading import load_config

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters that vLLM makes room for."""

_engines: list[Any] = []
"""The engine that is loaded. There is one at a time, because an engine fills its GPU."""


@dataclass(frozen=True)
class VllmGenerator:
    """A `Generator` over an engine of vLLM.

    Attributes:
        engine: a `vllm.LLM`.
        adapter: a `LoRARequest`, or None.
        tokenizer: the model's.
        ends: the tokens that end an answer.
        context: tokens, of prompt and answer together.
        batch_size: sequences.
        threads: torch's, as the engine wants them.
    """

    engine: Any
    adapter: Any
    tokenizer: Any
    ends: tuple[int, ...]
    context: int
    batch_size: int
    threads: int

    def fits(self, prompt: str) -> bool:
        """Whether `prompt` leaves room for an answer in the model's context."""
        return len(prompt_tokens(self.tokenizer, prompt)) < self.context

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, chunk: int = 0
    ) -> list[list[str]]:
        """See `Generator.generate`. A text ends where the context does."""
        from vllm import SamplingParams

        rows = encoded(self.tokenizer, prompts, self.context)
        copies = sampling.n if sampling.temperature > 0 else 1
        params = [
            SamplingParams(
                n=copies,
                temperature=sampling.temperature,
                top_p=sampling.top_p if sampling.temperature > 0 else 1.0,
                max_tokens=min(sampling.max_new_tokens, self.context - len(row)),
                seed=seed_of(sampling.seed, chunk, number) >> 1,  # vLLM adds the answer's number
                stop_token_ids=list(self.ends),
                ignore_eos=True,  # it is one of the ends, if the model has one
                detokenize=False,
            )
            for number, row in enumerate(rows)
        ]
        if not rows:
            return []
        with _as_before():
            torch.set_num_threads(self.threads)
            self.engine.reset_prefix_cache()
            outputs = self.engine.generate(
                [{"prompt_token_ids": row} for row in rows],
                params,
                lora_request=self.adapter,
                use_tqdm=False,
            )
        return [
            answer_texts(self.tokenizer, [self._before_the_end(a.token_ids) for a in o.outputs])
            * (sampling.n // copies)
            for o in outputs
        ]

    def _before_the_end(self, ids: Sequence[int]) -> list[int]:
        return list(takewhile(lambda token: token not in self.ends, ids))


def load(weights: Weights, batch_size: int, options: Vllm) -> VllmGenerator:
    """The model of these files in an engine. The engine that was loaded before ends.

    Where a GPU's memory cannot hold one text of the model's whole context, the context is shorter.

    Raises:
        UserError: the engine cannot load the model or its adapter.
    """
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["DO_NOT_TRACK"] = "1"
    # In this process, requests come to the engine in one order, whatever the machine is doing.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    *before, last = weights.adapters or (None,)
    lora = {} if last is None else {"enable_lora": True, "max_lora_rank": _room_for(last)}
    close()
    with _as_before(), _folder(weights, tuple(filter(None, before))) as folder:
        try:
            engine = LLM(
                model=folder,
                skip_tokenizer_init=True,
                generation_config="vllm",  # its own defaults, which are none
                dtype=weights.dtype,
                quantization=options.quantization,
                tensor_parallel_size=options.tensor_parallel,
                gpu_memory_utilization=options.memory,
                max_model_len=-1,
                max_num_seqs=batch_size,
                enable_prefix_caching=True,
                # Where a prompt is read in parts, vLLM moves its generator back, and one of a
                # processor cannot be moved.
                enable_chunked_prefill=None if torch.cuda.is_available() else False,
                trust_remote_code=False,
                **lora,
            )
        except Exception as error:
            raise UserError(
                f"vllm: {weights.model} cannot be loaded ({_reason(error)}); change the options of "
                "vllm, or choose backend local"
            ) from error
        _engines.append(engine)
        threads = torch.get_num_threads()
    tokenizer = tokenizer_for(weights)
    context = engine.llm_engine.model_config.max_model_len
    return VllmGenerator(
        engine=engine,
        adapter=None if last is None else LoRARequest("adapter", 1, str(last.resolve())),
        tokenizer=tokenizer,
        ends=tuple(end_tokens(tokenizer, load_generation_config(weights.model))),
        context=min(context, context_length(load_config(weights.model))),
        batch_size=batch_size,
        threads=threads,
    )


def close() -> None:
    """End the engine that is loaded, and free its memory."""
    if not _engines:
        return
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    _engines.pop().llm_engine.engine_core.shutdown()
    gc.collect()
    cleanup_dist_env_and_memory()


def _room_for(adapter: Path) -> int:
    rank = int(read_json(adapter / "adapter_config.json")["r"])
    if rank > _RANKS[-1]:
        raise UserError(
            f"vllm: {adapter} has rank {rank}, and vLLM takes up to {_RANKS[-1]}; lower lora.r, or "
            "choose backend local"
        )
    return next(room for room in _RANKS if room >= rank)


@contextmanager
def _folder(weights: Weights, before: tuple[Path, ...]) -> Iterator[str]:
    """A model that vLLM can read: the model itself, or, for a while, one merged or unpacked."""
    if not before and not weights.model.endswith(".gguf"):
        yield source_of(weights.model)
        return
    model: Any = load_model(weights.model, weights.dtype)
    for adapter in before:
        model = load_adapter(model, adapter).merge_and_unload()
    with tempfile.TemporaryDirectory(prefix="privcode-") as folder:
        model.save_pretrained(folder)
        del model
        gc.collect()
        yield folder


@contextmanager
def _as_before() -> Iterator[None]:
    """vLLM seeds all generators of the process. On processors it also binds it to cores."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        if hasattr(os, "sched_getaffinity"):  # not on macOS
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        stack.callback(set_threads, threads)
        stack.callback(setattr, torch, "set_num_threads", set_threads)  # vLLM replaces it
        yield


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")
