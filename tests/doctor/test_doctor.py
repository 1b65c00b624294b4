"""Each check of `privcode doctor` passes on a sound machine and fails on a broken part."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from privcode import cli, doctor, execution, models
from privcode.doctor import Check, checks, engine, evidence, line, report
from privcode.doctor.faults import FAULTS
from privcode.errors import UserError
from privcode.execution import Outcome, Program, Status, sandboxes
from privcode.privacy import accounting, plan
from privcode.privacy.accounting import Cost
from privcode.privacy.clipping import Clipper
from privcode.privacy.noise import gaussian
from privcode.privacy.sampling import poisson_sample
from privcode.release import verify
from privcode.training import loss
from tests.helpers.sandboxed import sandboxed


def run(test: Callable[[], str]) -> Check:
    return doctor._check("it", True, test)


def clipping() -> Check:
    return run(lambda: engine.clipping("cpu"))


@sandboxed
def test_a_sound_machine_passes_every_required_check_with_the_global_generator_untouched() -> None:
    state = torch.random.get_rng_state()
    done = list(checks())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [check for check in done if check.required and not check.ok] == []
    assert {check.name for check in done if check.required} >= {
        *("machine", "clipping on cpu", "syntax term", "noise", "sampling", "accountants"),
        *("ledger", "resumed runs", "verify", "planted faults", "sandbox: auto"),
        "post-processing",
        *("grammars", "bundled:junior", "bundled:premium"),
    }
    facts = report(done)
    assert facts["ok"] is True
    assert json.loads(json.dumps(facts))["checks"][0]["name"] == "machine"
    assert all("\n" not in line(check) for check in done)


def test_only_required_checks_decide() -> None:
    fine, absent, broken = (
        Check("a", True, "", True),
        Check("b", False, "not installed", False),
        Check("c", False, "wrong", True),
    )
    assert report([fine, absent])["ok"] is True
    assert report([fine, absent, broken])["ok"] is False
    assert [line(check)[:4] for check in (fine, absent, broken)] == ["ok  ", "-   ", "FAIL"]


def test_a_check_that_breaks_is_a_failed_check_in_one_line() -> None:
    def breaks() -> str:
        raise ZeroDivisionError("first\n  second")

    assert run(breaks) == Check("it", False, "ZeroDivisionError: first second", True)


def no_clipping(clipper: Clipper, units: torch.Tensor) -> None:
    assert clipper._rows is not None
    clipper._sum += clipper._rows.sum(0)


def per_record(clipper: Clipper, units: torch.Tensor) -> None:
    accumulate(clipper, torch.arange(len(units)))


def slightly_too_large(clipper: Clipper, units: torch.Tensor) -> None:
    accumulate(clipper, units)
    clipper._sum *= 1.001


def last_record_lost(clipper: Clipper, units: torch.Tensor) -> None:
    assert clipper._rows is not None
    clipper._rows[-1] = 0
    accumulate(clipper, units)


def half_of_the_adapters_lost(clipper: Clipper, units: torch.Tensor) -> None:
    assert clipper._rows is not None
    for name, module, offset in clipper._layers:
        if "lora_A" in name:
            clipper._rows[:, offset : offset + module.weight.numel()] = 0
    accumulate(clipper, units)


accumulate = Clipper.accumulate


@pytest.mark.parametrize(
    "broken",
    [no_clipping, per_record, slightly_too_large, last_record_lost, half_of_the_adapters_lost],
)
def test_a_wrong_clipped_sum_is_seen(
    broken: Callable[[Clipper, torch.Tensor], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clipping().ok
    monkeypatch.setattr(Clipper, "accumulate", broken)
    check = clipping()
    assert not check.ok
    assert "relative error" in check.detail


@pytest.mark.parametrize("term", [3, 6], ids=["cross-entropy", "KL"])
def test_a_term_of_the_loss_that_depends_on_the_rest_of_the_batch_is_seen(
    term: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loss._TokenLosses.apply

    class Coupled:
        @staticmethod
        def apply(*arguments: Any) -> Any:
            shares = list(arguments)  # of each token in its example's loss
            shares[term] = shares[term] * len(arguments[2]) / 10
            return real(*shares)

    monkeypatch.setattr(loss, "_TokenLosses", Coupled)
    check = clipping()
    assert not check.ok
    assert "depends on the others in the batch" in check.detail


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda n, s, stream: gaussian(n, 0.95 * s, stream), "moment 2"),
        (lambda n, s, stream: gaussian(n, 1.05 * s, stream), "moment 2"),
        (lambda n, s, stream: gaussian(n, s, stream) + 0.02 * s, "moment 1"),
        (lambda n, s, stream: (torch.rand(n) - 0.5) * 12**0.5 * s, "moment 4"),
        (lambda n, s, stream: gaussian(n, s, stream).clamp(-2.5 * s, 2.5 * s), "moment 4"),
        (lambda n, s, stream: torch.full((n,), s) * torch.randn(n).sign(), "moment 4"),
        (lambda n, s, stream: torch.zeros(n), "came twice"),
        (lambda n, s, stream: gaussian(n, s, np.random.default_rng(0).bytes), "came twice"),
        (lambda n, s, stream: torch.full((n,), float("nan")), "moment 1"),
    ],
)
def test_wrong_noise_is_seen(draw: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(engine.noise).ok
    monkeypatch.setattr(plan, "gaussian", draw)
    check = run(engine.noise)
    assert not check.ok
    assert said in check.detail


@pytest.mark.parametrize("factor", ["noise_multiplier", "clip_norm"])
def test_noise_that_forgets_the_noise_multiplier_or_the_clip_norm_is_seen(
    factor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plan.PrivacyPlan.noise

    def forgetful(self: Any, *arguments: Any) -> torch.Tensor:
        return real(self, *arguments) / float(getattr(self, factor))

    monkeypatch.setattr(plan.PrivacyPlan, "noise", forgetful)
    assert not run(engine.noise).ok


@pytest.mark.parametrize(
    "draw",
    [
        lambda units, rate, stream: poisson_sample(units, 0.9 * rate, stream),
        lambda units, rate, stream: poisson_sample(units, 1.1 * rate, stream),
        lambda units, rate, stream: np.arange(int(units * rate)),  # always the same number
        lambda units, rate, stream: poisson_sample(units, rate, stream)[:25],  # a quarter above
    ],
)
def test_wrong_sampling_is_seen(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(engine.sampling).ok
    monkeypatch.setattr(plan, "poisson_sample", draw)
    assert not run(engine.sampling).ok


def test_wrong_accounting_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = accounting.calibrate_noise_multiplier
    monkeypatch.setattr(plan, "calibrate_noise_multiplier", lambda *a: real(*a) * 0.98)
    assert "install dp-accounting" in run(doctor._accountants).detail
    monkeypatch.setattr(plan, "calibrate_noise_multiplier", real)
    for cost in (Cost(4.1, 5.0), Cost(3.9, 5.0), Cost(3.99, 3.9)):
        monkeypatch.setattr(plan, "spend", lambda *a, cost=cost: cost)
        assert not run(doctor._accountants).ok
    monkeypatch.setattr(plan, "spend", lambda *a: Cost(3.99, 5.0))
    assert run(doctor._accountants).ok


def test_a_ledger_that_is_read_whatever_it_holds_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(path: Path) -> list[dict[str, Any]]:
        return [json.loads(row) for row in path.read_text().splitlines()]

    assert run(evidence.ledger).ok
    monkeypatch.setattr(evidence, "read_ledger", trusting)
    assert "a changed row was not noticed" in run(evidence.ledger).detail


@pytest.mark.parametrize("part", ["_check_files", "_check_statement", "_check_words"])
def test_a_verify_that_does_not_look_is_seen(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(evidence.verify).ok
    monkeypatch.setattr(verify, part, lambda *_: None)
    assert "missed" in run(evidence.verify).detail


def test_a_resumed_run_that_forgets_steps_is_seen() -> None:
    assert run(evidence.resumed).ok
    with FAULTS["a resumed run forgets steps"]():
        assert "6 noised steps were taken and 5 counted" in run(evidence.resumed).detail


@pytest.mark.parametrize("fault", ["no noise", "noise from a seeded generator"])
def test_the_audit_passes_unless_more_leaks_than_is_claimed(fault: str) -> None:
    with FAULTS[fault]():  # the second has the right scale: an attack without the seed sees nothing
        assert run(evidence.audit).ok is (fault != "no noise")


def test_checks_that_see_no_fault_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(evidence.planted).ok
    monkeypatch.setitem(evidence._SEEN_BY, "σ halved", lambda: "fine")
    assert "σ halved: planted and not noticed" in run(evidence.planted).detail


def test_the_sandboxes_tried_are_all_there_are() -> None:
    assert (*(found.name for found in sandboxes()), "auto") == doctor._SANDBOXES


@sandboxed
@pytest.mark.parametrize("leak", ["reads", "writes", "connects"])
def test_a_sandbox_that_lets_one_thing_through_is_seen(
    leak: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack, bare of any sandbox, without its other two thirds."""

    def bare(programs: list[Program], **_: object) -> Iterator[Outcome]:
        lines = programs[0].code.splitlines()
        if leak != "writes":
            lines = lines[: lines.index("try:", 4)]
        kept = [x for x in lines if not x.startswith("refused(") or leak in x]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(kept)], capture_output=True, text=True, check=False
        )
        status: Status = "error" if done.returncode else "ok"
        yield Outcome("doctor", status, done.returncode, 0.0, "", done.stderr, "")

    assert run(lambda: doctor._confines("auto")).ok
    monkeypatch.setattr(execution, "execute", bare)
    check = run(lambda: doctor._confines("auto"))
    assert not check.ok
    assert f"does not hold a program ({leak})" in check.detail


