"""Bundles for the tests: a small tuned model, public evidence, and how a bundle is sealed again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from privcode.files import Row, read_sealed, sha256_tree, write_json, write_sealed, write_text
from privcode.pipeline.directory import versions
from privcode.privacy import make_plan
from privcode.release.evidence import Evidence
from privcode.release.page import card, page
from privcode.release.stated import evidence_of
from privcode.release.verify import release, statement

PLAN = make_plan(
    epsilon=None, noise_multiplier=2.0, delta=1e-5, units=1000, batch=10, steps=5, clip_norm=0.5
)
ROWS = [{"id": f"{n}-0", "prompt": f"Problem {n}: é", "completion": f"x = {n}"} for n in range(3)]
LEAKS = {"planted": 5, "leaked": 1, "by_repetitions": {"10": {"planted": 5, "leaked": 1}}}
FILTERS = {
    "samples": 5,
    "accepted": 3,
    "reasons": {"execution: KeyError": 2},
    "execution": True,
    "round_trip": {"method": "likelihood", "threshold": 0.5},
    "surest": 0.7,
}
BOUND = {"canaries": 300, "guesses": [30, 9], "right": [17, 5], "confidence": 0.95}
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {
    "base_model_name_or_path": "large",
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj"],
    "modules_to_save": None,
    "peft_version": "0.19.0",
}


def evidence(**changes: Any) -> Evidence:
    """Public facts of a made-up run."""
    plain = Evidence(
        title="a run",
        plan=PLAN,
        spent=(PLAN.spent(),),
        others=(),
        prompts="prompts.jsonl",
        junior="small",
        premium="large",
        filters=FILTERS,
        evaluation={"house": {"base": {"pass@1": 0.0, "tasks": 10, "errors": {"NameError": 10}}}},
        audit={"samples_per_prompt": 2, "places": {"anywhere": LEAKS}},
        versions=versions(),
    )
    return replace(plain, **changes)


def write_adapter(folder: Path, **changes: Any) -> Path:
    """A LoRA adapter of rank 2 on one layer; `changes` of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", CONFIG | changes)
    write_tensors(folder / "adapter_model.safetensors")
    return folder


def write_tensors(path: Path, metadata: dict[str, str] | None = None, **more: Any) -> None:
    """The tensors of that adapter, and more by name."""
    pair = {f"{LAYER}.lora_A.weight": torch.ones(2, 8), f"{LAYER}.lora_B.weight": torch.ones(8, 2)}
    save_file(pair | more, path, metadata=metadata)


def make_bundle(folder: Path, shown: Evidence | None = None, **options: Any) -> Path:
    """A bundle in FOLDER/release of the adapter in FOLDER/adapter."""
    adapter = write_adapter(folder / "adapter")
    release(shown or evidence(), ROWS, adapter, sha256_tree(adapter), folder / "release", **options)
    return folder / "release"


def facts_of(bundle: Path) -> Row:
    """Its privacy.json."""
    return read_sealed(bundle / "privacy.json")


def forge(bundle: Path, **changes: Any) -> None:
    """A bundle with other facts of its evidence, and everything that follows from them."""
    facts = facts_of(bundle)
    found, license = evidence_of(facts, "bundle")
    other = replace(found, **changes)
    write_text(bundle / "README.md", card(other, facts["rows"], license))
    write_text(bundle / "report.html", page(other))
    reseal(bundle, **statement(other, facts["rows"], license))


def reseal(bundle: Path, **changes: Any) -> None:
    """What somebody does who can write the bundle: facts changed, all files hashed again."""
    facts = facts_of(bundle) | changes
    if "files" not in changes:
        facts["files"] = sha256_tree(bundle)
        del facts["files"]["privacy.json"]
    write_sealed(bundle / "privacy.json", facts)
