"""`vllm serve` as a server, with the run's own models: a base, and an adapter by its name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from privcode.generation import Generator, Sampling, Weights
from privcode.generation.endpoint import load
from privcode.generation.local import LocalGenerator
from privcode.generation.local import load as load_local
from privcode.generation.settings import Endpoint
from privcode.models import answer_tokens, attach_lora, load_model, load_tokenizer
from tests.helpers.distribution import gap_where_they_part, p_value, text_probabilities
from tests.helpers.servers import Proxy, Server, free_port, plain_folder, proxy
from tests.helpers.vllm_draws import GREEDY, OPEN, PROMPTS
from tests.helpers.vllm_here import ENVIRONMENT, serving, vllm_python

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_folder(tmp_path_factory.mktemp("model") / "junior")


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tuned = attach_lora(load_model(str(folder)), 4, 12, 0.0)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    path = tmp_path_factory.mktemp("adapter") / "junior"
    tuned.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def seen(folder: Path, adapter: Path, tmp_path_factory: Any) -> Iterator[Proxy]:
    port, log = free_port(), tmp_path_factory.mktemp("log") / "server"
    command = serving(str(vllm_python()), str(folder), port, "float32", 32)
    command += ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"junior={adapter}"]
    server = Server(command, log, port, ENVIRONMENT)
    server.start()
    try:
        with proxy(port) as between:
            yield between
    finally:
        server.stop()


def generator(folder: Path, seen: Proxy, label: str, answers: Path, **more: Any) -> Generator:
    weights = Weights(str(folder), str(folder), "float32", label=label, **more)
    return load(weights, 32, Endpoint(url=seen.url), answers)


def test_draws_follow_the_models_own_probabilities(
    folder: Path, seen: Proxy, tmp_path: Path
) -> None:
    base = generator(folder, seen, "base", tmp_path / "answers")
    (texts,) = base.generate([OPEN], Sampling(1.0, 0.9, max_new_tokens=1, n=600, seed=4))
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    assert p_value(texts, text_probabilities(model, tokenizer, OPEN, 1.0, 0.9)) > 1e-3
    assert p_value(texts, text_probabilities(model, tokenizer, OPEN, 0.5)) < 1e-3


@pytest.mark.parametrize("label", ["base", "junior"])
def test_a_greedy_text_is_the_local_backends_with_and_without_the_adapter(
    folder: Path, adapter: Path, seen: Proxy, tmp_path: Path, label: str
) -> None:
    adapters = (adapter,) if label == "junior" else ()
    local = load_local(Weights(str(folder), str(folder), "float32", adapters), 8)
    here = local.generate(PROMPTS, GREEDY)
    there = generator(folder, seen, label, tmp_path / "answers").generate(PROMPTS, GREEDY)
    for prompt, (one,), (other,) in zip(PROMPTS, there, here, strict=True):
        assert gap_where_they_part(local.model, local.tokenizer, prompt, one, other) < 1e-3
    assert sum(a == b for a, b in zip(there, here, strict=True)) >= len(PROMPTS) - 1


def test_an_end_token_that_the_model_does_not_name_ends_an_answer(
    folder: Path, seen: Proxy, tmp_path: Path
) -> None:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    whole = LocalGenerator(model, tokenizer).generate(PROMPTS, GREEDY)
    token = tokenizer.convert_ids_to_tokens(answer_tokens(tokenizer, whole[0][0]).ids[6])
    ended = generator(folder, seen, "base", tmp_path / "answers", end=token)
    tokenizer.eos_token = token
    here = LocalGenerator(model, tokenizer).generate(PROMPTS, GREEDY)
    assert ended.generate(PROMPTS, GREEDY) == here
    assert len(here[0][0]) < len(whole[0][0])
