import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from privcode.errors import UserError
from privcode.exercises.corpus import public_documents
from privcode.generation import Generator, Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import attach_lora, load_adapter, load_model, load_tokenizer, render
from tests.helpers.bundled import ASSETS
from tools.bundled_models.tokenizer import solve

torch.set_num_threads(1)
PROMPTS = [solve(pair)[0] for pair in islice(public_documents(7), 5)]
WARM = Sampling(temperature=1.2, max_new_tokens=24, n=2, seed=5)
GREEDY = Sampling(temperature=0, max_new_tokens=60)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("bundled:junior")


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("bundled:junior")


@pytest.fixture(scope="module")
def generator(model: Any, tokenizer: Any) -> Generator:
    return LocalGenerator(model, tokenizer, batch_size=4)


def by_hand(model: Any, tokenizer: Any, prompt: str, limit: int) -> str:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    width = ids.shape[1]
    for _ in range(limit):
        with torch.no_grad():
            best = model(input_ids=ids).logits[0, -1].argmax()
        if best == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, best.view(1, 1)], dim=1)
    return str(tokenizer.decode(ids[0, width:]))


@pytest.mark.gpu
def test_greedy_equals_a_loop_written_by_hand(
    generator: Generator, model: Any, tokenizer: Any
) -> None:
    texts = generator.generate(PROMPTS, GREEDY)
    assert texts == [[by_hand(model, tokenizer, prompt, 60)] for prompt in PROMPTS]
    assert all(text.startswith(("def ", "from ", "import ", "@")) for (text,) in texts)


def test_greedy_does_not_depend_on_the_batch_size(
    generator: Generator, model: Any, tokenizer: Any
) -> None:
    one_by_one = LocalGenerator(model, tokenizer, batch_size=1)
    assert one_by_one.generate(PROMPTS, GREEDY) == generator.generate(PROMPTS, GREEDY)


def test_greedy_gives_n_equal_texts(generator: Generator) -> None:
    ((first, *rest),) = generator.generate(PROMPTS[:1], Sampling(0, max_new_tokens=8, n=3))
    assert rest == [first, first]


def test_each_prompt_gets_n_texts_that_differ(generator: Generator) -> None:
    sampling = Sampling(temperature=3.0, max_new_tokens=24, n=3)
    texts = generator.generate(PROMPTS, sampling)
    assert [len(answers) for answers in texts] == [3] * len(PROMPTS)
    assert len({text for answers in texts for text in answers}) > 2 * len(PROMPTS)


@pytest.mark.gpu
def test_any_chunk_can_be_drawn_again_by_itself(generator: Generator) -> None:
    first, second = (generator.generate(PROMPTS, WARM, chunk) for chunk in (0, 1))
    torch.rand(100)
    assert generator.generate(PROMPTS, WARM, 1) == second
    assert first != second


@pytest.mark.gpu
def test_another_seed_and_another_batch_draw_other_texts(generator: Generator) -> None:
    one, other = (Sampling(temperature=3.0, max_new_tokens=24, n=2, seed=s) for s in (5, 6))
    assert generator.generate(PROMPTS, one) != generator.generate(PROMPTS, other)
    (texts,) = generator.generate(PROMPTS[:1], Sampling(3.0, max_new_tokens=24, n=8))
    assert texts[:4] != texts[4:]


@pytest.mark.gpu
def test_the_global_random_state_is_left_as_it_was(generator: Generator) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    generator.generate(PROMPTS, WARM)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.gpu
def test_training_mode_is_off_while_sampling_and_restored(tokenizer: Any) -> None:
    torch.manual_seed(0)
    tuned = attach_lora(load_model("bundled:junior"), r=4, alpha=8, dropout=0.9)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    generator = LocalGenerator(tuned, tokenizer)
    tuned.eval()
    quiet = generator.generate(PROMPTS[:2], GREEDY)
    tuned.train()
    assert generator.generate(PROMPTS[:2], GREEDY) == quiet
    assert tuned.training


