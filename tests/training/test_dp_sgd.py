"""Sanitize: resumable, counted, cut-invariant, and the syntax term trains."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from privcode.data.records import Record, Unit, units_of
from privcode.errors import UserError
from privcode.exercises.corpus import private_records
from privcode.privacy.clipping import Clipper
from privcode.privacy.ledger import Ledger, read_ledger, spent_in
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.privacy.randomness import Randomness
from privcode.training.dp_sgd import micro_batches, sanitize
from privcode.training.examples import collate, encode
from privcode.training.learner import Learner
from privcode.training.loss import per_example_losses, syntax_weight
from privcode.training.settings import Sanitize, Syntax
from tests.helpers.bundled import ASSETS
from tests.helpers.device import DEVICE

TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "junior")
RECORDS = [
    Record(r["prompt"], r["code"], "python", Unit("row", f"row-{i}"), i)
    for i, r in enumerate(private_records(60, seed=3), start=1)
]
EXAMPLES = [encode(r, f"Question: {r.prompt}\n\nAnswer:\n", TOKENIZER, 256)[0] for r in RECORDS]


def plan_for(**change: object) -> PrivacyPlan:
    settings: dict[str, object] = {
        "epsilon": None,
        "noise_multiplier": 1.0,
        "delta": 1e-3,
        "units": 60,
        "batch": 12,
        "steps": 5,
        "reproducible_seed": 1,
    }
    return make_plan(**(settings | change))  # type: ignore[arg-type]


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    return get_peft_model(LlamaForCausalLM(config), lora)


def adapter(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]).cpu()


def train(
    folder: Path,
    plan: PrivacyPlan | None = None,
    stop: int | None = None,
) -> tuple[torch.Tensor, Ledger]:
    """Train a tiny model; `stop` breaks off after that many steps, as an interrupt would."""
    folder.mkdir(exist_ok=True)
    plan = plan or plan_for()
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.begin(plan, data="fingerprint")
    model = tiny().to(DEVICE)
    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        if stop is not None and done >= stop:
            raise KeyboardInterrupt

    sanitize(
        Learner(model, TOKENIZER.pad_token_id, 256),
        EXAMPLES,
        units_of(RECORDS),
        plan,
        Sanitize(learning_rate=1e-2, checkpoint_every=2, syntax=Syntax(lambda_max=1.0)),
        ledger,
        folder / "checkpoint.pt",
        progress,
    )
    return adapter(model), ledger


@pytest.mark.gpu
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_seeded_run_interrupted_anywhere_ends_bit_for_bit_the_same(
    tmp_path: Path, stop: int
) -> None:
    whole, ledger = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop=stop)
    again, resumed = train(tmp_path / "cut")
    assert torch.equal(whole, again)
    assert resumed.path.read_bytes() == ledger.path.read_bytes()
    assert spent_in(resumed.entries).steps == 5


@pytest.mark.gpu
def test_a_step_lost_with_cryptographic_noise_stays_spent_and_is_not_taken_again(
    tmp_path: Path,
) -> None:
    plan = plan_for(reproducible_seed=None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, plan, stop=3)  # the checkpoint is at 2: step 3 is lost
    _, ledger = train(tmp_path, plan)
    assert [e["step"] for e in ledger.entries[1:]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", [None, 0])
def test_a_ledger_that_is_older_than_the_checkpoint_is_refused(
    tmp_path: Path, seed: int | None
) -> None:
    plan, path = plan_for(reproducible_seed=seed), tmp_path / "ledger.jsonl"
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, plan, stop=2)
    whole = path.read_text()
    rows = whole.splitlines(keepends=True)
    path.write_text("".join(rows[:2]))
    with pytest.raises(UserError, match=r"ledger\.jsonl: holds 1 steps, but .* after 2 steps"):
        train(tmp_path, plan)
    path.write_text("".join(rows[:1]))
    with pytest.raises(UserError, match="holds 0 steps"):
        train(tmp_path, plan)
    path.write_text(whole)
    _, ledger = train(tmp_path, plan)
    assert ledger.steps == plan.steps


def test_all_spent_and_the_checkpoint_gone_is_refused_not_saved_untrained(tmp_path: Path) -> None:
    plan = plan_for(reproducible_seed=None)
    train(tmp_path, plan)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match="is missing, and all steps are spent"):
        train(tmp_path, plan)


def test_every_noise_drawn_over_all_resumptions_has_its_own_ledger_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, noise = plan_for(reproducible_seed=None), PrivacyPlan.noise
    drawn = []

    def noted(plan: PrivacyPlan, clipper: Clipper, step: int, source: Randomness) -> torch.Tensor:
        drawn.append(step)
        return noise(plan, clipper, step, source)

    monkeypatch.setattr(PrivacyPlan, "noise", noted)
    for stop in (1, 3, None):  # after the first, and after one behind a checkpoint
        with nullcontext() if stop is None else pytest.raises(KeyboardInterrupt):
            _, ledger = train(tmp_path, plan, stop=stop)
    assert drawn == [e["step"] for e in ledger.entries[1:]]
    assert len(drawn) == plan.steps


@pytest.mark.gpu
def test_two_runs_with_cryptographic_randomness_differ(tmp_path: Path) -> None:
    plan = plan_for(reproducible_seed=None)
    assert not torch.equal(train(tmp_path / "a", plan)[0], train(tmp_path / "b", plan)[0])


@pytest.mark.parametrize("micro_batch", [1, 3, 60])
def test_the_update_does_not_depend_on_the_micro_batch(tmp_path: Path, micro_batch: int) -> None:
    # One step without noise: Adam's first update is a sign, so compare the gradient it saw.
    one, other = tiny(), tiny()
    plan = plan_for(noise_multiplier=0.0)
    sums = []
    for model, size in ((one, 8), (other, micro_batch)):
        clipper = plan.clipper(model)
        drawn = units_of(RECORDS)[:20]
        for group in micro_batches(drawn, [len(e.ids) for e in EXAMPLES], size):
            batch = collate([EXAMPLES[i] for u in group for i in drawn[u]], 0)
            with clipper.recording(len(batch.ids)):
                per_example_losses(model, batch, 1.0).sum().backward()
            clipper.accumulate(torch.tensor([u for u in group for _ in drawn[u]]))
        sums.append(clipper.take_sum())
    assert torch.allclose(*sums, rtol=1e-4, atol=1e-6 * float(sums[0].norm()))


@pytest.mark.gpu
def test_an_empty_batch_still_takes_a_noised_and_counted_step(tmp_path: Path) -> None:
    plan = plan_for(units=1000, delta=1e-4, batch=1, steps=2)
    assert len(plan.sample(len(RECORDS), 0, plan.randomness())) == 0
    after, ledger = train(tmp_path, plan)
    assert ledger.steps == 2
    assert not torch.equal(after, adapter(tiny()))


def test_the_syntax_term_has_a_gradient_and_holds_the_student_to_the_teacher() -> None:
    model = tiny()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    batch = collate(EXAMPLES[:4], 0)
    plain = per_example_losses(model, batch, 0.0)
    held = per_example_losses(model, batch, 1.0)
    assert bool((held > plain + 1e-5).all())
    (held - plain).sum().backward()
    assert float(sum(p.grad.norm() for p in model.parameters() if p.grad is not None)) > 0


def test_the_syntax_term_is_zero_where_adapter_and_teacher_agree() -> None:
    model = tiny()  # a fresh adapter changes nothing
    batch = collate(EXAMPLES[:4], 0)
    assert torch.allclose(
        per_example_losses(model, batch, 1000.0), per_example_losses(model, batch, 0.0), atol=1e-4
    )


def test_the_syntax_term_looks_at_structural_positions_only() -> None:
    model = tiny()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    batch = collate(EXAMPLES[:2], 0)
    model.eval()
    got = per_example_losses(model, batch, 1.0) - per_example_losses(model, batch, 0.0)
    for i, example in enumerate(EXAMPLES[:2]):
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            student = model(input_ids=ids).logits[0].log_softmax(-1)
            with model.disable_adapter():
                teacher = model(input_ids=ids).logits[0].log_softmax(-1)
        # The token at t is predicted by the logits at t - 1.
        at = [t - 1 for t, structural in enumerate(example.structure) if structural]
        kl = [(teacher[t].exp() * (teacher[t] - student[t])).sum() for t in at]
        assert at
        assert float(got[i]) == pytest.approx(float(sum(kl) / len(kl)), rel=1e-3)


def untuned(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Logits without the adapter, by a way of this file's own: half of the adapter is 0."""
    halves = [p for name, p in model.named_parameters() if "lora_B" in name]
    kept = [half.detach().clone() for half in halves]
    with torch.no_grad():
        for half in halves:
            half.zero_()
        logits: torch.Tensor = model(input_ids=ids).logits[0]
        for half, before in zip(halves, kept, strict=True):
            half.copy_(before)
    return logits


