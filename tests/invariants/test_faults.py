"""The tests see faults: each one planted in the engine turns the test that guards it red.

Run as a script, it prints the table of docs/evidence/faults.md; under torchrun, it is a rank with a
fault.
"""

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import binom

from privcode.doctor.faults import FAULTS
from privcode.privacy import PrivacyPlan, Spent, make_plan, spend
from tests.helpers.launched import torchrun

ROOT = Path(__file__).parents[2]
SOUND = "sound"
MECHANISM = "tests/invariants/test_mechanism.py::"
NOISE = "tests/invariants/test_noise.py::"
LATENT = "tests/invariants/test_latent.py::"
PROCESSES = "tests/invariants/test_processes.py::"
SAMPLING = "tests/privacy/test_sampling_and_noise.py::"
COMPANY = (
    "tests/training/test_independence.py::"
    "test_a_longer_unit_does_not_change_the_longrope_positions_of_the_others"
)
SANITIZE = "tests/training/test_dp_sgd.py::"

LOOP = MECHANISM + "test_the_step_is_the_clipped_sum_of_plain_autograd_over_the_expected_batch"
MOVED = (
    MECHANISM + "test_one_unit_less_moves_the_step_by_at_most_the_clip_norm_over_the_expected_batch"
)
SCALE = NOISE + "test_every_layer_gets_noise_at_sigma_and_five_percent_off_would_be_seen"
RANKS = PROCESSES + "test_cryptographic_noise_has_the_plans_variance_however_many_ranks"
DRAWN = SAMPLING + "test_the_plan_draws_each_unit_whoever_else_and_whenever_it_was_drawn"


@cache
def example() -> PrivacyPlan:
    """The plan whose ε the table is about, at ε 4."""
    return make_plan(epsilon=4, delta=6.25e-6, units=16_000, batch=256, steps=80, clip_norm=0.3)


def moving(clips: float) -> Callable[[], float]:
    """ε at the example plan where one unit moves the sum by `clips` clip norms instead of one."""

    def epsilon() -> float:
        plan = example()
        noise = plan.noise_multiplier / clips
        return spend((Spent(plan.sampling_rate, noise, plan.steps),), plan.delta).epsilon

    return epsilon


def taking(steps: int, rate: float | None = None) -> Callable[[], float]:
    """ε where a unit may take part in `steps` steps, each with probability `rate`."""

    def epsilon() -> float:
        plan = example()
        spent = Spent(rate or plan.sampling_rate, plan.noise_multiplier, steps)
        return spend((spent,), plan.delta).epsilon

    return epsilon


def chunks(count: int) -> Callable[[], float]:
    """ε of a record that is `count` units, each drawn by itself and clipped by itself."""

    def epsilon() -> float:
        plan = example()
        among = range(count + 1)
        event = dp_accounting.SelfComposedDpEvent(
            MixtureOfGaussiansDpEvent(
                plan.noise_multiplier,
                list(map(float, among)),
                [float(binom.pmf(k, count, plan.sampling_rate)) for k in among],
            ),
            plan.steps,
        )
        accountant = PLDAccountant(value_discretization_interval=1e-3).compose(event)
        return float(accountant.get_epsilon(plan.delta))

    return epsilon


def never() -> float:
    """No ε bounds it."""
    return math.inf


@dataclass(frozen=True)
class Caught:
    """What a fault does to the guarantee, and the test that turns red.

    Attributes:
        by: the test.
        harm: in words.
        epsilon: at the example plan, which promises 4; None where the promise still holds.
        given: arguments of the test.
        ranks: the test looks at what two processes left.
    """

    by: str
    harm: str
    epsilon: Callable[[], float] | None
    given: dict[str, Any] = field(default_factory=dict)
    ranks: bool = False


