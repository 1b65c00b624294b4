"""A bundle that was sealed again with a lie in it is refused by `privcode verify`, in one line."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from privcode.audit.one_run import bound_of
from privcode.console import epsilon_text
from privcode.files import write_sealed, write_text
from privcode.privacy.accounting import Spent
from privcode.release.bundle import DATA, SCHEMA, write_data
from privcode.release.stated import stated
from privcode.release.verify import verify_bundle
from tests.helpers.bundles import (
    BOUND,
    CONFIG,
    FILTERS,
    LAYER,
    PLAN,
    ROWS,
    evidence,
    facts_of,
    forge,
    make_bundle,
    reseal,
    write_adapter,
    write_tensors,
)
from tests.helpers.commands import privcode, refused

WEIGHTS = "adapter/adapter_model.safetensors"
NAMES = ("id", "prompt", "completion")


def audit() -> dict[str, Any]:
    counts = (BOUND["canaries"], BOUND["guesses"], BOUND["right"])
    found = asdict(bound_of(*counts, PLAN))  # type: ignore[arg-type]
    return {"one_run": {"the model": found | {"confidence": 0.95}}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shown = evidence()
    return make_bundle(
        tmp_path_factory.mktemp("made"),
        replace(shown, audit={**(shown.audit or {}), "exposure": None, **audit()}),
    )


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_bundle_itself_verifies_and_says_what_remains_its_makers_word(bundle: Path) -> None:
    code, out, _ = privcode("verify", bundle)
    assert code == 0
    recomputed, told = out.split("the maker's word, which nobody can recompute")
    assert "the card and the page" in recomputed
    assert "lower bounds" in recomputed
    for words in ("prompts and the task files are public", "the versions", "followed the plan"):
        assert words in told
    code, out, _ = privcode("verify", bundle, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["recomputed"]
    assert facts["stated_by_the_maker"]


def edit(bundle: Path, name: str, old: str, new: str) -> None:
    text = (bundle / name).read_text()
    assert old in text
    write_text(bundle / name, text.replace(old, new))
    reseal(bundle)


def forged(**facts: Any) -> Callable[[Path], None]:
    return lambda bundle: reseal(bundle, **facts)


def told(bundle: Path, **changes: Any) -> None:
    reseal(bundle, stated=facts_of(bundle)["stated"] | changes)


def telling(**changes: Any) -> Callable[[Path], None]:
    return lambda bundle: told(bundle, **changes)


def epsilon_on_the_card(bundle: Path) -> None:
    edit(bundle, "README.md", f"ε = {epsilon_text(PLAN.cost().epsilon)}", "ε = 0.01")


def epsilon_on_the_page(bundle: Path) -> None:
    edit(bundle, "report.html", f"ε = {epsilon_text(PLAN.cost().epsilon)}", "ε = 0.01")


def another_picture(bundle: Path) -> None:
    edit(bundle, "report.html", 'role="img"', 'role="img" onload="x()"')


def page_that_fetches(bundle: Path) -> None:
    edit(bundle, "report.html", "</body>", '<img src="https://example.org/x.png"></body>')


def sentence_added_to_the_card(bundle: Path) -> None:
    edit(bundle, "README.md", "Covered:", "Certified by a court.\n\nCovered:")


def reproducible_without_warning(bundle: Path) -> None:
    seeded = replace(PLAN, reproducible_seed=1)
    forge(bundle, plan=seeded)
    facts = facts_of(bundle)
    reseal(bundle, not_covered=facts["not_covered"][1:])


def no_data(bundle: Path) -> None:
    (bundle / DATA).unlink()
    reseal(bundle)


def no_adapter(bundle: Path) -> None:
    shutil.rmtree(bundle / "adapter")
    reseal(bundle)


def no_weights(bundle: Path) -> None:
    (bundle / WEIGHTS).unlink()
    reseal(bundle)


def extra(name: str, data: bytes = b"x") -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(data)
        reseal(bundle)

    return change


def empty_folder(bundle: Path) -> None:
    (bundle / "data" / "more").mkdir()


def pickle_for_an_adapter(bundle: Path) -> None:
    (bundle / WEIGHTS).write_bytes(pickle.dumps({"weight": [1.0]}))
    reseal(bundle)


def torch_pickle_for_an_adapter(bundle: Path) -> None:
    torch.save({"weight": torch.ones(3)}, bundle / WEIGHTS)
    reseal(bundle)


def other_plan(**changes: Any) -> Callable[[Path], None]:
    """Changed everywhere that `privacy.json` says it, but neither on the card nor in ε."""

    def change(bundle: Path) -> None:
        facts = facts_of(bundle)
        plan = replace(PLAN, **changes)
        spent = [plan.spent().facts()]
        reseal(bundle, **(facts | plan.describe() | {"spent": spent}))

    return change


def stale_words(bundle: Path) -> None:
    """A cheaper plan with all its figures, under the old card and page."""
    plan = replace(PLAN, steps=1)
    card = (bundle / "README.md").read_bytes(), (bundle / "report.html").read_bytes()
    forge(bundle, plan=plan, spent=(plan.spent(),), audit=None)
    (bundle / "README.md").write_bytes(card[0])
    (bundle / "report.html").write_bytes(card[1])
    reseal(bundle)


def bounds(**changes: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        found = facts_of(bundle)["epsilon_lower_bounds"]["the model"] | changes
        reseal(bundle, epsilon_lower_bounds={"the model": found})

    return change


def bound_above_epsilon(bundle: Path) -> None:
    found = asdict(bound_of(300, [100], [100], PLAN)) | {"confidence": 0.95}
    forge(bundle, audit={"one_run": {"the model": found}})


def text_for_a_fact(name: str, value: str) -> Callable[[Path], None]:
    """Written by hand: what `write_sealed` would not write."""

    def change(bundle: Path) -> None:
        path = bundle / "privacy.json"
        facts = json.loads(path.read_text())
        marked = json.dumps(facts | {name: "@@"}, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(marked.replace('"@@"', value) + "\n")

    return change


def key_twice(bundle: Path) -> None:
    path = bundle / "privacy.json"
    path.write_text(path.read_text().replace('  "steps": 5', '  "steps": 5,\n  "steps": 5'))


def data_of(table: pa.Table, **options: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        options.setdefault("store_schema", False)
        options.setdefault("write_statistics", False)
        pq.write_table(table, bundle / DATA, **options)
        reseal(bundle)

    return change


def data_of_other_rows(bundle: Path) -> None:
    write_data(bundle / DATA, ROWS[:2])
    reseal(bundle)


def hidden_in_the_data(bundle: Path) -> None:
    """Bytes between the last column and the footer."""
    data = (bundle / DATA).read_bytes()
    footer = struct.unpack("<I", data[-8:-4])[0]
    at = len(data) - 8 - footer
    (bundle / DATA).write_bytes(data[:at] + b"a secret" + data[at:])
    reseal(bundle)


def data_bomb(bundle: Path) -> None:
    """A few kilobytes that are three gigabytes of text."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["a" * 2**20]))
    table = pa.table(dict.fromkeys(NAMES, long))
    count = {"samples": 3000, "accepted": 3000, "reasons": {}}
    facts = facts_of(bundle)
    filters = facts["stated"]["filters"] | count
    shown = evidence(filters=filters, audit=None)
    pq.write_table(table, bundle / DATA, store_schema=False, write_statistics=False)
    reseal(bundle, rows=3000, stated=stated(shown, None))
    forge(bundle, filters=filters, audit=None)


