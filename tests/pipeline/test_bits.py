"""Reproducible noise counts once for the same bits alone: what changes bits is in a run's name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from privcode.config import load_config
from privcode.data.records import Record, Unit, stored
from privcode.models import load_model
from privcode.models.loading import source_of
from privcode.pipeline import budget, directory
from privcode.pipeline.budget import begin
from privcode.pipeline.private import DataIdentity
from privcode.pipeline.run import Run
from privcode.pipeline.spending import spent_beside
from privcode.pipeline.stages import sanitize
from privcode.privacy.ledger import Ledger, lost_steps, read_ledger, spent_in
from privcode.privacy.registry import registered, registry
from privcode.training import dp_sgd

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 200, batch: 16, steps: 6,
  noise: reproducible}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
"""
DATA = DataIdentity(stored([Record("p", "code", None, Unit("row", "row-1"), 1)]))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "private.jsonl").write_text('{"prompt": "p", "code": "code"}\n')
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path / "c.yaml"


def machine(monkeypatch: pytest.MonkeyPatch, **differs: str) -> None:
    real = directory.bits()
    monkeypatch.setattr(budget, "bits", lambda: real | differs)


def begun(config: Path, out: str, data: DataIdentity = DATA) -> Run:
    run = Run(load_config(config), config.parent / out / "run")
    try:
        begin(run.config, run.plan, run.ledger, data)
    finally:
        run.close()
    return run


def take(run: Run, steps: range) -> None:
    for step in steps:
        Ledger(run.ledger).step(step)


@pytest.mark.parametrize("fact", sorted(directory.bits()))
def test_the_same_seeded_run_where_other_bits_come_of_it_counts_as_another(
    config: Path, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    begun(config, "a")
    begun(config, "b")
    assert len({entry["run"] for entry in registered()}) == 1
    machine(monkeypatch, **{fact: "another"})
    other = begun(config, "c")
    assert len({entry["run"] for entry in registered()}) == 2
    assert spent_beside(other) == (other.plan.spent(),)


def trained(config: Path, out: str, most: int) -> Run:
    """A run that was killed when it had begun. `most`: records that fit in a micro-batch."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with (
        pytest.MonkeyPatch.context() as patch,
        Run(load_config(config), config.parent / out / "run") as run,
    ):
        patch.setattr(dp_sgd, "sanitize", killed)
        patch.setattr(sanitize, "fitting_micro_batch", lambda *_: most)
        with pytest.raises(KeyboardInterrupt):
            run.do("sanitize")
    return run


def test_the_same_seeded_run_of_other_weights_or_micro_batches_counts_as_another(
    config: Path,
) -> None:
    """All of it is in the same place under the same names."""
    folder = config.parent / "model"
    shutil.copytree(source_of("bundled:junior"), folder)
    config.write_text(
        CONFIG.replace('"bundled:junior"', f"{folder}, max_tokens: 64, lora: {{r: 2, alpha: 4}}")
        + "sanitize: {micro_batch: auto}\n"
    )
    trained(config, "a", 2)
    trained(config, "b", 2)
    assert len({entry["run"] for entry in registered()}) == 1
    trained(config, "c", 4)
    assert len({entry["run"] for entry in registered()}) == 2
    model = load_model(str(folder))
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] += 2.0**-20
    model.save_pretrained(folder)
    run = trained(config, "d", 2)
    assert len({entry["run"] for entry in registered()}) == 3
    assert spent_beside(run) == (run.plan.spent(), run.plan.spent())


def test_two_numbers_of_threads_are_two_registrations(config: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_bits import begun
begun(Path({str(config)!r}), sys.argv[1])
"""
    for out, value in (("a", "1"), ("b", "2")):
        subprocess.run(
            [sys.executable, "-c", code, out],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": value},
        )
    assert len({entry["run"] for entry in registered()}) == 2


def test_a_resume_with_the_same_bits_takes_steps_again_for_nothing(config: Path) -> None:
    run = begun(config, "a")
    take(run, range(4))
    run = begun(config, "a")
    take(run, range(2, 6))
    entries = Ledger(run.ledger).entries
    assert (Ledger(run.ledger).steps, lost_steps(entries)) == (6, 0)
    assert len(entries) == 1 + 6
    assert spent_beside(run) == ()


def test_a_resume_with_other_bits_is_noted_and_counted_as_one_run_more(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(config, "a")
    take(run, range(4))
    machine(monkeypatch, threads="7, 7")
    run = begun(config, "a")
    take(run, range(2, 6))  # from its last checkpoint on
    begun(config, "a")
    entries = Ledger(run.ledger).entries
    assert [e["kind"] for e in entries] == ["begin", *["step"] * 4, "named", *["step"] * 4]
    assert spent_in(entries) == run.plan.spent()
    assert lost_steps(entries) == 2
    assert spent_beside(run) == (run.plan.spent(),)  # what was registered first, whole
    assert len(registered()) == 2
    assert spent_beside(begun(config, "b"))[0].steps == 6
    registry().unlink()  # the ledger knows by itself
    assert spent_beside(run) == (run.plan.spent(2),)


def test_a_ledger_from_before_machines_were_noted_is_not_taken_for_the_same_bits(
    config: Path,
) -> None:
    run = Run(load_config(config), config.parent / "a" / "run")
    run.close()
    Ledger(run.ledger).begin(run.plan, DATA.fingerprint, "old")
    take(run, range(3))
    begun(config, "a")
    take(run, range(6))
    assert lost_steps(Ledger(run.ledger).entries) == 3


def test_another_language_of_a_record_is_another_run(config: Path) -> None:
    begun(config, "a")
    (record,) = DATA.records
    other = DataIdentity(stored([Record(record.prompt, record.completion, "java", record.unit, 1)]))
    assert other.fingerprint == DATA.fingerprint
    begun(config, "b", other)
    assert len({entry["run"] for entry in registered()}) == 2


def test_cryptographic_noise_notes_no_machine(config: Path) -> None:
    config.write_text(CONFIG.replace("noise: reproducible", "noise: cryptographic"))
    assert "bits" not in Ledger(begun(config, "a").ledger).entries[0]


def test_versions_processor_threads_and_processes_are_among_what_decides_bits() -> None:
    named = {"torch", "numpy", "python", "processor", "instructions", "threads", "processes"}
    assert named <= set(directory.bits())
    assert not {"PRIVCODE_STATE", "HOME"} & set(directory.bits())


def test_where_other_stages_work_is_no_part_of_a_seeded_runs_name(config: Path) -> None:
    run = begun(config, "one")
    config.write_text(f"{CONFIG}scale: {{engine: ray}}\n")
    assert begun(config, "other").ledger.read_text().count(run_name(run)) == 1


def run_name(run: Run) -> str:
    return str(read_ledger(run.ledger)[0]["run"])