def test_a_sandbox_that_is_not_there_is_a_failed_check_with_the_reason() -> None:
    check = run(lambda: doctor._confines("jail"))
    assert not check.ok
    assert "none called 'jail'" in check.detail


def test_a_grammar_that_cannot_read_its_language_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor._SNIPPETS, "rust", "fn (")
    assert "cannot read rust;" in run(doctor._grammars).detail


def test_a_bundled_model_that_is_gone_is_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.loading, "_ASSETS", tmp_path)
    check = run(lambda: doctor._generates("bundled:junior"))
    assert not check.ok
    assert "bundled:junior" in check.detail


def test_an_optional_package_is_found_with_its_version_or_said_to_be_absent() -> None:
    found = run(lambda: doctor._installed("pytest", "testing"))
    assert (found.ok, found.detail) == (True, f"{pytest.__version__} (testing)")
    absent = run(lambda: doctor._installed("no_such_package", "nothing"))
    assert (absent.ok, absent.detail) == (False, "not installed (nothing)")


def model_checks(*arguments: Any) -> list[Check]:
    from privcode.doctor.model import model_checks

    return list(model_checks(*arguments))


@pytest.mark.parametrize(
    ("dtype", "way"),
    [("float32", "with up to 4 others"), ("bfloat16", "always filled up to 4 rows")],
)
def test_a_model_that_can_be_clipped_is_said_to_be_with_its_positions_and_its_grouping(
    dtype: str, way: str
) -> None:
    weights, layers, records = model_checks("bundled:junior", dtype, 4, 48)
    assert all(check.ok and check.required for check in (weights, layers, records))
    assert f"in {dtype}, all there and finite" in weights.detail
    assert "rotary positions: default" in weights.detail
    assert "up to 48 tokens gives the same bits in any company" in records.detail
    assert way in records.detail


