"""The settings of sampling: which backend samples a model, and what the junior is asked for."""

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from privcode.fields import Name, Positive, Seconds, Section, Seed, Share, Size, Temperature, Text


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not the address of a server, such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("may hold no user, password or query; name the key's variable in key")
    return url


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        raise ValueError(
            "is not the name of an environment variable (capital letters, digits and _); the key "
            "itself is never written into a config"
        )
    return name


_COLDEST = 0.01
"""vLLM raises lower temperatures to this one."""


class Vllm(Section):
    """Options of backend vllm."""

    tensor_parallel: Positive = Field(1, le=1024, description="number of GPUs that share one model")
    memory: Share = Field(0.9, description="share of a GPU's memory that vLLM takes")
    quantization: Name | None = Field(
        None,
        description="how vLLM quantises the weights as it loads them, such as bitsandbytes or fp8; "
        "default: as the model's own config says",
    )


class Endpoint(Section):
    """Options of backend endpoint: an OpenAI-compatible server."""

    url: Annotated[Text, AfterValidator(_url)] | None = Field(
        None, description="address of the server, such as http://127.0.0.1:8000/v1"
    )
    model: Text | None = Field(
        None,
        description="what the server calls the model; default: what privcode calls it (junior, "
        "base, tuned or describer)",
    )
    key: Annotated[Text, AfterValidator(_variable)] | None = Field(
        None, description="name of the environment variable that holds the server's key"
    )
    timeout: Seconds = Field(600.0, description="time limit of one answer")
    patience: Seconds = Field(
        300.0, description="how long to go on asking while the server answers nothing at all"
    )


class Sampled(Section):
    """Which backend samples a model, and its options. A base of the sections that sample."""

    backend: Name = Field(
        "local",
        description="backend that samples: local (transformers in this process), vllm, endpoint "
        "(an OpenAI-compatible server), or the name of one that another package adds",
    )
    vllm: Vllm = Field(default_factory=lambda: Vllm())
    endpoint: Endpoint = Field(default_factory=lambda: Endpoint())

    @model_validator(mode="after")
    def _has_a_server(self) -> Self:
        if self.backend == "endpoint" and self.endpoint.url is None:
            raise ValueError("endpoint.url: is missing; give the address of the server")
        temperature = getattr(self, "temperature", 0.0)
        if self.backend == "vllm" and 0 < temperature < _COLDEST:
            raise ValueError(f"temperature: must be 0 or at least {_COLDEST} for backend vllm")
        return self


class Synthesize(Sampled):
    """Sampling solutions of the public prompts from the DP junior."""

    samples_per_prompt: Size = Field(1, description="number of solutions for each prompt")
    temperature: Temperature = Field(1.0, description="temperature of the sampling; 0: greedy")
    top_p: Share = Field(
        1.0, description="sample from the likeliest tokens with this total probability; 1: all"
    )
    max_new_tokens: Size = Field(512, description="maximum number of tokens of a solution")
    batch_size: Size = Field(
        64, description="number of solutions that are sampled together, or asked for at once"
    )
    seed: Seed = Field(0, description="seed of the sampling")