FP32 = {"dtype": None, "seed": None}
CAUGHT = {
    "no noise": Caught(SCALE, "the sum is published as it is", never, FP32),
    "σ halved": Caught(SCALE, "half the noise that is accounted for", moving(2), FP32),
    "noise divided by the ranks": Caught(
        RANKS,
        "with eight ranks, an eighth of the noise (one draw) that is accounted for",
        moving(8),
        {"processes": "two"},
        ranks=True,
    ),
    "same noise on two ranks": Caught(
        RANKS,
        "the ranks' seed is in the code, so anybody can subtract the noise; and shares that were "
        "to be independent add up to another variance",
        never,
        {"processes": "two"},
        ranks=True,
    ),
    "same noise in every layer": Caught(
        NOISE + "test_the_noise_of_layers_and_steps_is_uncorrelated",
        "the difference of two layers holds no noise",
        never,
        {"seed": None},
    ),
    "noise from a seeded generator": Caught(
        NOISE + "test_by_default_eight_bytes_a_number_are_taken_from_the_operating_system",
        "who knows or guesses the state subtracts the noise",
        never,
    ),
    "uniform noise": Caught(
        NOISE + "test_every_layers_noise_is_normal_by_kolmogorov_and_smirnov",
        "bounded: a value outside its range tells the record for sure",
        never,
        {"dtype": None},
    ),
    "noise in the model's bf16": Caught(
        NOISE + "test_noise_keeps_its_precision_whatever_the_models_dtype",
        "the sum's low bits stand beside noise that has none there",
        never,
        {"dtype": None},
    ),
    "clip per micro-batch": Caught(
        LOOP,
        "a unit turns its micro-batch's sum around, and regroups the others: up to 2 clip norms "
        "in each of eight micro-batches",
        moving(16),
    ),
    "clip per layer": Caught(
        LOOP, "√56 clip norms, for the 56 trained layers of the demo's junior", moving(56**0.5)
    ),
    "KL term outside the clip": Caught(
        MOVED, "the term's gradient has no bound", never, {"syntax": 1000.0, "dropout": 0.0}
    ),
    "loss averaged over the batch": Caught(
        LOOP,
        "a unit changes the others' share as well: 2 clip norms at the least",
        moving(2),
    ),
    "last micro-batch only": Caught(
        MOVED,
        "one unit more pushes a whole micro-batch of 32 out of the sum",
        moving(33),
        {"syntax": 0.0, "dropout": 0.0},
    ),
    "NaN made zero after the noise": Caught(
        MECHANISM + "test_an_example_that_is_not_finite_contributes_exactly_nothing",
        "a record that overflows leaves zeros without noise",
        never,
        {"micro_batch": 1},
    ),
    "shuffling instead of Poisson": Caught(
        DRAWN,
        "80 steps are 1.3 epochs: a unit is surely in, up to twice, and nothing is amplified",
        taking(2, rate=1.0),
        {"seed": None},
    ),
    "Poisson batches capped": Caught(
        DRAWN,
        "a unit more pushes another one out; batches of 128 capped at 160 moved ε from 4.0 to 10.4",
        None,
        {"seed": None},
    ),
    "real batch size in the denominator": Caught(
        MECHANISM + "test_the_divisor_is_the_expected_batch_whoever_took_part",
        "the noise's own scale tells how many were drawn (with 18.5 M parameters to 1 in 6,000), "
        "which no accountant here charges",
        None,
    ),
    "a record cut into chunks": Caught(
        "tests/invariants/test_records.py::"
        "test_a_step_with_everybody_takes_as_many_examples_as_there_are_records",
        "a record of four chunks is protected as a group of four",
        chunks(4),
    ),
    "teacher gradients leaking": Caught(
        SANITIZE + "test_the_syntax_terms_gradient_is_that_of_a_teacher_that_stands_still",
        "none to the guarantee: still inside the clip; but the term no longer holds the syntax",
        None,
    ),
    "dropout left on": Caught(
        MOVED,
        "a unit more gives the others of its batch other masks: of 64 at dropout 0.05 it moved the "
        "sum by 2.8 clip norms",
        moving(2.75),
        {"syntax": 0.0, "dropout": 0.1},
    ),
    "padded to the longest of the batch": Caught(
        COMPANY,
        "with rotary positions that follow the longest record, one unit more changed what the "
        "others give: by 7.8 and 10.3 clip norms at a micro-batch of 80",
        moving(10.3),
        {"micro_batch": 80},
    ),
    "experts serve who comes first": Caught(
        MOVED,
        "one unit more takes the others' places with the experts: it moved the sum of 24 by 5 clip "
        "norms",
        moving(5),
        {"syntax": 0.0, "dropout": 0.0},
    ),
    "records contrasted with each other": Caught(
        LATENT + "test_the_step_is_the_clipped_sum_of_plain_autograd_over_the_expected_batch",
        "a unit changes the loss of all others in its batch, and so what each of 32 gives: up to "
        "2 clip norms each",
        moving(63),
    ),
    "divergence of the batch's mean": Caught(
        LATENT + "test_the_step_is_the_clipped_sum_of_plain_autograd_over_the_expected_batch",
        "a unit changes the mean that all others are moved by: up to 2 clip norms each",
        moving(63),
    ),
    "encoder outside the clip": Caught(
        LATENT + "test_one_unit_less_moves_the_step_by_at_most_the_clip_norm",
        "the encoder's gradient has no bound",
        never,
    ),
    "a resumed run forgets steps": Caught(
        SANITIZE + "test_every_noise_drawn_over_all_resumptions_has_its_own_ledger_line",
        "killed before each of its eight checkpoints, the run takes 152 steps and counts 80",
        taking(152),
    ),
    "δ larger than 1/N": Caught(
        "tests/privacy/test_accounting.py::test_nonsense_is_refused_by_field",
        "at δ = 1/1000, publishing sixteen of the 16,000 records whole would be allowed",
        None,
        {"field": "delta", "value": 0.002},
    ),
}


