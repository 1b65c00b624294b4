"""vLLM itself, in an environment of its own (`make vllm`). It draws once for all of these tests."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from privcode.generation import Weights
from privcode.generation.local import LocalGenerator
from privcode.generation.local import load as load_local
from privcode.models import attach_lora, load_adapter, load_model, load_tokenizer
from tests.helpers.distribution import gap_where_they_part, p_value, text_probabilities
from tests.helpers.vllm_draws import DRAWS, GREEDY, OPEN, PROMPTS
from tests.helpers.vllm_here import ENVIRONMENT, ROOT, vllm_python

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose own generation_config asks for what nobody may apply."""
    folder = tmp_path_factory.mktemp("model") / "junior"
    model, tokenizer = load_model("bundled:junior"), load_tokenizer("bundled:junior")
    model.generation_config.update(do_sample=True, top_k=2, temperature=7.0, repetition_penalty=5.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters, one on top of the other, of ranks that vLLM has no room of."""
    saved = []
    model: Any = load_model(str(folder))
    for seed, rank in enumerate((2, 5)):
        torch.manual_seed(seed)
        tuned = attach_lora(model, rank, 3 * rank, 0.0)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
        path = tmp_path_factory.mktemp("adapter") / str(seed)
        tuned.save_pretrained(path)
        saved.append(path)
        model = load_adapter(load_model(str(folder)), path).merge_and_unload()
    return saved[0], saved[1]


@pytest.fixture(scope="module")
def drawn(folder: Path, adapters: tuple[Path, Path], tmp_path_factory: Any) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("drawn") / "draws.json"
    names = json.dumps(list(map(str, adapters)))
    command = [vllm_python(), "-m", "tests.helpers.vllm_draws", folder, names, out]
    done = subprocess.run(
        command,
        env=os.environ | ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("name", list(DRAWS))
def test_draws_follow_the_models_own_probabilities(
    drawn: dict[str, Any], folder: Path, name: str
) -> None:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    asked = DRAWS[name]
    expected = text_probabilities(model, tokenizer, OPEN, asked.temperature, asked.top_p)
    assert p_value(drawn[name], expected) > 1e-3
    other = text_probabilities(model, tokenizer, OPEN, asked.temperature + 0.4, 1.0)
    assert p_value(drawn[name], other) < 1e-3


def same_but_for_near_ties(model: Any, tokenizer: Any, there: list[Any], here: list[Any]) -> None:
    for prompt, (one,), (other,) in zip(PROMPTS, there, here, strict=True):
        assert gap_where_they_part(model, tokenizer, prompt, one, other) < 1e-3
    assert sum(a == b for a, b in zip(there, here, strict=True)) >= len(PROMPTS) - 1


def test_a_greedy_text_is_the_local_backends(drawn: dict[str, Any], folder: Path) -> None:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    here = LocalGenerator(model, tokenizer).generate(PROMPTS, GREEDY)
    same_but_for_near_ties(model, tokenizer, drawn["greedy"], here)


def test_earlier_adapters_are_merged_and_the_last_is_applied(
    drawn: dict[str, Any], folder: Path, adapters: tuple[Path, Path]
) -> None:
    local = load_local(Weights(str(folder), str(folder), "float32", adapters), 64)
    assert isinstance(local.model, PeftModel)
    here = local.generate(PROMPTS, GREEDY)
    same_but_for_near_ties(local.model, local.tokenizer, drawn["adapters"], here)
    one = load_local(Weights(str(folder), str(folder), "float32", adapters[1:]), 64)
    assert one.generate(PROMPTS, GREEDY) != here
    assert drawn["greedy"] != drawn["adapters"]


def test_more_prompts_than_the_engine_reads_at_once_are_answered(drawn: dict[str, Any]) -> None:
    assert [len(answers) for answers in drawn["crowd"]] == [1] * 64


def test_any_chunk_can_be_drawn_again_by_itself(drawn: dict[str, Any]) -> None:
    assert drawn["second"] == drawn["second again"]
    assert drawn["first"] != drawn["second"]
    assert [len(set(texts)) for texts in drawn["first"]] == [3] * len(PROMPTS)


def test_greedy_gives_n_equal_texts(drawn: dict[str, Any]) -> None:
    (texts,) = drawn["three greedy"]
    assert len(texts) == 3
    assert len(set(texts)) == 1
    assert drawn["none"] == []


def test_the_context_is_the_models(drawn: dict[str, Any], folder: Path) -> None:
    assert drawn["context"] == 1024
    ((text,),) = drawn["long"]
    assert len(load_tokenizer(str(folder))(text)["input_ids"]) <= 5


def test_a_prompt_that_cannot_be_continued_is_named_by_number(drawn: dict[str, Any]) -> None:
    assert "prompt 2 of the chunk is empty" in drawn["empty"]
    assert "prompt 2 of the chunk has" in drawn["too long"]
    assert "context is 1024" in drawn["too long"]


def test_the_global_random_state_is_left_as_it_was(drawn: dict[str, Any]) -> None:
    assert drawn["random state kept"]
    assert drawn["machine kept"]


def test_a_model_that_cannot_be_loaded_is_one_line(drawn: dict[str, Any]) -> None:
    assert drawn["absent"].startswith("vllm: /nowhere cannot be loaded (")
