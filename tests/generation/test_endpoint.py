import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from privcode.errors import UserError
from privcode.generation import Sampling, Weights
from privcode.generation.endpoint import EndpointGenerator, load, load_describer
from privcode.generation.local import LocalGenerator
from privcode.generation.settings import Endpoint
from privcode.models import load_model, load_tokenizer
from tests.helpers import families
from tests.helpers.distribution import gap_where_they_part, p_value, text_probabilities
from tests.helpers.servers import Proxy, Server, plain_folder, proxy, transformers_server

torch.set_num_threads(1)
PROMPTS = [f"Question: Write a function that adds {n} to x.\n\nAnswer:\n" for n in range(6)]
OPEN = PROMPTS[0] + "@"
"""Many tokens may follow it."""
WARM = Sampling(temperature=1.0, max_new_tokens=4, n=2, seed=5)
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_folder(tmp_path_factory.mktemp("model") / "junior")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with transformers_server(folder, tmp_path_factory.mktemp("log") / "server") as running:
        yield running


@pytest.fixture
def between(server: Server) -> Iterator[Proxy]:
    with proxy(server.port) as running:
        yield running


def generator(
    folder: Path, url: str, answers: Path, batch_size: int = 4, **options: Any
) -> EndpointGenerator:
    weights = Weights(str(folder), str(folder), "float32", label="junior")
    given = {"url": url, "model": str(folder), "patience": 120.0} | options
    return load(weights, batch_size, Endpoint(**given), answers)


@pytest.mark.slow
def test_draws_follow_the_models_own_probabilities(
    folder: Path, between: Proxy, tmp_path: Path
) -> None:
    # One at a time: this server seeds the whole process for each request.
    one = generator(folder, between.url, tmp_path / "answers", 1)
    (texts,) = one.generate([OPEN], Sampling(1.0, max_new_tokens=1, n=300, seed=1))
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    assert p_value(texts, text_probabilities(model, tokenizer, OPEN)) > 1e-3
    assert p_value(texts, text_probabilities(model, tokenizer, OPEN, 0.5)) < 1e-3


def test_a_greedy_text_is_the_local_backends(folder: Path, between: Proxy, tmp_path: Path) -> None:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    there = generator(folder, between.url, tmp_path / "answers").generate(PROMPTS, GREEDY)
    here = LocalGenerator(model, tokenizer).generate(PROMPTS, GREEDY)
    for prompt, (one,), (other,) in zip(PROMPTS, there, here, strict=True):
        assert gap_where_they_part(model, tokenizer, prompt, one, other) < 1e-3
    assert sum(a == b for a, b in zip(there, here, strict=True)) >= len(PROMPTS) - 1


def test_what_was_answered_is_not_asked_for_again(
    folder: Path, between: Proxy, tmp_path: Path
) -> None:
    answers = tmp_path / "private" / "answers"
    first = generator(folder, between.url, answers, 2, patience=0.01)
    first.generate(PROMPTS[:2], WARM, chunk=3)
    between.fail = 500
    with pytest.raises(UserError, match=r"answers HTTP 500, for 0\.01 seconds; start the server"):
        first.generate(PROMPTS, WARM, chunk=3)
    with answers.open("ab") as file:
        file.write(b'{"key": "torn}')  # as a killed process leaves it
    between.fail = 0
    texts = generator(folder, between.url, answers, 3).generate(PROMPTS, WARM, chunk=3)
    assert [len(row) for row in texts] == [2] * 6
    assert len(between.answered()) == len(set(between.answered())) == 12
    again = generator(folder, between.url, answers).generate(PROMPTS, WARM, chunk=3)
    assert again == texts
    assert len(between.answered()) == 12
    generator(folder, between.url, answers).generate(PROMPTS[:1], WARM, chunk=4)
    assert len(between.answered()) == 14
    assert answers.stat().st_mode & 0o777 == 0o600


KILLED = """
import sys
from pathlib import Path
from tests.generation.test_endpoint import PROMPTS, WARM, generator

folder, url, answers = sys.argv[1:]
generator(Path(folder), url, Path(answers), 2).generate(PROMPTS, WARM)
"""