@cache
def module(path: str) -> Any:
    """A test file, by its path: test files are not a package."""
    spec = importlib.util.spec_from_file_location(f"guard_{Path(path).stem}", ROOT / path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def run_check(caught: Caught, folder: Path, fault: str = SOUND) -> None:
    """The test function that guards against a fault, as pytest would call it."""
    path, _, name = caught.by.partition("::")
    check = getattr(module(path), name)
    given = dict(caught.given)
    if "dtype" in given:
        given["dtype"] = module(path).DTYPES[1]  # bf16, where there is more to go wrong
    wanted = inspect.signature(check).parameters
    with pytest.MonkeyPatch.context() as patch:
        offered = {"tmp_path": folder, "monkeypatch": patch}
        given |= {key: value for key, value in offered.items() if key in wanted}
        if caught.ranks:
            two_ranks(folder / "two", fault)
            given["both"] = folder
        check(**given)


def two_ranks(folder: Path, fault: str) -> None:
    """A run in which nobody is drawn, by two processes with the fault."""
    folder.mkdir()
    done = torchrun(2, __file__, fault, folder / "nobody drawn")
    assert done.returncode == 0, done.stderr[-3000:]


@contextmanager
def seen() -> Iterator[None]:
    """A test's own assertion fails; an error on the way there would prove nothing."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        yield


def parameters() -> list[Any]:
    return [
        pytest.param(name, marks=[pytest.mark.slow] if caught.ranks else [])
        for name, caught in CAUGHT.items()
    ]


@pytest.mark.parametrize("fault", parameters())
def test_the_named_test_passes_on_the_engine_and_fails_on_the_fault(
    fault: str, tmp_path: Path
) -> None:
    caught = CAUGHT[fault]
    for name in ("sound", "planted"):
        (tmp_path / name).mkdir()
    run_check(caught, tmp_path / "sound")
    with FAULTS[fault](), seen():
        run_check(caught, tmp_path / "planted", fault)
    (tmp_path / "again").mkdir()
    if not caught.ranks:
        run_check(caught, tmp_path / "again")  # the fault is gone


def test_every_fault_that_can_be_planted_is_caught_by_a_named_test() -> None:
    assert list(CAUGHT) == list(FAULTS)
    for caught in CAUGHT.values():
        path, _, name = caught.by.partition("::")
        assert name in (ROOT / path).read_text()


def row(fault: str, epsilon: str) -> str:
    caught = CAUGHT[fault]
    path, _, name = caught.by.partition("::")
    return f"| {fault} | {caught.harm} | {epsilon} | `{path}` {name.replace('_', ' ')} |"


def figure(fault: str) -> str:
    epsilon = CAUGHT[fault].epsilon
    if epsilon is None:
        return "–"
    value = epsilon()
    return "∞" if math.isinf(value) else f"{value:.1f}"


DOCUMENT = ROOT / "docs" / "evidence" / "faults.md"


def test_the_table_in_the_docs_lists_these_faults_and_what_catches_them() -> None:
    written = [x for x in DOCUMENT.read_text().splitlines() if x.startswith("| ")][1:]
    assert [x.split(" | ")[0].removeprefix("| ") for x in written] == list(CAUGHT)
    for line, fault in zip(written, CAUGHT, strict=True):
        assert line == row(fault, line.split(" | ")[2])


@pytest.mark.slow
def test_the_figures_in_the_docs_are_these() -> None:
    text = DOCUMENT.read_text()
    assert [f for f in CAUGHT if row(f, figure(f)) not in text] == []


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("| fault | what it does | ε, promised 4 | caught by |\n|---|---|---|---|")
        for each in CAUGHT:
            print(row(each, figure(each)))
    else:
        which, where = sys.argv[1:]
        with nullcontext() if which == SOUND else FAULTS[which]():
            module(PROCESSES.removesuffix("::")).work("nobody drawn", Path(where))
