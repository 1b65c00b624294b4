"""`privcode compare`: arms are whole runs of their own, and the table is made from their files."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from privcode.config import load_config
from privcode.errors import UserError
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.experiments.compare import compare
from privcode.files import PUBLIC_TIME, write_jsonl
from privcode.models import load_model
from privcode.pipeline.results import verify
from privcode.pipeline.run import Run
from privcode.pipeline.spending import spent_beside

CONFIG = """\
data: {source: private.jsonl, language: python, public: true}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 60, batch: 8, steps: 2}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}}
sanitize: {learning_rate: 0.01, merge: true}
synthesize: {max_new_tokens: 40}
validate: {execution: {enabled: false}, round_trip: {method: "off"}}
premium: {model: "bundled:premium", lora: {r: 2, alpha: 4}}
boost: {epochs: 1, merge: true}
evaluate:
  tasks: [{name: house, file: tasks.jsonl, prelude: house.py, instruction: "{problem}"}]
  max_new_tokens: 40
audit: {repetitions: [1], samples: 1, candidates: 20, max_new_tokens: 20}
compare:
  methods: [base, control, privcode, no-filters, dpft, jft, nondpft, no-privsa]
  parallel: 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "private.jsonl", private_records(60, seed=1))
    write_jsonl(tmp_path / "prompts.jsonl", public_prompts(20, seed=1))
    write_jsonl(tmp_path / "tasks.jsonl", tasks(4, seed=1))
    (tmp_path / "house.py").write_text(prelude())
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path / "c.yaml"


def times(out: Path) -> set[float]:
    """Modification times of all that is public."""
    return {
        path.stat().st_mtime
        for path in (out, *out.rglob("*"))
        if "private" not in path.relative_to(out).parts[:-1]
    }


@pytest.mark.slow
def test_every_method_runs_and_has_its_row(config: Path) -> None:
    out = config.parent / "out"
    facts = compare(load_config(config), out)
    methods = ["base", "control", "privcode", "no-filters", "dpft", "jft", "nondpft", "no-privsa"]
    assert [row["method"] for row in facts["rows"]] == methods
    assert times(out) == {PUBLIC_TIME}
    assert json.loads((out / "results.json").read_text()) == facts
    assert "| privcode | – | 1 |" in (out / "table.md").read_text()
    assert "<svg" in (out / "report.html").read_text()
    assert (out / "ablations.png").read_bytes().startswith(b"\x89PNG")
    for row in facts["rows"]:
        assert 0 <= row["pass@1"] <= 1
        assert (row["canaries_planted"] is None) == (row["method"] == "base")
        assert (row["junior_pass@1"] is not None) == (
            row["method"] in ("privcode", "no-filters", "no-privsa")
        )
    made = {row["method"]: row["synthesised"] for row in facts["rows"] if row["synthesised"]}
    assert set(made) == {"control", "privcode", "no-filters", "no-privsa"}
    assert all("copied programs" in found for found in made.values())  # the data are public
    # dpft trains the premium under the plan and has no junior; nondpft has no ledger.
    assert (out / "dpft" / "private" / "ledger.jsonl").exists()
    assert not (out / "dpft" / "models" / "junior").exists()
    assert not (out / "nondpft" / "private" / "ledger.jsonl").exists()
    # One DP junior serves both: the same bytes, one budget, and each is a whole run.
    first, second = Run.open(out / "privcode"), Run.open(out / "no-filters")
    assert verify(first)["epsilon"] == verify(second)["epsilon"] > 0
    assert spent_beside(first) == spent_beside(second)
    assert {name: first.done()[name] for name in ("sanitize", "synthesize")} == {
        name: second.done()[name] for name in ("sanitize", "synthesize")
    }
    first.close()
    second.close()

    # Merged models are the base with its adapter, to rounding.
    folder = out / "privcode" / "models"
    ids = torch.arange(2, 40)[None]
    adapted = PeftModel.from_pretrained(load_model("bundled:premium"), folder / "premium")
    merged = load_model(str(folder / "premium-merged"))
    with torch.inference_mode():
        assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-4)


@pytest.mark.slow
def test_the_first_half_of_jft_is_trained_once_for_two_epsilons(config: Path) -> None:
    text = CONFIG.replace("epsilon: null, noise_multiplier: 1.0", "epsilon: 4")
    methods = "methods: [base, control, privcode, no-filters, dpft, jft, nondpft, no-privsa]"
    assert methods in text
    config.write_text(text.replace(methods, "methods: [jft]\n  epsilons: {jft: [1, 4]}"))
    compare(load_config(config), config.parent / "out")
    runs = [config.parent / "out" / name for name in ("jft-eps1", "jft-eps4")]
    halves = [run / "private" / "pretuned" for run in runs]
    first, second = ({f.name: f.read_bytes() for f in half.iterdir()} for half in halves)
    assert first == second
    assert "adapter_model.safetensors" in first
    assert all((run / "private" / "ledger.jsonl").exists() for run in runs)
    # The second took the time of the first half from the first, to the tenth of a second.
    took = [json.loads((run / "private" / "manifest.json").read_text()) for run in runs]
    assert took[0]["seconds"]["pretune"] == took[1]["seconds"]["pretune"]
    assert took[0]["seconds"] != took[1]["seconds"]


@pytest.mark.slow
def test_nothing_computed_from_private_records_outside_the_mechanism_is_shown(config: Path) -> None:
    config.write_text(config.read_text().replace("public: true", "public: false"))
    config.write_text(config.read_text().replace("[base, control, privcode,", "[control] #"))
    out = config.parent / "out"
    compare(load_config(config), out)
    kept = json.loads((out / "private" / "control.json").read_text())
    assert {"copied programs", "prompts told from private"} <= set(kept)
    shown = [path for path in out.rglob("*") if path.is_file() and "private" not in path.parts[-2]]
    assert out / "rows" / "control.json" in shown
    for path in shown:
        assert b"copied" not in path.read_bytes(), path
        assert b"told from private" not in path.read_bytes(), path


def test_an_arm_that_fails_says_why_in_one_line(config: Path) -> None:
    (config.parent / "private.jsonl").unlink()
    with pytest.raises(UserError, match=r"arm \w+: .*private\.jsonl"):
        compare(load_config(config), config.parent / "out")
    assert times(config.parent / "out") == {PUBLIC_TIME}


def test_what_an_arm_would_refuse_is_refused_before_any_starts(config: Path) -> None:
    (config.parent / "tasks.jsonl").write_text("{}\n")
    with pytest.raises(
        UserError, match=r"^[^ ]*tasks\.jsonl, row 1: has the fields of no known format"
    ):
        compare(load_config(config), config.parent / "out")
    assert not (config.parent / "out").exists()