def test_the_syntax_terms_gradient_is_that_of_a_teacher_that_stands_still() -> None:
    model = tiny()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    trained = [p for p in model.parameters() if p.requires_grad]

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])

    for example in EXAMPLES[:3]:
        batch, ids = collate([example], 0), torch.tensor([example.ids])
        got = gradient(per_example_losses(model, batch, 1.0).sum())
        got -= gradient(per_example_losses(model, batch, 0.0).sum())
        teacher = untuned(model, ids).log_softmax(-1)
        student = model(input_ids=ids).logits[0].log_softmax(-1)
        at = [t - 1 for t, structural in enumerate(example.structure) if structural]
        kl = (teacher[at].exp() * (teacher[at] - student[at])).sum(-1).mean()
        expected = gradient(kl)
        assert float((got - expected).norm()) < 1e-3 * float(expected.norm())


def test_an_examples_loss_does_not_depend_on_its_batch() -> None:
    model = tiny()
    alone = torch.cat([per_example_losses(model, collate([e], 0), 1.0) for e in EXAMPLES[:6]])
    together = per_example_losses(model, collate(EXAMPLES[:6], 0), 1.0)
    assert torch.allclose(alone, together, rtol=1e-4)


def test_the_prompt_carries_no_loss_and_no_structure() -> None:
    example = EXAMPLES[0]
    assert not any(example.structure[: example.start])
    batch = collate([example], 0)
    assert int(batch.scored.sum()) == len(example.ids) - example.start