def test_a_killed_run_asks_only_for_what_was_not_answered(
    folder: Path, between: Proxy, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    command = [sys.executable, "-c", KILLED, str(folder), between.url, str(answers)]
    with subprocess.Popen(command) as process:
        while len(between.noted) < 5:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    texts = generator(folder, between.url, answers, 2).generate(PROMPTS, WARM)
    assert sum(map(len, texts)) == len(set(between.answered())) == 12
    # At most two were on their way when the process was killed.
    assert len(between.answered()) <= 14


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_loses_nothing(
    folder: Path, tmp_path: Path
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=24, n=4, seed=2)
    with (
        transformers_server(folder, tmp_path / "log") as server,
        proxy(server.port) as between,
        ThreadPoolExecutor(1) as pool,
    ):
        asking = generator(folder, between.url, tmp_path / "answers", 3, patience=600)
        texts = pool.submit(asking.generate, PROMPTS, sampling)
        while len(between.answered()) < 5:
            assert not texts.done()
            time.sleep(0.01)
        server.kill()
        before = len(between.answered())
        assert before < 24
        time.sleep(1)
        server.start()
        assert [len(row) for row in texts.result()] == [4] * 6
        assert len(between.answered()) == len(set(between.answered())) == 24
        assert any(status == 0 for _, status in between.noted)


def test_a_busy_server_is_asked_for_fewer(folder: Path, between: Proxy, tmp_path: Path) -> None:
    between.at_once = 2
    asking = generator(folder, between.url, tmp_path / "answers", 12)
    assert sum(map(len, asking.generate(PROMPTS, WARM))) == 12
    fewer = asking.at_once
    assert fewer <= 6
    refused = sum(status == 503 for _, status in between.noted)
    assert 0 < refused < 24
    between.at_once = 12
    asking.generate(PROMPTS, WARM, 1)
    assert asking.at_once == min(12, 2 * fewer)


def test_no_more_than_the_batch_size_is_asked_for_at_once(
    folder: Path, between: Proxy, tmp_path: Path
) -> None:
    generator(folder, between.url, tmp_path / "answers", 3).generate(PROMPTS, WARM)
    assert 1 < between.most <= 3


def test_the_key_goes_to_the_server_and_nowhere_else(
    folder: Path, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sk-very-secret")
    asking = generator(folder, between.url, tmp_path / "answers", key="SERVER_KEY")
    asking.generate(PROMPTS[:1], WARM)
    assert between.keys == {"Bearer sk-very-secret"}
    between.fail = 401
    with pytest.raises(
        UserError, match=r"refuses the key \(HTTP 401\); check the variable"
    ) as found:
        asking.generate(PROMPTS[:1], WARM, 1)
    chain, error = [], found.value
    while error is not None:
        chain.append(f"{error!r} {error.args}")
        error = error.__cause__  # type: ignore[assignment]
    assert "secret" not in "".join(chain)
    assert "secret" not in (tmp_path / "answers").read_text()
    assert "secret" not in repr(asking.url)
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(UserError, match=r"endpoint\.key: the variable SERVER_KEY is not set"):
        generator(folder, between.url, tmp_path / "answers", key="SERVER_KEY")


def test_an_unknown_model_is_one_line(folder: Path, between: Proxy, tmp_path: Path) -> None:
    between.fail = 404
    with pytest.raises(UserError, match=r"has no model .*, or no /completions \(HTTP 404\)"):
        generator(folder, between.url, tmp_path / "answers").generate(PROMPTS, WARM)
    between.fail = 400
    with pytest.raises(UserError, match=r"refuses a request to /completions \(HTTP 400\)"):
        generator(folder, between.url, tmp_path / "answers").generate(PROMPTS, WARM)


def test_no_server_is_one_line_that_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    asking = generator(folder, "http://127.0.0.1:9/v1", tmp_path / "answers", patience=0.01)
    with pytest.raises(UserError, match=r"endpoint http://127\.0\.0\.1:9/v1: does not answer"):
        asking.generate(PROMPTS, WARM)


def test_a_server_with_another_tokenizer_is_refused(
    folder: Path, between: Proxy, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["Write a function"])
    tokenizer.save_pretrained(tmp_path / "other")
    weights = Weights(str(folder), str(tmp_path / "other"), "float32", label="junior")
    served = Endpoint(url=between.url, model=str(folder))
    with pytest.raises(UserError, match=r"makes \d+ tokens of a prompt that has \d+ in training"):
        load(weights, 2, served, tmp_path / "answers").generate(PROMPTS, WARM)
    assert not (tmp_path / "answers").read_text().strip()


@pytest.mark.parametrize(("prompt", "fault"), [("x " * 3000, "context is 1024"), ("", "empty")])
def test_a_prompt_that_cannot_be_continued_is_named_by_number(
    folder: Path, tmp_path: Path, prompt: str, fault: str
) -> None:
    asking = generator(folder, "http://127.0.0.1:9/v1", tmp_path / "answers")
    with pytest.raises(UserError, match=f"prompt 2 of the chunk .*{fault}"):
        asking.generate(["Question", prompt], GREEDY)
    assert asking.fits("Question")
    assert not asking.fits("x " * 3000)


@pytest.mark.slow
def test_a_describer_is_asked_in_the_servers_own_chat(tmp_path: Path) -> None:
    folder = families.save("qwen2", tmp_path)
    with transformers_server(Path(folder), tmp_path / "log") as server, proxy(server.port) as seen:
        options = Endpoint(url=seen.url, model=folder)
        describer = load_describer(options, True, "Be brief.", 2, tmp_path / "answers")
        texts = describer.generate(["What is this?", "And this?"], WARM)
        assert [len(row) for row in texts] == [2, 2]
        assert seen.noted[0][0]["messages"][0] == {"role": "system", "content": "Be brief."}
        assert {body["messages"][1]["content"] for body, _ in seen.noted} == {
            "What is this?",
            "And this?",
        }
        plain = load_describer(options, False, None, 2, tmp_path / "answers")
        assert [len(row) for row in plain.generate(["What is"], WARM)] == [2]
        assert seen.noted[-1][0]["prompt"] == "What is"


TOO_LONG = (
    '{"error": {"message": "maximum context length is 512 tokens", "code": 400}}',
    '{"error": {"message": "too many", "code": "context_length_exceeded"}}',
)


@pytest.mark.parametrize("said", TOO_LONG)
def test_a_question_that_is_too_long_for_a_describer_has_no_description(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(9) as there:
        monkeypatch.setattr(there, "ask", lambda *_: (400, said.encode()))
        options = Endpoint(url=there.url, model="any")
        describer = load_describer(options, True, None, 2, tmp_path / "answers")
        assert describer.generate(["x" * 9999], WARM) == [["", ""]]


WRONG = [
    ({"url": "http://me:secret@host/v1"}, "may hold no user, password"),
    ({"url": "http://host/v1?key=secret"}, "may hold no user, password"),
    ({"url": "ftp://host"}, "is not the address of a server"),
    ({"url": "http://[secret"}, "is not the address of a server"),
    ({"url": "http://host/v1", "key": "sk-secret-123"}, "the key itself is never written"),
]


@pytest.mark.parametrize(("given", "fault"), WRONG)
def test_a_key_in_a_config_is_refused_and_not_repeated(given: dict[str, str], fault: str) -> None:
    from privcode.config import parse_config

    values = {
        "data": {"source": "a.jsonl", "language": "python"},
        "privacy": {"epsilon": 1, "delta": 1e-5, "units": 100, "batch": 10, "steps": 1},
        "prompts": {"source": "public", "file": "b.jsonl"},
        "junior": {"model": "bundled:junior"},
        "premium": {"model": "bundled:premium"},
        "synthesize": {"backend": "endpoint", "endpoint": given},
    }
    with pytest.raises(UserError, match=re.escape(fault)) as found:
        parse_config(values)
    assert "secret" not in str(found.value)
