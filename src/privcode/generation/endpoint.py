"""Sampling at an OpenAI-compatible server.

What may be sent: public prompts, and what the DP model has answered to them. These are the prompts
of `synthesize` and `evaluate`, and the code of samples that `validate` asks the describer about.
Training, canaries and attacks sample with the local backend alone. A run whose samples may not be
shown to anyone has no endpoint (`pipeline.preflight`).

Promises:
- A text of the run's own models goes to `/completions` as it is, so that the server makes the
  tokens that training saw. The server counts them. Another count is an error.
- Only a describer's question goes to `/chat/completions`, where its template is chat. Its
  tokenizer need not be on this machine.
- At most `batch_size` answers are asked for at once. A server that is busy is asked for fewer.
- Every answer has a seed of its own. It is kept on disk as soon as it is there, so that a killed
  run asks for nothing that was answered.
- The key comes from an environment variable. It is in no message and no file.

Does not: choose what the server does beyond the request. A server may add limits of its own, such
as top_k. Two answers to one request need not be equal.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI

from privcode.errors import UserError
from privcode.files import jsonl_line
from privcode.generation import Sampling, Weights
from privcode.generation._prompts import encoded, seed_of, tokenizer_for
from privcode.generation.settings import Endpoint
from privcode.models import (
    context_length,
    end_tokens,
    load_generation_config,
    prompt_tokens,
    special_tokens_before,
)
from privcode.models.loading import load_config
from privcode.models.templates import turns

_SHORTEST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two tries
_BUSY = (429, 503)


@dataclass(frozen=True)
class Asked:
    """What the server is asked for one prompt.

    Attributes:
        path: "/completions" or "/chat/completions".
        body: the prompt, and what depends on it.
        tokens: the tokens that the server must count. 0: any number.
    """

    path: str
    body: Mapping[str, Any]
    tokens: int = 0


Request = tuple[Asked, dict[str, Any]]
"""What is asked, and the whole body of the request."""


@dataclass
class EndpointGenerator:
    """A `Generator` over a server.

    Attributes:
        client: the server's.
        url: its address, for messages.
        model: what the server calls the model.
        batch_size: most answers that are asked for at once.
        patience: seconds to go on while nothing is answered.
        ask: from the prompts of a chunk and the most tokens of an answer to what is asked.
        fits: whether a prompt leaves room for an answer.
        answers: file that keeps the answers.
    """

    client: OpenAI
    url: str
    model: str
    batch_size: int
    patience: float
    ask: Callable[[Sequence[str], int], list[Asked]]
    fits: Callable[[str], bool]
    answers: Path

    def __post_init__(self) -> None:
        self.at_once = self.batch_size  # fewer while the server is busy

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, chunk: int = 0
    ) -> list[list[str]]:
        """See `Generator.generate`. A question that is too long for a describer has empty answers.

        Raises:
            UserError: as there; the server refuses a request, does not answer for `patience`
                seconds, or makes other tokens of a text.
        """
        copies = sampling.n if sampling.temperature > 0 else 1
        requests = [
            (asked, self._body(asked, sampling, seed_of(sampling.seed, chunk, row * copies + n)))
            for row, asked in enumerate(self.ask(prompts, sampling.max_new_tokens))
            for n in range(copies)
        ]
        texts = iter(self._all(requests))
        return [[next(texts) for _ in range(copies)] * (sampling.n // copies) for _ in prompts]

    def _body(self, asked: Asked, sampling: Sampling, seed: int) -> dict[str, Any]:
        drawn = {"top_p": sampling.top_p} if sampling.temperature > 0 else {}
        return {
            "model": self.model,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            **drawn,
            "seed": seed >> 32,  # 31 bits, which every server takes
            **asked.body,
        }

    def _all(self, requests: Sequence[Request]) -> list[str]:
        """The answers, in rounds: what a round does not get, the next one asks for again."""
        keys = [_key(asked.path, body) for asked, body in requests]
        found, busy = self._kept(set(keys)), False
        answered, wait = time.monotonic(), _SHORTEST_WAIT
        while todo := {key: r for key, r in zip(keys, requests, strict=True) if key not in found}:
            got, again = self._round(todo)
            found |= got
            if again is None:
                continue
            if got:
                answered, wait = time.monotonic(), _SHORTEST_WAIT
            if again.busy:
                self.at_once, busy = max(1, self.at_once // 2), True
            if time.monotonic() - answered > self.patience:
                raise UserError(
                    f"endpoint {self.url}: {again.what}, for {self.patience:g} seconds; start the "
                    "server, then run again: what it has answered is kept"
                )
            time.sleep(max(wait, min(again.after, _LONGEST_WAIT)))
            wait = min(2 * wait, _LONGEST_WAIT)
        if not busy:
            self.at_once = min(2 * self.at_once, self.batch_size)
        return [found[key] for key in keys]

    def _round(self, todo: Mapping[str, Request]) -> tuple[dict[str, str], "_Again | None"]:
        """Ask for all of `todo`, by key, until something goes wrong: the answers, and what did."""
        got: dict[str, str] = {}
        wrong: list[_Again] = []
        stop, lock = Event(), Lock()

        def attempt(key: str) -> None:
            if stop.is_set():
                return
            try:
                text = self._one(*todo[key])
            except _Again as again:
                stop.set()
                wrong.append(again)
                return
            except BaseException:
                stop.set()
                raise
            with lock:
                got[key] = text
                keep(key, text)

        with self._journal() as keep, ThreadPoolExecutor(self.at_once) as pool:
            try:
                list(pool.map(attempt, todo))
            finally:
                stop.set()
        return got, max(wrong, key=lambda again: (again.busy, again.after), default=None)

    def _one(self, asked: Asked, body: dict[str, Any]) -> str:
        """The text of one answer.

        Raises:
            _Again: there is no answer, and another try may get one.
            UserError: no try will.
        """
        # `from None`: what the client says may hold the request, and what the server says the key.
        try:
            answer: Any = self.client.post(asked.path, cast_to=object, body=body)
        except APIConnectionError:
            raise _Again("does not answer") from None
        except APIStatusError as error:
            code, said = error.status_code, str(error.body or error.message)
            if code in (400, 413, 422) and _too_long(said) and not asked.tokens:
                return ""
            if code in (408, 409, 429) or code >= 500:
                raise _Again(
                    f"answers HTTP {code}", code in _BUSY, _seconds(error.response.headers)
                ) from None
            raise UserError(f"endpoint {self.url}: {self._refusal(asked, code)}") from None
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            counted = (answer.get("usage") or {}).get("prompt_tokens")
        except (LookupError, TypeError, AttributeError):
            raise UserError(
                f"endpoint {self.url}: gives an answer that is not OpenAI's; check endpoint.url"
            ) from None
        if asked.tokens and counted and counted != asked.tokens:
            raise UserError(
                f"endpoint {self.url}: makes {counted} tokens of a prompt that has {asked.tokens} "
                f"in training; serve {self.model} with its own tokenizer"
            )
        return str(text or "")

    def _refusal(self, asked: Asked, code: int) -> str:
        if code in (401, 403):
            return f"refuses the key (HTTP {code}); check the variable that endpoint.key names"
        if code == 404:
            return (
                f"has no model {self.model}, or no {asked.path} (HTTP 404); check endpoint.model "
                "and endpoint.url"
            )
        if "stop_token_ids" in asked.body:
            return (
                f"refuses a request (HTTP {code}), perhaps for stop_token_ids, which ends this "
                "model's answers; serve it with vLLM or SGLang"
            )
        return f"refuses a request to {asked.path} (HTTP {code}); its log says why"

    def _kept(self, keys: set[str]) -> dict[str, str]:
        """The answers on disk to these requests. A line that was not written whole is left out."""
        if not self.answers.exists():
            return {}
        found = {}
        for line in self.answers.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["key"] in keys:
                found[row["key"]] = row["text"]
        return found

    @contextmanager
    def _journal(self) -> Iterator[Callable[[str, str], None]]:
        self.answers.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.answers, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(b"\n")  # after a line that was not written whole

            def keep(key: str, text: str) -> None:
                file.write(jsonl_line({"key": key, "text": text}).encode())
                file.flush()

            yield keep


class _Again(Exception):
    """There is no answer, and another try may get one."""

    def __init__(self, what: str, busy: bool = False, after: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.busy, self.after = what, busy, after


def load(weights: Weights, batch_size: int, options: Endpoint, answers: Path) -> EndpointGenerator:
    """One of the run's own models, at a server.

    Raises:
        UserError: the tokenizer cannot be loaded, or there is no key.
    """
    tokenizer = tokenizer_for(weights)
    context = context_length(load_config(weights.model))
    own = load_generation_config(weights.model)
    known = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    # vLLM and SGLang can be told of an end token that the model itself does not name.
    unknown = [token for token in end_tokens(tokenizer, own) if token not in known]
    ends = {"stop_token_ids": unknown} if unknown else {}
    before = special_tokens_before(tokenizer)

    def ask(prompts: Sequence[str], most: int) -> list[Asked]:
        rows = encoded(tokenizer, prompts, context)
        return [
            Asked(
                "/completions",
                {
                    # The server puts these tokens before a text, as the tokenizer does.
                    "prompt": prompt.removeprefix(before),
                    "max_tokens": min(most, context - len(row)),
                    **ends,
                },
                len(row),
            )
            for prompt, row in zip(prompts, rows, strict=True)
        ]

    def fits(prompt: str) -> bool:
        return len(prompt_tokens(tokenizer, prompt)) < context

    return _generator(options, weights.label, batch_size, ask, fits, answers)


def load_describer(
    options: Endpoint, chat: bool, system: str | None, batch_size: int, answers: Path
) -> EndpointGenerator:
    """A public model at a server, whose tokenizer need not be on this machine.

    Args:
        options: the server.
        chat: whether a prompt is a turn of the user, and not a text to be continued.
        system: text of the system turn.
        batch_size: answers that are asked for at once.
        answers: file that keeps the answers.

    Raises:
        UserError: there is no key.
    """

    def ask(prompts: Sequence[str], most: int) -> list[Asked]:
        if chat:
            return [Asked("/chat/completions", {"messages": turns(p, system)}) for p in prompts]
        return [Asked("/completions", {"prompt": prompt}) for prompt in prompts]

    return _generator(options, "describer", batch_size, ask, bool, answers)


def key_of(options: Endpoint, field: str) -> str:
    """The key of a server, from its environment variable. "none" if it needs none.

    Raises:
        UserError: the variable is not set.
    """
    if options.key is None:
        return "none"
    if not (key := os.environ.get(options.key, "").strip()):
        raise UserError(f"{field}.key: the variable {options.key} is not set; export it")
    return key


def _generator(
    options: Endpoint,
    label: str,
    batch_size: int,
    ask: Callable[[Sequence[str], int], list[Asked]],
    fits: Callable[[str], bool],
    answers: Path,
) -> EndpointGenerator:
    client = OpenAI(
        base_url=options.url,
        api_key=key_of(options, "endpoint"),
        timeout=options.timeout,
        max_retries=0,
    )
    model = options.model or label
    assert options.url is not None  # a section without is refused
    return EndpointGenerator(
        client, options.url, model, batch_size, options.patience, ask, fits, answers
    )


def _key(path: str, body: Mapping[str, Any]) -> str:
    said = json.dumps([path, body], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _too_long(said: str) -> bool:
    """Whether a server refuses a prompt for its length, by the words of servers in use."""
    words = said.lower()
    return "context_length_exceeded" in words or ("context" in words and "length" in words)


def _seconds(headers: Any) -> float:
    try:
        return float(headers.get("retry-after", 0))
    except ValueError:
        return 0.0