ANY_VALUE = [True, 0.5, 3, [296], [[296]], [[[296], -100.0]], [1, 5.0], "static", ["return"]]


@pytest.mark.parametrize("value", ANY_VALUE)
@pytest.mark.parametrize("adapted", [False, True])
def test_no_field_of_the_models_generation_config_changes_a_text(
    generator: Generator, tokenizer: Any, adapted: bool, value: Any
) -> None:
    opinionated = load_model("bundled:junior")
    whole = attach_lora(opinionated, 2, 4, 0.0) if adapted else opinionated
    fields = sorted(vars(GenerationConfig()).keys() - {"eos_token_id"})
    assert len(fields) > 50
    for field in fields:
        setattr(opinionated.generation_config, field, value)
    for sampling in (WARM, GREEDY):
        found = LocalGenerator(whole, tokenizer, batch_size=4).generate(PROMPTS, sampling)
        assert found == generator.generate(PROMPTS, sampling)
    assert all(getattr(opinionated.generation_config, field) == value for field in fields)


@pytest.mark.parametrize("sampling", [WARM, GREEDY])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 1),
        ("repetition_penalty", 5.0),
        ("suppress_tokens", [296]),
        ("bad_words_ids", [[296]]),
        ("exponential_decay_length_penalty", [1, 5.0]),
        ("guidance_scale", 1.5),
        ("max_time", 0.0001),
        ("num_return_sequences", 2),
        ("return_dict_in_generate", True),
        ("stop_strings", ["return"]),
        ("prompt_lookup_num_tokens", 3),
    ],
)
def test_a_preference_of_the_model_is_not_applied(
    generator: Generator, tokenizer: Any, field: str, value: Any, sampling: Sampling
) -> None:
    opinionated = load_model("bundled:junior")
    setattr(opinionated.generation_config, field, value)
    texts = LocalGenerator(opinionated, tokenizer, batch_size=4).generate(PROMPTS, sampling)
    assert texts == generator.generate(PROMPTS, sampling)


def test_an_end_of_sequence_of_the_generation_config_stops_a_text(tokenizer: Any) -> None:
    model = load_model("bundled:junior")
    colon = tokenizer(":")["input_ids"][-1]
    model.generation_config.eos_token_id = [1, colon]
    ((text,),) = LocalGenerator(model, tokenizer).generate(PROMPTS[:1], GREEDY)
    whole = LocalGenerator(load_model("bundled:junior"), tokenizer)
    ((more,),) = whole.generate(PROMPTS[:1], GREEDY)
    ids = tokenizer(more)["input_ids"]
    assert text == tokenizer.decode(ids[: ids.index(colon)])  # the end itself is no part of a text


@pytest.mark.parametrize(("prompt", "fault"), [("x " * 3000, "context is 1024"), ("", "empty")])
def test_a_prompt_that_cannot_be_continued_is_named_by_number(
    generator: Generator, prompt: str, fault: str
) -> None:
    with pytest.raises(UserError, match=f"prompt 2 of the chunk .*{fault}"):
        generator.generate(["Question", prompt], GREEDY)


def test_a_long_prompt_is_continued_to_the_end_of_the_context(
    generator: Generator, tokenizer: Any
) -> None:
    prompt = PROMPTS[0] * 30
    ids = tokenizer(prompt)["input_ids"][:1020]
    ((text,),) = generator.generate([tokenizer.decode(ids)], GREEDY)
    assert len(tokenizer(text)["input_ids"]) <= 4


def test_no_prompts_give_no_texts(generator: Generator) -> None:
    assert generator.generate([], WARM) == []


def test_an_adapter_is_fp32_and_comes_back_from_disk(tmp_path: Path, tokenizer: Any) -> None:
    tuned = attach_lora(load_model("bundled:junior", "bfloat16"), r=2, alpha=4, dropout=0.0)
    trained = {n: w for n, w in tuned.named_parameters() if w.requires_grad}
    assert len(trained) == 4 * 7 * 2
    assert all("lora" in name and w.dtype == torch.float32 for name, w in trained.items())
    for weight in trained.values():
        torch.nn.init.normal_(weight, std=0.1)
    tuned.save_pretrained(tmp_path)
    again = load_adapter(load_model("bundled:junior", "bfloat16"), tmp_path)
    assert not again.training
    saved = dict(again.named_parameters())
    assert all(torch.equal(saved[name], weight) for name, weight in trained.items())
    assert not any(weight.requires_grad for weight in saved.values())