def test_a_long_record_is_truncated_never_cut_into_several() -> None:
    example, cut = encode(RECORDS[0], "Question: x\n\nAnswer:\n", TOKENIZER, 20)
    assert cut
    assert len(example.ids) == len(example.structure) == 20


def test_of_a_record_too_long_for_the_model_nobody_prints_the_length() -> None:
    code = """
import logging as standard
standard.getLogger("bitsandbytes").setLevel("ERROR")  # where it is installed, it talks of itself
from transformers.utils import logging
from privcode.models import load_tokenizer
from privcode.data.records import Record, Unit
from privcode.training.examples import encode
logging.set_verbosity_warning()
tokenizer = load_tokenizer("bundled:junior")
tokenizer.model_max_length = 64
record = Record("p" * 999, "x = 1\\n" * 99, "python", Unit("owner", "a"), 1)
encode(record, "p" * 999, tokenizer, 64)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 1000), (19, 1000), (20, 0.1 + 999.9 * 0.8187308), (99, 449.384)]
)
def test_lambda_follows_the_papers_schedule(step: int, weight: float) -> None:
    assert syntax_weight(step, "decay", 1000, 0.1, 0.01) == pytest.approx(weight, rel=1e-4)
    assert syntax_weight(step, "constant", 1000, 0.1, 0.01) == 1000
    assert syntax_weight(step, "off", 1000, 0.1, 0.01) == 0


def test_a_ledger_begun_with_another_plan_or_other_data_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.begin(plan_for(), "a")
    ledger.begin(plan_for(), "a")
    for plan, data in ((plan_for(noise_multiplier=0.5), "a"), (plan_for(), "b")):
        with pytest.raises(UserError, match="another plan or other private data"):
            Ledger(tmp_path / "ledger.jsonl").begin(plan, data)


@pytest.mark.parametrize("row", [0, 1, 3])
def test_a_changed_or_removed_ledger_row_is_found(tmp_path: Path, row: int) -> None:
    _, ledger = train(tmp_path)
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(lines[:row] + lines[row + 1 :]))
    with pytest.raises(UserError, match="altered"):
        read_ledger(ledger.path)
    lines[row] = lines[row].replace('"kind"', '"Kind"')
    ledger.path.write_text("".join(lines))
    with pytest.raises(UserError, match=f"row {row + 1}"):
        read_ledger(ledger.path)


def test_a_ledger_line_torn_by_a_crash_is_dropped(tmp_path: Path) -> None:
    _, ledger = train(tmp_path)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"kind": "st')
    assert Ledger(ledger.path).steps == 5
    assert ledger.path.read_bytes() == whole