def test_a_model_that_cannot_be_clipped_is_said_so_by_the_first_check_that_fails(
    tmp_path: Path,
) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=32,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    *_, records = model_checks(str(tmp_path), "float32", 4, 64)
    assert not records.ok
    assert "type dynamic" in records.detail
    assert all(check.ok for check in model_checks(str(tmp_path), "float32", 4, 32))
    (weights,) = model_checks(str(tmp_path / "nowhere"), "float32", 4, 64)
    assert not weights.ok
    assert "cannot be loaded" in weights.detail


def test_a_model_is_tried_with_a_vector_of_each_record_on_request(tmp_path: Path) -> None:
    from privcode.data.settings import Latent

    _, plain, _ = model_checks("bundled:junior", "float32", 4, 48)
    _, layers, records = model_checks("bundled:junior", "float32", 4, 48, Latent())
    assert records.ok
    assert layers.detail != plain.detail  # the encoder and the decoder are trained, too
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=30.0,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    assert all(check.ok for check in model_checks(str(tmp_path), "float32", 2, 16))
    *_, records = model_checks(str(tmp_path), "float32", 2, 16, Latent())
    assert not records.ok
    assert "source: synthesised" in records.detail


def test_doctor_of_a_model_exits_0_1_and_2() -> None:
    app = CliRunner()
    fine = ["doctor", "--model", "bundled:junior", "--max-tokens", "32", "--json"]
    done = app.invoke(cli.app, fine)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["ok"] is True
    assert app.invoke(cli.app, ["doctor", "--model", "no/such"]).exit_code == 1
    with pytest.raises(UserError, match="--dtype float8"):
        app.invoke(cli.app, [*fine, "--dtype", "float8"], catch_exceptions=False)
