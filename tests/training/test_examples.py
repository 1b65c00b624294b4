"""Examples are made when a step draws them: the same ones, and only those."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.data.records import Record, Unit, stored, units_of
from privcode.errors import UserError
from privcode.exercises.corpus import private_records
from privcode.models import load_tokenizer
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import (
    Encoded,
    Example,
    Examples,
    ahead,
    encode,
    lengths,
    refuse_unknown_tokens,
)
from privcode.training.learner import Learner
from privcode.training.settings import Sanitize

TOKENIZER = load_tokenizer("bundled:junior")
RECORDS = [
    Record(r["prompt"], r["code"], "python", Unit("owner", f"o{i % 17}"), i)
    for i, r in enumerate(private_records(40, seed=3))
]
MADE: list[int] = []


def tiny() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=["q_proj"]))


def make(record: Record, structure: bool, most: int = 96) -> tuple[Example, bool]:
    if structure:
        MADE.append(record.row)
    return encode(record, f"Q: {record.prompt}\n", TOKENIZER, most, syntax=structure)


def encoded(records: Sequence[Record] = RECORDS, most: int = 96, how: str = "") -> Encoded:
    return Encoded(records, partial(make, most=most), most, how)


def test_an_example_is_the_same_whenever_it_is_made() -> None:
    ready = [make(record, True)[0] for record in RECORDS]
    later, on_disk = encoded(), encoded(stored(RECORDS))
    assert list(later) == list(on_disk) == list(Examples(ready)) == ready
    assert later[-1] == ready[-1]
    assert later[3:5] == ready[3:5]
    assert lengths(on_disk, [[4, 2], [9]]) == {i: len(ready[i].ids) for i in (4, 2, 9)}
    assert later.longest == 96 >= Examples(ready).longest
    with pytest.raises(IndexError):
        later[len(RECORDS)]


def test_a_worker_makes_each_group_in_its_order() -> None:
    ready = [make(record, True)[0] for record in RECORDS]
    groups = [[5, 1], [], [7], [0, 39, 2]]
    with ThreadPoolExecutor(1) as worker:
        found = list(ahead(encoded(), groups, worker))
    assert found == [[ready[i] for i in group] for group in groups]


def test_what_goes_wrong_in_the_worker_is_raised_where_the_example_is_used() -> None:
    def fail(record: Record, structure: bool) -> Any:
        raise ZeroDivisionError

    with ThreadPoolExecutor(1) as worker, pytest.raises(ZeroDivisionError):
        list(ahead(Encoded(RECORDS, fail, 96, ""), [[1]], worker))


def test_ranks_with_other_records_or_another_way_to_encode_have_other_facts() -> None:
    facts = encoded().facts
    assert encoded(stored(RECORDS)).facts == facts
    others = [encoded(RECORDS[::-1]), encoded(RECORDS[1:]), encoded(most=95), encoded(how="chat")]
    assert len({facts, *(other.facts for other in others)}) == 5
    ready = [make(record, True)[0] for record in RECORDS]
    assert Examples(ready).facts == Examples(list(ready)).facts != Examples(ready[1:]).facts


def test_only_the_records_that_steps_draw_are_encoded_and_the_adapter_is_the_same(
    tmp_path: Path,
) -> None:
    plan = make_plan(
        epsilon=None,
        noise_multiplier=1.0,
        delta=1e-3,
        units=17,
        batch=3,
        steps=2,
        owner_column="who",
        max_records_per_unit=3,
        reproducible_seed=4,
    )
    units = units_of(RECORDS)
    drawn = sorted(
        RECORDS[i].row
        for step in range(plan.steps)
        for unit in plan.sample(len(units), step, plan.randomness())
        for i in units[int(unit)]
    )
    ready = [make(record, True)[0] for record in RECORDS]
    adapters = []
    for name, examples in (("ready", ready), ("later", encoded(stored(RECORDS)))):
        MADE.clear()
        model, ledger = tiny(), Ledger(tmp_path / f"{name}.jsonl")
        ledger.begin(plan, "data")
        learner = Learner(model, TOKENIZER.pad_token_id, 96, "alone")
        chosen = Sanitize(micro_batch=4)
        sanitize(learner, examples, units, plan, chosen, ledger, tmp_path / name)
        adapters.append([p.detach().numpy().tobytes() for p in model.parameters()])
    assert adapters[0] == adapters[1]
    assert sorted(MADE) == drawn
    assert 0 < len(set(drawn)) < len(RECORDS)


def test_records_that_could_be_longer_than_the_trial_are_refused_before_a_step(
    tmp_path: Path,
) -> None:
    plan = make_plan(epsilon=None, noise_multiplier=1.0, delta=1e-3, units=40, batch=4, steps=1)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.begin(plan, "data")
    learner = Learner(tiny(), TOKENIZER.pad_token_id, 64, "alone")
    with pytest.raises(UserError, match="longer than max_tokens"):
        sanitize(learner, encoded(), units_of(RECORDS), plan, Sanitize(), ledger, tmp_path / "c")
    assert ledger.steps == 0


@pytest.fixture
def quoting() -> Any:
    """A tokenizer with added tokens: plain ones, and one that is looked for in changed text."""
    return load_tokenizer("bundled:junior")


def texts_of(*prompts: str) -> tuple[list[str], list[Record]]:
    made = [Record(p, "x = 1", "python", Unit("row", p), 1) for p in prompts]
    return [f"Q: {r.prompt}\n{r.completion}" for r in made], made


def test_without_an_unknown_token_in_the_vocabulary_no_text_is_looked_at() -> None:
    def none() -> Any:
        raise AssertionError
        yield ""

    refuse_unknown_tokens(none(), encoded(), TOKENIZER, len(TOKENIZER))


def test_of_tokens_that_are_quoted_only_the_texts_that_quote_are_encoded(quoting: Any) -> None:
    known = len(quoting)
    quoting.add_tokens(["<image>", "<sound>"], special_tokens=True)
    texts, made = texts_of("Add.", "Say <imag>.", "Say <sound>.")
    seen: list[str] = []

    def make(record: Record, structure: bool) -> tuple[Example, bool]:
        seen.append(record.prompt)
        return encode(record, f"Q: {record.prompt}\n", quoting, 96, syntax=structure)

    examples = Encoded(made, make, 96, "")
    refuse_unknown_tokens(texts[:2], examples[:2], quoting, known)
    seen.clear()
    with pytest.raises(UserError, match="special token for which the model has no"):
        refuse_unknown_tokens(texts, examples, quoting, known)
    assert seen == ["Say <sound>."]
    refuse_unknown_tokens(texts, examples, quoting, known + 2)


def test_every_text_is_encoded_where_an_unknown_token_may_come_without_its_words(
    quoting: Any,
) -> None:
    known = len(quoting)
    texts, made = texts_of("Add.")
    ready = [make(record, False)[0] for record in made]
    with pytest.raises(UserError, match="special token"):  # learned tokens
        refuse_unknown_tokens(texts, ready, quoting, min(max(ready[0].ids), known - 1))
    end = quoting.eos_token_id
    quoting.add_tokens(["<end>"], special_tokens=True)
    quoting.eos_token = "<end>"
    assert end != quoting.eos_token_id == known
    with pytest.raises(UserError, match="special token"):  # put after every text
        refuse_unknown_tokens(texts, [encode(made[0], "Q", quoting, 96)[0]], quoting, known)
