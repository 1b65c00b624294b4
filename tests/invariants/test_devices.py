"""A GPU gives the mechanism of the processor: the same draws, the same noise, the same sandbox.

Where there is no GPU, both sides of a comparison are the processor.
"""

from itertools import islice
from typing import Any

import pytest
import torch

from privcode.doctor.engine import clipping, take_steps, tiny
from privcode.execution import Program, execute, sandboxes
from privcode.exercises.corpus import public_documents
from privcode.generation import Sampling
from privcode.generation.local import LocalGenerator
from privcode.models import load_model, load_tokenizer, prompt_tokens
from privcode.privacy import PrivacyPlan, make_plan
from tests.helpers.device import DEVICE
from tools.bundled_models.tokenizer import solve

pytestmark = pytest.mark.gpu
OWNED = [[0], [1, 7], [2], [3], [4], [5, 6]]
BOXES = [found.name for found in sandboxes() if found.available]


def plan(noise: float, batch: int = 3, units: int = 6) -> PrivacyPlan:
    return make_plan(
        epsilon=None,
        noise_multiplier=noise,
        delta=1e-12,
        units=units,
        batch=batch,
        steps=4,
        clip_norm=0.5,
        reproducible_seed=7,
    )


def steps(device: str, chosen: PrivacyPlan) -> list[torch.Tensor]:
    model, examples = tiny(device)
    return take_steps(model, examples, OWNED, chosen)


def test_each_record_by_itself_gives_the_same_update() -> None:
    assert "relative error" in clipping(DEVICE)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_four_steps_are_those_of_the_processor_up_to_rounding(noise: float) -> None:
    for here, there in zip(steps(DEVICE, plan(noise)), steps("cpu", plan(noise)), strict=True):
        assert float((here - there).norm()) < 1e-4 * float(there.norm())


def test_a_step_that_draws_nobody_gives_the_optimizer_the_plans_noise_and_nothing_else() -> None:
    nobody = plan(1.5, batch=2, units=10**10)
    model, examples = tiny(DEVICE)
    clipper = nobody.clipper(model)
    got = take_steps(model, examples, OWNED, nobody)
    for number, gradient in enumerate(got):
        noise = nobody.noise(clipper, number, nobody.randomness())
        assert torch.equal(gradient, (noise / 2).float())


def test_steps_taken_twice_have_the_same_bits() -> None:
    first, second = steps(DEVICE, plan(1.0)), steps(DEVICE, plan(1.0))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_greedy_texts_are_those_of_the_processor_or_part_at_a_near_tie() -> None:
    tokenizer = load_tokenizer("bundled:junior")
    prompts = [solve(pair)[0] for pair in islice(public_documents(3), 16)]
    greedy = Sampling(temperature=0, max_new_tokens=60)
    models: list[Any] = [load_model("bundled:junior").to(device) for device in (DEVICE, "cpu")]
    here, there = (LocalGenerator(m, tokenizer).generate(prompts, greedy) for m in models)
    for prompt, (one,), (other,) in zip(prompts, here, there, strict=True):
        if one != other:
            same = one[: next(i for i in range(len(one)) if one[: i + 1] != other[: i + 1])]
            ids = torch.tensor([prompt_tokens(tokenizer, prompt + same)])
            with torch.no_grad():
                best, second = models[1](input_ids=ids).logits[0, -1].topk(2).values.tolist()
            assert best - second < 1e-2


def test_sampling_leaves_the_random_state_of_every_device() -> None:
    tokenizer, model = load_tokenizer("bundled:junior"), load_model("bundled:junior").to(DEVICE)

    def drawn() -> list[float]:
        return [*torch.rand(2).tolist(), *torch.rand(2, device=DEVICE).tolist()]

    torch.manual_seed(3)
    expected = drawn()
    torch.manual_seed(3)
    LocalGenerator(model, tokenizer).generate(["Question: a"], Sampling(1.0, max_new_tokens=4))
    assert drawn() == expected


OPENS_A_DEVICE = """\
import glob, os
for name in glob.glob("/dev/nvidia*") + ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]:
    try:
        os.open(name, os.O_RDWR)
    except OSError:
        continue
    raise SystemExit(name)
for fd in range(3, 256):
    try:
        found = os.fstat(fd)
    except OSError:
        continue
    ours = os.major(found.st_rdev) in (0, 1, 5, 136)  # files, /dev/null and its like, terminals
    assert ours, f"device {os.major(found.st_rdev)} is open"
"""


@pytest.mark.skipif(not BOXES, reason="no sandbox works on this machine")
@pytest.mark.parametrize("box", BOXES)
def test_a_process_that_uses_the_device_runs_programs_that_cannot_open_it(box: str) -> None:
    assert float(torch.ones(2, device=DEVICE).sum()) == 2
    programs = [Program("right", "print(6 * 7)"), Program("device", OPENS_A_DEVICE)]
    done = list(execute(programs, sandbox=box, workers=1))
    assert [(o.status, o.stderr[-300:]) for o in done] == [("ok", ""), ("ok", "")]
    assert float(torch.ones(3, device=DEVICE).sum()) == 3
