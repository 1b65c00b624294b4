"""Two processes take the steps that one would: one draw, one noise, one ledger.

Under torchrun this file is also the script that the ranks run (see `work`).
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.distributed import (
    alone,
    everywhere,
    first_to_tell,
    from_first,
    in_turn,
    is_lost,
    least,
    rank,
    start,
    sum_,
    world,
)
from privcode.errors import UserError
from privcode.privacy.ledger import Ledger, read_ledger
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.dp_sgd import micro_batches, sanitize
from privcode.training.examples import Example
from privcode.training.gradient_canaries import GradientCanaries
from privcode.training.learner import Learner, try_out
from privcode.training.settings import Sanitize, Syntax
from tests.helpers.launched import torchrun

CLIP, BATCH, STEPS = 0.5, 12, 5
UNITS = [[i] for i in range(40)] + [[i, i + 1, i + 2] for i in range(40, 58, 3)]
SEEDED: dict[str, Any] = {"reproducible_seed": 1}
NOBODY: dict[str, Any] = {"units": 10**7, "batch": 1, "delta": 1e-8, "steps": 1}
SCENARIOS: dict[str, dict[str, Any]] = {
    "seeded": SEEDED,
    "nearly without noise": SEEDED | {"noise_multiplier": 1e-4},
    "seeded, nobody drawn": SEEDED | NOBODY,
    "nobody drawn": NOBODY | {"noise_multiplier": 3.0},
    "cryptographic": {},
    "seeded, with canaries": SEEDED,
}


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(2)
    made = []
    for index in range(58):
        length = 6 + index * 7 % 19
        ids = torch.randint(1, 64, (length,), generator=generator).tolist()
        made.append(Example(tuple(ids), 2, tuple(i > 1 and i % 2 == 0 for i in range(length))))
    return made


def plan_for(scenario: str) -> PrivacyPlan:
    settings: dict[str, Any] = {
        "epsilon": None,
        "noise_multiplier": 1.0,
        "delta": 1e-3,
        "units": len(UNITS),
        "batch": BATCH,
        "steps": STEPS,
        "clip_norm": CLIP,
        "owner_column": "owner",
        "max_records_per_unit": 3,
    }
    return make_plan(**(settings | SCENARIOS[scenario]))


def tiny(seed: int = 0) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    base = LlamaForCausalLM(config)
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def work(scenario: str, folder: Path, die_at: int | None = None, unlike: str = "") -> None:
    """What `Run.sanitize` does, on every rank; leaves each rank's adapter in `folder`.

    `unlike`: what the second rank has another of, "data" or "model".
    """
    plan = plan_for(scenario)
    folder.mkdir(exist_ok=True)
    start()

    def begun() -> Ledger:
        ledger = Ledger(folder / "ledger.jsonl")
        ledger.begin(plan, "fingerprint")
        return ledger

    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        if done == die_at and rank() == world() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    model = tiny()
    if unlike == "model" and rank():
        with torch.no_grad():  # in its last bits, as another kind of processor would have it
            model.get_base_model().lm_head.weight.mul_(1 + 2.0**-22)
    data = examples()[::-1] if unlike == "data" and rank() else examples()
    settings = Sanitize(
        learning_rate=1e-2, checkpoint_every=2, micro_batch=4, syntax=Syntax(lambda_max=1.0)
    )
    checkpoint = folder / "checkpoint.pt"
    trained = [p for p in model.parameters() if p.requires_grad]
    canaries = None
    if scenario.endswith("canaries"):
        canaries = GradientCanaries(plan, sum(p.numel() for p in trained), 200, 0)
    learner, ledger = Learner(model, 0, 256), from_first(begun)
    learner = replace(learner, grouping=try_out(learner, plan.clipper(model), 4))
    with torch.no_grad():  # the ranks start unlike: the first one's adapter must win
        for parameter, other in zip(
            model.parameters(), tiny(seed=rank()).parameters(), strict=True
        ):
            if parameter.requires_grad:
                parameter.copy_(other)
    curve = sanitize(learner, data, UNITS, plan, settings, ledger, checkpoint, progress, canaries)
    adapter = torch.cat([p.detach().flatten() for p in trained])
    if canaries is not None:
        torch.save(canaries.scores, folder / f"scores-{rank()}.pt")
    torch.save((adapter, curve), folder / f"rank-{rank()}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every scenario by one process (folder one/) and by two (folder two/)."""
    root = tmp_path_factory.mktemp("ranks")
    for name in ("one", "two"):
        (root / name).mkdir()
    for scenario in SCENARIOS:
        work(scenario, root / "one" / scenario)
    done = torchrun(2, __file__, "all", root / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def result(folder: Path, rank: int = 0) -> tuple[torch.Tensor, list[dict[str, float]]]:
    adapter, curve = torch.load(folder / f"rank-{rank}.pt", weights_only=True)
    return adapter, curve


def gradient(folder: Path) -> torch.Tensor:
    """What the optimizer saw in a run of one step: Adam's first moment is a tenth of it."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["optimizer"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]) / 0.1


@pytest.mark.slow
def test_two_processes_see_each_canary_as_one_does(both: Path) -> None:
    one, first, second = (
        torch.load(both / name / "seeded, with canaries" / f"scores-{rank}.pt", weights_only=True)
        for name, rank in (("one", 0), ("two", 0), ("two", 1))
    )
    assert torch.equal(first, second)
    assert torch.allclose(one, first, atol=1e-4)
    assert float(one.std()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["seeded", "nearly without noise", "seeded, with canaries"])
def test_two_processes_end_where_one_ends(both: Path, scenario: str) -> None:
    one, curve = result(both / "one" / scenario)
    two, shared_curve = result(both / "two" / scenario)
    assert float((two - one).double().norm() / one.double().norm()) < 1e-5
    assert [row["records"] for row in shared_curve] == [row["records"] for row in curve]
    losses = [row["loss"] for row in curve]
    assert [row["loss"] for row in shared_curve] == pytest.approx(losses, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_ranks_see_the_same_draws_and_hold_the_same_adapter(both: Path, scenario: str) -> None:
    first, second = (result(both / "two" / scenario, rank) for rank in (0, 1))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_ledger_of_two_processes_is_that_of_one(both: Path, scenario: str) -> None:
    one, two = (read_ledger(both / n / scenario / "ledger.jsonl") for n in ("one", "two"))
    assert two == one
    assert len(two) == 1 + plan_for(scenario).steps


@pytest.mark.slow
def test_where_nobody_is_drawn_the_update_of_two_processes_is_the_noise_of_one(both: Path) -> None:
    scenario = "seeded, nobody drawn"
    assert result(both / "two" / scenario)[1][0]["records"] == 0
    assert torch.equal(gradient(both / "two" / scenario), gradient(both / "one" / scenario))
    assert torch.equal(result(both / "two" / scenario)[0], result(both / "one" / scenario)[0])


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["one", "two"])
def test_cryptographic_noise_has_the_plans_variance_however_many_ranks(
    both: Path, processes: str
) -> None:
    noise = gradient(both / processes / "nobody drawn").double()  # the expected batch is 1
    error = (2 / len(noise)) ** 0.5
    ratio = float(noise.square().mean()) / (3.0 * CLIP) ** 2
    assert abs(ratio - 1) < 5 * error < 0.25  # so that twice and half the variance would fail


@pytest.mark.slow
def test_a_rank_killed_in_a_step_is_counted_and_resumed_bit_for_bit(
    both: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    assert torchrun(2, __file__, "seeded", folder, "--die-at", "3").returncode != 0
    assert not (folder / "rank-0.pt").exists()
    assert len(read_ledger(folder / "ledger.jsonl")) >= 1 + 3
    done = torchrun(2, __file__, "seeded", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = both / "two" / "seeded"
    assert torch.equal(result(folder, 1)[0], result(whole)[0])
    assert (folder / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()


@pytest.mark.slow
def test_ranks_with_different_data_are_refused_before_anything_is_spent(tmp_path: Path) -> None:
    done = torchrun(2, __file__, "seeded", tmp_path / "unlike", "--unlike", "data")
    assert done.returncode != 0
    assert done.stderr.count("UserError: the ranks do not hold the same data") == 2
    assert len(read_ledger(tmp_path / "unlike" / "ledger.jsonl")) == 1


@pytest.mark.slow
def test_ranks_that_give_a_record_unlike_bits_are_refused(tmp_path: Path) -> None:
    """One unit more or less moves the others to other ranks."""
    done = torchrun(2, __file__, "seeded", tmp_path / "unlike", "--unlike", "model")
    assert done.returncode != 0
    assert done.stderr.count("UserError: the ranks give a record unlike gradients") == 2
    assert len(read_ledger(tmp_path / "unlike" / "ledger.jsonl")) == 1


@pytest.mark.slow
def test_an_error_of_the_first_rank_is_raised_on_every_rank(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.jsonl").write_text("{}\n")
    done = torchrun(2, __file__, "seeded", tmp_path / "broken")
    assert done.returncode != 0
    assert done.stderr.count("UserError: ") == 2
    assert done.stderr.count("row 1: was altered") == 2


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_ranks_share_the_drawn_units_evenly_and_none_is_taken_twice(ranks: int) -> None:
    sizes = [len(e.ids) for e in examples()]
    shares = [
        [unit for group in micro_batches(UNITS, sizes, 4, r, ranks) for unit in group]
        for r in range(ranks)
    ]
    assert sorted(unit for share in shares for unit in share) == list(range(len(UNITS)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_in_one_process_everything_is_its_own() -> None:
    start()
    assert (rank(), world()) == (0, 1)
    value = object()
    assert from_first(lambda: value) is value
    assert in_turn(lambda: value) is value
    assert (everywhere(True), everywhere(False), least(3)) == (True, False, 3)
    assert first_to_tell()
    assert not is_lost(RuntimeError("gloo: connection closed"))  # there is no other
    tensor = torch.ones(2)
    assert sum_(tensor) is tensor
    assert torch.equal(tensor, torch.ones(2))
    alone("privcode synthesize")


def test_a_launcher_that_is_not_one_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"RANK: is not set.*torchrun"):
        start()
    with pytest.raises(UserError, match=r"privcode synthesize: runs in one process"):
        alone("privcode synthesize")


if __name__ == "__main__":
    which, where, *options = sys.argv[1:]
    chosen = dict(zip(options[::2], options[1::2], strict=True))
    if which == "all":
        for each in SCENARIOS:
            work(each, Path(where) / each)
    else:
        die = int(chosen["--die-at"]) if "--die-at" in chosen else None
        work(which, Path(where), die, chosen.get("--unlike", ""))