@pytest.mark.parametrize("targets", [["query"], ["q_proj", "k_prj"], []])
def test_lora_targets_the_model_lacks_name_the_field(model: Any, targets: list[str]) -> None:
    with pytest.raises(UserError, match=r"lora\.targets"):
        attach_lora(model, 2, 4, 0.0, targets)


def test_what_cannot_be_loaded_is_one_line_that_names_it(tmp_path: Path, model: Any) -> None:
    broken = tmp_path / "broken"
    AutoModelForCausalLM.from_pretrained(ASSETS / "junior").save_pretrained(broken)
    (broken / "model.safetensors").write_bytes(b"half a file")
    for attempt, name in (
        (load_tokenizer, str(tmp_path / "absent")),
        (load_model, str(tmp_path / "absent")),
        (load_model, "bundled:senior"),
        (load_model, str(broken)),
    ):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            attempt(name)
        assert name in str(caught.value)
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        load_adapter(model, tmp_path)


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("bundled:junior")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "<eos>"


def test_rendering_reads_the_templates_braces_only() -> None:
    code = "{prompt} {0} {x!r} {{}} \\1"
    assert render("{{a}} {code}|{prompt}|{other}", code=code, prompt="{code}") == (
        f"{{{{a}}}} {code}|{{code}}|{{other}}"
    )
    assert render("{language}: {prompt}", prompt="p") == "{language}: p"
    with pytest.raises(TypeError, match="author"):
        render("{author}", author="x")


TOO_LITTLE_MEMORY = """
import resource, sys
import torch
from privcode.generation import Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import load_model, load_tokenizer

torch.set_num_threads(1)
tokenizer = load_tokenizer("bundled:junior")
generator = LocalGenerator(load_model("bundled:junior").cpu(), tokenizer, 512)
prompts = [f"Question: Write a function that adds {n}." + " And so on." * 60 for n in range(512)]
sampling = Sampling(temperature=1.0, max_new_tokens=2, seed=3)
generator.generate(prompts[:1], sampling)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
again = [generator.generate(prompts, sampling) for _ in range(2)]
assert again[0] == again[1]
assert all(len(texts) == 1 for texts in again[0])
print(generator._too_many)
"""


@pytest.mark.slow
def test_a_batch_for_which_memory_is_too_small_is_drawn_in_halves() -> None:
    command = [sys.executable, "-c", TOO_LITTLE_MEMORY, "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tried = json.loads(done.stdout)
    assert tried[0] == 512
    assert tried == sorted(tried, reverse=True)


def test_halves_are_the_same_whether_or_not_it_is_known_that_the_whole_does_not_fit(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = LocalGenerator._continue

    def small(self: LocalGenerator, batch: list[list[int]], sampling: Sampling) -> list[str]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("too large")
        return draw(self, batch, sampling)

    monkeypatch.setattr(LocalGenerator, "_continue", small)
    generator = LocalGenerator(model, tokenizer, batch_size=8)
    first = generator.generate(PROMPTS, WARM)
    assert generator._too_many == [8, 4]
    assert generator.generate(PROMPTS, WARM) == first
    assert generator._too_many == [8, 4]
    assert len({text for texts in first for text in texts}) > len(PROMPTS)


def test_one_text_that_is_too_large_is_one_line(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(LocalGenerator, "_continue", full)
    with pytest.raises(UserError, match="memory is too small for one text of"):
        LocalGenerator(model, tokenizer).generate(PROMPTS, WARM)


def test_an_error_that_is_not_about_memory_is_not_taken_for_one(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(LocalGenerator, "_continue", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        LocalGenerator(model, tokenizer).generate(PROMPTS, WARM)