def tensors(metadata: dict[str, str] | None = None, **more: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        write_tensors(bundle / WEIGHTS, metadata, **more)
        reseal(bundle)

    return change


def hidden_in_the_tensors(bundle: Path) -> None:
    data = (bundle / WEIGHTS).read_bytes()
    (bundle / WEIGHTS).write_bytes(data + b"a secret")
    reseal(bundle)


def huge_header(bundle: Path) -> None:
    (bundle / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}")
    reseal(bundle)


def config(**changes: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        write_adapter(bundle / "adapter", **changes)
        reseal(bundle)

    return change


def config_text(text: str) -> Callable[[Path], None]:
    return extra("adapter/adapter_config.json", text.encode())


def names(**changes: str) -> Callable[[Path], None]:
    """A name in the facts, card and page made from it as well."""

    def change(bundle: Path) -> None:
        forge(bundle, **changes)

    return change


def whole_model_with_code(bundle: Path) -> None:
    shutil.rmtree(bundle / "adapter")
    (bundle / "adapter").mkdir()
    facts = {"model_type": "llama", "auto_map": {"AutoModel": "evil--code.Model"}}
    (bundle / "adapter" / "config.json").write_text(json.dumps(facts))
    (bundle / "adapter" / "tokenizer.json").write_text("{}")
    write_tensors(bundle / "adapter" / "model.safetensors")
    reseal(bundle)


def outside(bundle: Path) -> None:
    files = facts_of(bundle)["files"]
    reseal(bundle, files=files | {"../../../etc/hostname": "0" * 64})


def strings(*columns: str, kind: Any = None) -> pa.Table:
    values = ["a", "b", "c"]
    return pa.table({name: pa.array(values, kind or pa.string()) for name in columns})


WIDE = pa.table({f"c{n}": ["a", "b", "c"] for n in range(3000)})
NUMBERS = pa.table({name: [1, 2, 3] for name in NAMES})
NULLS = pa.table({name: pa.array(["a", None, "c"]) for name in NAMES}, SCHEMA)
BYTES = pa.table({name: pa.array([b"\xff", b"b", b"c"], pa.binary()) for name in NAMES})
TALKING = pa.table(strings(*NAMES).to_pydict(), SCHEMA.with_metadata({"note": "a secret"}))
GOOD = strings(*NAMES)


def without(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        facts = facts_of(bundle)
        del facts[name]
        write_sealed(bundle / "privacy.json", facts)

    return change


ATTACKS: dict[str, Callable[[Path], None]] = {
    "another ε on the card": epsilon_on_the_card,
    "another ε on the page": epsilon_on_the_page,
    "a sentence added to the card": sentence_added_to_the_card,
    "a picture that acts": another_picture,
    "a page that fetches": page_that_fetches,
    "all records of one company": forged(protects="all records of one company"),
    "nothing is not covered": forged(not_covered=[]),
    "more is covered": forged(covered=["Everything, for ever."]),
    "another accountant": forged(accountant="an auditor"),
    "a lower bound of nothing": forged(epsilon_lower_bounds={"x": {"epsilon": 0.0}}),
    "a lower bound invented": bounds(epsilon=0.01),
    "a lower bound of the same shape invented": bounds(epsilon_same_shape=0.02),
    "fewer right guesses": bounds(right=[0, 0]),
    "more right guesses than guesses": bounds(right=[31, 5]),
    "guesses without an answer": bounds(right=[17]),
    "surer than it is": bounds(confidence=0.99),
    "countless canaries": bounds(canaries=10**15),
    "a lower bound above ε": bound_above_epsilon,
    "reproducible noise without its warning": reproducible_without_warning,
    "no data": no_data,
    "no adapter": no_adapter,
    "no weights": no_weights,
    "an extra file": extra("notes.txt"),
    "an extra file in the data": extra("data/train-00001-of-00002.parquet"),
    "an extra file in the adapter": extra("adapter/train.py"),
    "a hidden file in the adapter": extra("adapter/.x.tmp", b"a private record"),
    "a hidden folder": extra("adapter/.cache.tmp/records.jsonl"),
    "a hidden file": extra(".lock"),
    "an empty folder": empty_folder,
    "a loading script": extra("release.py"),
    "a pickle next to the adapter": extra("adapter/adapter_model.bin", pickle.dumps(1)),
    "a pickle for an adapter": pickle_for_an_adapter,
    "a torch pickle for an adapter": torch_pickle_for_an_adapter,
    "a million records of a record": forged(max_records_per_unit=10**6),
    "empty versions": forged(versions={}),
    "versions that are no text": forged(versions={"privcode": 1, "dp-accounting": None}),
    "a version of nothing": forged(versions={"privcode": "", "dp-accounting": "", "python": ""}),
    "a version that talks": forged(
        versions={"privcode": "0.1 (certified)", "dp-accounting": "1", "python": "3"}
    ),
    "more units": other_plan(units=100_000),
    "a smaller batch": other_plan(expected_batch=1),
    "fewer steps": other_plan(steps=1),
    "more noise": other_plan(noise_multiplier=9.0),
    "a larger δ": other_plan(delta=9e-4),
    "another clip norm": other_plan(clip_norm=0.1),
    "an owner for a record": other_plan(owner_column="author", max_records_per_unit=3),
    "the words of a dearer plan": stale_words,
    "steps without end": forged(steps=10**18),
    "noise of 1e-300": other_plan(noise_multiplier=1e-300),
    "NaN as text": forged(epsilon="nan"),
    "infinity as text": forged(epsilon="inf"),
    "minus infinity as text": forged(clip_norm="-inf"),
    "a truth for a number": forged(max_records_per_unit=True),
    "a truth for steps": forged(steps=True),
    "a number for a text": forged(protects=1),
    "a number of text": forged(steps="5"),
    "half a step": forged(steps=5.5),
    "1e400": text_for_a_fact("noise_multiplier", "1e400"),
    "NaN": text_for_a_fact("epsilon", "NaN"),
    "a number of 5,000 digits": text_for_a_fact("steps", "1" * 5000),
    "a number of 400 digits": text_for_a_fact("units", "1" * 400),
    "lists without end": text_for_a_fact("covered", "[" * 100_000),
    "lists in lists": text_for_a_fact("covered", "[" * 800 + "]" * 800),
    "half a surrogate pair": text_for_a_fact("protects", '"\\ud800"'),
    "a key twice": key_twice,
    "a key that no release has": forged(certified="by a court"),
    "a key of the plan missing": forged(unit=None),
    **{f"no {name}": without(name) for name in ("sweep", "trials", "noise", "files", "stated")},
    "another format": forged(format=2),
    "a format that is true": forged(format=True),
    "a relation that means less": forged(neighbouring="replace one unit"),
    "a run that spent nothing": forged(spent=[]),
    "more in a spending": forged(spent=[PLAN.spent().facts() | {"note": "certified"}]),
    "two thousand other runs": forged(
        spent=[PLAN.spent().facts(), *[Spent(0.1, 1.0, 1).facts()] * 2000]
    ),
    "a sweep that nobody charged": forged(
        sweep={"settings": {"x": [1]}, "score": {"task": "t", "model": "m"}}
    ),
    "more rows": forged(rows=4),
    "more accepted": telling(filters=FILTERS | {"accepted": 4}),
    "reasons that do not add up": telling(filters=FILTERS | {"reasons": {}}),
    "a reason of minus one": telling(filters=FILTERS | {"reasons": {"a": 3, "b": -1}}),
    "a filter that never was": telling(filters=FILTERS | {"certified": True}),
    "pass@1 of 1.5": telling(
        evaluation={"house": {"base": {"pass@1": 1.5, "tasks": 10, "errors": {}}}}
    ),
    "pass@1 of true": telling(
        evaluation={"house": {"base": {"pass@1": True, "tasks": 10, "errors": {}}}}
    ),
    "no tasks": telling(evaluation={"house": {"base": {"pass@1": 0.5, "tasks": 0, "errors": {}}}}),
    "figures for one model alone": telling(
        evaluation={
            "house": {
                "base": {"pass@1": 0.5, "tasks": 1, "errors": {}},
                "tuned": {"pass@5": 0.5, "tasks": 1, "errors": {}},
            }
        }
    ),
    "more leaked than planted": telling(
        planted={
            "samples_per_prompt": 1,
            "exposure": None,
            "places": {"anywhere": {"by_repetitions": {"1": {"planted": 1, "leaked": 2}}}},
        }
    ),
    "a title turned round": names(title="run \u202e0.0 = ε"),
    "a title of two lines": names(title="run\n\nGuarantee: ε = 0"),
    "a title without end": names(title="a" * 10_000),
    "an empty title": names(title=""),
    "a zero-width title": names(title="r\u200bun"),
    "a licence of two lines": telling(license="mit\nε: 0"),
    "data of other rows": data_of_other_rows,
    "data of numbers": data_of(NUMBERS),
    "data of bytes": data_of(BYTES),
    "data with a column more": data_of(strings(*NAMES, "owner")),
    "data with a column less": data_of(strings("id", "prompt")),
    "data with the columns turned": data_of(strings("prompt", "id", "completion")),
    "data with three thousand columns": data_of(WIDE),
    "data with an empty row": data_of(NULLS),
    "data with text in its schema": data_of(TALKING, store_schema=True),
    "data with statistics": data_of(GOOD, write_statistics=True),
    "data compressed without bound": data_of(GOOD, compression="gzip"),
    "data of another layout": data_of(GOOD, use_dictionary=False),
    "bytes hidden in the data": hidden_in_the_data,
    "data that are a bomb": data_bomb,
    "data that are no Parquet": extra(DATA, b"PAR1" + b"\xff" * 64 + b"PAR1"),
    "empty data": extra(DATA, b""),
    "text in the tensors' file": tensors({"format": "pt", "note": "a secret"}),
    "text behind the tensors": hidden_in_the_tensors,
    "a header without end": huge_header,
    "a tensor that is not finite": tensors(
        **{f"{LAYER}.lora_B.weight": torch.full((8, 2), torch.nan)}
    ),
    "a tensor of bytes": tensors(note=torch.zeros(8, dtype=torch.uint8)),
    "a tensor of another layer": tensors(**{f"{LAYER[:-6]}x.lora_A.weight": torch.ones(2, 8)}),
    "a tensor of another rank": tensors(**{f"{LAYER}.lora_A.weight": torch.ones(3, 8)}),
    "an embedding next to the adapter": tensors(
        **{"base_model.model.lm_head.weight": torch.ones(8, 8)}
    ),
    "code in the adapter's config": config(
        auto_mapping={"base_model_class": "M", "parent_library": "evil"}
    ),
    "text in the adapter's config": config(revision="see https://example.org"),
    "modules saved with the adapter": config(modules_to_save=["lm_head"]),
    "an adapter of another kind": config(peft_type="IA3"),
    "an adapter of another model": config(base_model_name_or_path="evil/model"),
    "weights computed on loading": config(init_lora_weights="pissa"),
    "a key of the config that talks": config(**{"a secret": None}),
    "an adapter's config twice": config_text(json.dumps(CONFIG)[:-1] + ', "r": 3}'),
    "an adapter's config that is a list": config_text("[]"),
    "an adapter's config without end": config_text("[" * 100_000),
    "an adapter's config with NaN": config_text(json.dumps(CONFIG)[:-1] + ', "x": NaN}'),
    "a whole model that brings code": whole_model_with_code,
    "a file outside": outside,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_lie_sealed_again_is_refused_in_one_line(bundle: Path, attack: str) -> None:
    ATTACKS[attack](bundle)
    refused("verify", bundle)


def test_names_that_are_html_or_markdown_are_shown_as_text(bundle: Path) -> None:
    bad = "<script>alert(1)</script> [x](https://example.org) ![y](z) `ε`"
    forge(bundle, title=bad, junior=bad)
    verify_bundle(bundle)
    assert "<script" not in (bundle / "report.html").read_text()
    card = (bundle / "README.md").read_text().split("---")[-1]
    for text in ("<script", "[x]", "![y]", "`ε`"):
        assert text not in card


def test_a_bundle_of_an_earlier_privcode_is_refused_with_the_remedy(bundle: Path) -> None:
    facts = facts_of(bundle)
    for name in ("format", "stated", "rows"):
        del facts[name]
    write_sealed(bundle / "privacy.json", facts)
    code, _, err = privcode("verify", bundle)
    assert code == 2
    assert "made by an earlier privcode" in err
    assert "release it again" in " ".join(err.split())


def test_the_page_fetches_nothing_even_where_a_reader_would(bundle: Path) -> None:
    page = (bundle / "report.html").read_text()
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page
