"""How prompts are put to models, and that every stage puts them in the same way."""

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import torch
import transformers as tf
import transformers.utils.chat_template_utils as chat_utils
from tokenizers.processors import TemplateProcessing

from privcode.data.records import Record, Unit
from privcode.errors import UserError
from privcode.generation import Sampling, Weights, local
from privcode.models import (
    answer_texts,
    answer_tokens,
    around,
    asking,
    end_tokens,
    facts,
    load_model,
    load_tokenizer,
    prompt_tokens,
    tokenizer_of,
)
from privcode.models.settings import Lora, Model
from privcode.models.templates import GAP
from privcode.training import examples, tuning
from tests.helpers import families
from tests.helpers.families import FAMILIES, save

PROMPT = "Write a function that adds."
CODE = "def add(first, second):\n    return first + second\n"
JINJA = (
    "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}### answer\n{% endif %}"
)
CHATS = [name for name, family in FAMILIES.items() if family.chat]
FILLERS = [name for name, family in FAMILIES.items() if family.fim]
CASES = [
    *((name, "Q: {prompt}\nA:\n") for name in FAMILIES),
    *((name, JINJA) for name in FAMILIES),
    *((name, "chat") for name in CHATS),
    *((name, "fim") for name in FILLERS),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("families")
    return {name: save(name, folder) for name in FAMILIES}


def expected(name: str, template: str, tokenizer: Any, prompt: str) -> list[int]:
    """The prompt's tokens as transformers itself, or the model's authors, make them."""
    family = FAMILIES[name]
    first = [tokenizer.bos_token_id] if family.puts_bos else []
    if template in ("chat", JINJA):
        turns = [{"role": "user", "content": prompt}]
        options: dict[str, Any] = {"add_generation_prompt": True, "enable_thinking": False}
        if template == JINJA:
            options["chat_template"] = JINJA
        found = tokenizer.apply_chat_template(
            turns, date_string="26 Jul 2024", return_dict=False, **options
        )
        return [*([] if found[:1] == first else first), *found]
    if template == "fim":
        prefix, suffix = prompt.split(GAP)
        before, behind, middle = family.fim
        return list(tokenizer(f"{before}{prefix}{behind}{suffix}{middle}")["input_ids"])
    return list(tokenizer(template.replace("{prompt}", prompt))["input_ids"])


@pytest.mark.parametrize(("name", "template"), CASES)
def test_training_and_generation_get_the_same_ids(
    saved: dict[str, str], name: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, section = FAMILIES[name], Model(model=saved[name], template=template)
    tokenizer = tokenizer_of(section)
    asked = asking(template, tokenizer)
    prompt = "def add(first, second):\n" + GAP + "\n\nadd(1, 2)\n" if template == "fim" else PROMPT
    before = expected(name, template, load_tokenizer(section.model), prompt)
    end = family.end if template == "chat" else family.eos
    end_id = tokenizer.convert_tokens_to_ids(end)
    answer = [*tokenizer(CODE, add_special_tokens=False)["input_ids"], end_id]

    record = Record(prompt, CODE, "python", Unit("row", "1"), 1)
    sanitized, _ = examples.encode(
        record, asked(prompt), tokenizer, 512, code_around=around(template, prompt)
    )
    assert (list(sanitized.ids), sanitized.start) == (before + answer, len(before))
    (boosted,) = tuning.encode(tokenizer, [(asked(prompt), CODE)], 512)
    assert boosted == {"input_ids": before + answer, "labels": [-100] * len(before) + answer}

    weights = Weights(section.model, section.model, "float32", end=tokenizer.eos_token)
    generator, sent = local.load(weights, 4), []
    real = generator.model.generate

    def generate(input_ids: Any, **options: Any) -> Any:
        sent.append((input_ids[0].tolist(), options["generation_config"].eos_token_id))
        return real(input_ids=input_ids, **options)

    monkeypatch.setattr(generator.model, "generate", generate)
    generator.generate([asked(prompt)], Sampling(max_new_tokens=2))
    ((ids, ends),) = sent
    assert ids == before
    assert {end_id, load_tokenizer(section.model).eos_token_id} <= set(ends)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_come_back_as_they_were_learned(saved: dict[str, str], name: str) -> None:
    tokenizer = load_tokenizer(saved[name])
    quoted = f"ends = '{FAMILIES[name].eos}', '<s>'  # {FAMILIES[name].end}\n"
    for text in (CODE, "    return é\n", "\tif a:\n\n\n  b  ", " x", "x\n", "\r\n", quoted):
        ids = list(answer_tokens(tokenizer, text).ids)
        assert not set(ids) & set(tokenizer.all_special_ids)
        assert answer_texts(tokenizer, [ids]) == [text]


@pytest.mark.parametrize("kind", [tf.LlamaTokenizer, tf.CodeLlamaTokenizer])
def test_a_decoder_that_drops_the_first_space_keeps_the_indentation(kind: Any) -> None:
    made = json.loads(families.tokenizer("mixtral").backend_tokenizer.to_str())["model"]
    words = made["vocab"] | {"<s>": len(made["vocab"]), "</s>": len(made["vocab"]) + 1}
    tokenizer = kind(vocab=words, merges=[tuple(pair) for pair in made["merges"]])
    texts = [CODE, "    return first\n", "  x", "\tx", "\n  x", ""]
    rows = [list(answer_tokens(tokenizer, text).ids) for text in texts]
    assert answer_texts(tokenizer, rows) == texts
    # Where a model begins an answer in the middle of a line, no space was put there.
    assert answer_texts(tokenizer, [tokenizer.convert_tokens_to_ids(["def"])]) == ["def"]


@pytest.mark.parametrize("name", CHATS)
def test_an_answer_ends_with_the_end_of_turn_and_holds_no_mark(
    saved: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = Model(model=saved[name], template="chat")
    tokenizer = tokenizer_of(section)
    assert tokenizer.eos_token == FAMILIES[name].end
    generator = local.load(
        Weights(section.model, section.model, "float32", end=tokenizer.eos_token), 4
    )
    said = [*answer_tokens(tokenizer, CODE).ids, tokenizer.eos_token_id]

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        more = torch.tensor([[*said, *answer_tokens(tokenizer, "more").ids]])
        return torch.cat([input_ids, more], 1)

    monkeypatch.setattr(generator.model, "generate", generate)
    assert generator.generate([asking("chat", tokenizer)(PROMPT)], Sampling()) == [[CODE]]
    model = load_model(section.model)
    model.generation_config.eos_token_id = None
    own = load_tokenizer(section.model).eos_token_id
    assert end_tokens(tokenizer, model.generation_config) == sorted({tokenizer.eos_token_id, own})


def test_a_prompt_is_the_same_on_any_day(
    saved: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(saved["llama"])
    clock = "{% if date_string is defined %}{{ date_string }}{% endif %}"
    clock += "{{ strftime_now('%d %B %Y, %H:%M') }}{{ messages[0]['content'] }}"

    def text() -> list[str]:
        return [asking(template, tokenizer)(PROMPT) for template in ("chat", clock)]

    today = text()

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=400)

    monkeypatch.setattr(chat_utils, "datetime", Later)
    assert text() == today


def test_a_system_turn_comes_first(saved: dict[str, str]) -> None:
    tokenizer = load_tokenizer(saved["qwen2"])
    text = asking("chat", tokenizer, "Be brief.")(PROMPT)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n" + PROMPT)


def test_a_prompt_without_a_gap_is_all_prefix(saved: dict[str, str]) -> None:
    asked = asking("fim", load_tokenizer(saved["starcoder2"]))
    assert asked("x =") == "<fim_prefix>x =<fim_suffix><fim_middle>"
    assert asked(f"a{GAP}b{GAP}") == f"<fim_prefix>a<fim_suffix>b{GAP}<fim_middle>"
    own = asking("<PRE> {prefix} <SUF>{suffix} <MID>", load_tokenizer(saved["gpt2"]))
    assert own("{suffix}" + GAP + "{prefix}") == "<PRE> {suffix} <SUF>{prefix} <MID>"


def test_structure_in_a_gap_is_that_of_the_whole_code() -> None:
    record = Record("", "    if x:\n        return 1\n", "python", Unit("row", "1"), 1)
    tokenizer = load_tokenizer("bundled:junior")
    where = ("def f(x):\n", "    else:\n        return 2\n")
    example, _ = examples.encode(record, "", tokenizer, 99, code_around=where)
    marked = [
        tokenizer.decode([token]).strip()
        for token, structure in zip(example.ids, example.structure, strict=True)
        if structure
    ]
    assert {"if", "return"} <= set(marked)
    # Alone, the middle of `x = [a for a in b]` is no loop.
    broken = Record("", "a for a in b]", "python", Unit("row", "1"), 1)
    inside, _ = examples.encode(broken, "", tokenizer, 99, code_around=("x = [", "\n"))
    alone, _ = examples.encode(broken, "", tokenizer, 99)
    assert sum(inside.structure) != sum(alone.structure)


def refusal(name: str, **settings: Any) -> str:
    section = Model(model=name, max_tokens=64, lora=Lora(r=2), **settings)
    with pytest.raises(UserError) as caught:
        facts.check(section, "junior")
    return str(caught.value)


def test_a_template_that_the_model_cannot_have_is_refused_before_any_budget(
    saved: dict[str, str],
) -> None:
    assert re.match(
        r"junior\.template: is chat, .* no chat template", refusal(saved["gpt2"], template="chat")
    )
    assert re.match(
        r"junior\.template: is fim, .* choose a code model", refusal(saved["llama"], template="fim")
    )
    with_system = refusal(saved["gemma2"], template="chat", system="Be brief.")
    assert "system turn; leave out system" in with_system
    assert re.match(
        r"junior\.template: the chat template fails",
        refusal(saved["llama"], template="{{ messages[7].x.y }}"),
    )
    assert "empty text" in refusal(saved["gpt2"], template="{suffix}")
    for template, fault in (("Question:", "holds no {prompt}"), ("{prompt}", "only a chat")):
        with pytest.raises(ValueError, match=fault):
            Model(model="x", template=template, system="s" if "{prompt}" in template else None)


TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
ASSISTANT = "<|im_start|>assistant\n"
DROPS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
PARTS = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}"
    "{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
)


@pytest.mark.parametrize("template", [PARTS, "Q: {{prompt}}\nA:", "{{ messages[0].content[0] }}"])
def test_a_template_that_leaves_out_the_prompt_is_refused(
    saved: dict[str, str], template: str
) -> None:
    assert "leaves out the text of the user turn" in refusal(saved["llama"], template=template)


def test_a_template_that_leaves_out_the_system_turn_is_refused(saved: dict[str, str]) -> None:
    said = refusal(saved["qwen2"], template=DROPS, system="Be brief.")
    assert "leaves out the text of the system turn; leave out system" in said


@pytest.mark.parametrize(
    ("chat", "before"),
    [
        # It has no generation prompt.
        (TURNS + "{% endfor %}", ASSISTANT),
        # Its generation prompt ends before the answer does begin (gpt-oss names a channel).
        (
            TURNS.replace("m.role + '\n'", "m.role + ('<x>' if m.role == 'assistant' else '\n')")
            + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
            "<|im_start|>assistant<x>",
        ),
        # Its generation prompt opens a thought that a whole turn does not show (DeepSeek-R1).
        (
            TURNS + "{% endfor %}{% if add_generation_prompt %}" + ASSISTANT + "<think>{% endif %}",
            ASSISTANT + "<think>",
        ),
        # It puts only a space before an answer (Mistral), which the answer's first token has.
        (
            "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
            "{% else %} {{ m.content }}{% endif %}{% endfor %}",
            " [/INST]",
        ),
        # It has no place for an answer.
        ("{{ messages[-1].content if messages[-1].role == 'user' }}:", ":"),
    ],
)
def test_a_prompt_ends_where_the_template_begins_an_answer(
    saved: dict[str, str], chat: str, before: str
) -> None:
    assert asking(chat, load_tokenizer(saved["qwen2"]))(PROMPT).endswith(before)


def test_a_template_without_a_place_for_an_answer_keeps_the_tokenizers_own_end(
    saved: dict[str, str],
) -> None:
    section = Model(model=saved["llama"], template="{{ bos_token }}{{ messages[0].content }}")
    assert tokenizer_of(section).eos_token == FAMILIES["llama"].eos


@pytest.mark.parametrize("start", ["\n  Hello\n", "  {% if true %}Hello\n{% endif %}", "Hello "])
def test_a_templates_beginning_is_as_transformers_writes_it(
    saved: dict[str, str], start: str
) -> None:
    chat = start + "{{ messages[0].content }}"
    tokenizer = load_tokenizer(saved["qwen2"])
    turns = [{"role": "user", "content": PROMPT}]
    whole = tokenizer.apply_chat_template(turns, chat_template=chat, tokenize=False)
    assert asking(chat, tokenizer)(PROMPT) == whole


def test_several_tokens_before_a_text_come_once(saved: dict[str, str]) -> None:
    tokenizer = load_tokenizer(saved["qwen3"])  # GLM-4 has two, and no token called BOS
    first = ["<|im_start|>", "<think>"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> <think> $A",
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in first],
    )
    for text in ("x", "<|im_start|><think>x"):
        ids = prompt_tokens(tokenizer, text)
        assert tokenizer.convert_ids_to_tokens(ids) == [*first, "x"]


def test_a_tokenizer_with_templates_of_which_none_is_the_default_names_them(
    saved: dict[str, str],
) -> None:
    tokenizer = load_tokenizer(saved["qwen2"])
    tokenizer.chat_template = {"tool_use": "{{ 1 }}", "rag": "{{ 2 }}"}
    with pytest.raises(UserError, match=r"templates \(rag, tool_use\) is called default"):
        asking("chat", tokenizer)


@pytest.mark.parametrize(
    "template", ["{{ 1 // 0 }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"]
)
def test_a_template_that_fails_in_any_way_is_refused_in_one_line(
    saved: dict[str, str], template: str
) -> None:
    assert "the chat template fails" in refusal(saved["qwen2"], template=template)


def test_an_error_of_a_chat_template_does_not_quote_the_prompt(saved: dict[str, str]) -> None:
    template = "{{ raise_exception(messages[0]['content']) }}"
    with pytest.raises(UserError) as caught:
        asking(template, load_tokenizer(saved["llama"]))("SECRET")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
