"""A step that trains encoder, decoder and adapter is the mechanism that is accounted for.

What is compared is the gradient that the optimizer saw, as in `test_mechanism`.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.data.settings import Latent as Latents
from privcode.errors import UserError
from privcode.models import attach_latent, attach_lora
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training import latent
from privcode.training import learner as learners
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example, collate
from privcode.training.latent import draws
from privcode.training.learner import Learner
from privcode.training.loss import Conditioning, per_example_losses, split_head
from privcode.training.settings import Sanitize, Syntax

CLIP = 4.0  # twice the median of the norms of the parts: some are clipped
SETTINGS = Latents(size=4, prefix=2, kl=0.5, alignment=0.7, contrasted=5)
UNITS = [[2 * i, 2 * i + 1] for i in range(12)]  # the prompt of a record, and its code


def tokens(seed: int, length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(1, 64, (length,), generator=generator).tolist())


def pair(index: int) -> list[Example]:
    prompt, code = 4 + index * 5 % 9, 5 + index * 3 % 14
    whole = tokens(index, prompt + code)
    structure = tuple(i % 3 == 0 for i in range(len(whole)))
    opening = (7,) * (SETTINGS.prefix + 2)
    asked = (*opening, *whole[:prompt])
    written = Example(asked, len(opening), (False,) * len(asked), whole, prompt)
    return [written, Example(whole, prompt, structure)]


EXAMPLES = [example for index in range(12) for example in pair(index)]


def tiny() -> Any:
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
    model = attach_lora(LlamaForCausalLM(config), 4, 8, 0.0)
    attach_latent(model, SETTINGS.size, SETTINGS.prefix)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "decoder" in name:  # zeros at the start, which hide half of it
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def plan_for() -> PrivacyPlan:
    """Everybody takes part, without noise. Units have two pairs, each with half of the clip."""
    return make_plan(
        epsilon=None,
        noise_multiplier=0.0,
        delta=1e-3,
        units=12,
        batch=12,
        steps=1,
        clip_norm=CLIP,
        reproducible_seed=1,
    )


def step(folder: Path, units: Sequence[Sequence[int]], micro_batch: int = 4) -> torch.Tensor:
    """The gradient of one step."""
    folder.mkdir(exist_ok=True)
    ledger, plan = Ledger(folder / "ledger.jsonl"), plan_for()
    ledger.begin(plan, "fingerprint")
    settings = Sanitize(learning_rate=1e-2, micro_batch=micro_batch, syntax=Syntax(lambda_max=2.0))
    checkpoint = folder / "checkpoint.pt"
    learner = Learner(tiny(), 0, 64, latents=SETTINGS, lessons=2)
    sanitize(learner, EXAMPLES, units, plan, settings, ledger, checkpoint)
    state = torch.load(checkpoint, weights_only=True)["optimizer"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]) / 0.1


def losses(model: Any, examples: Sequence[Example], weight: float = 2.0) -> torch.Tensor:
    drawn = draws([e.read for e in examples], 0, SETTINGS.size, SETTINGS.contrasted)
    conditioning = Conditioning(model.latent, drawn, SETTINGS)
    return per_example_losses(model, collate(examples, 0), weight, split_head(model), conditioning)


def plain(model: Any, unit: Sequence[int]) -> torch.Tensor:
    """The gradient of a unit, one example at a time and without a clipper."""
    weights = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(w.numel() for w in weights))
    for index in unit:
        parts = torch.autograd.grad(losses(model, [EXAMPLES[index]]).sum(), weights)
        total += torch.cat([part.flatten() for part in parts])
    return total


def test_the_step_is_the_clipped_sum_of_plain_autograd_over_the_expected_batch(
    tmp_path: Path,
) -> None:
    model, clipped, total = tiny(), 0, torch.zeros(())

    def scaled(gradient: torch.Tensor, most: float) -> torch.Tensor:
        nonlocal clipped
        norm = float(gradient.double().norm())
        clipped += norm > most
        return gradient * min(1.0, most / norm)

    for unit in UNITS:  # the prompt and the code, each by itself, and then together
        parts = [scaled(plain(model, [part]), CLIP / math.sqrt(2)) for part in unit]
        total = total + scaled(torch.stack(parts).sum(0), CLIP)
    assert 0 < clipped < 3 * len(UNITS)
    found = step(tmp_path, UNITS)
    # The margin takes 7.6e-6 of what is clipped.
    assert float((found - total / 12).norm() / (total / 12).norm()) < 2e-5


def test_encoder_decoder_and_adapter_all_have_a_part_in_a_units_gradient() -> None:
    model, at = tiny(), 0
    found = plain(model, UNITS[0])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert float(found[at : at + parameter.numel()].norm()) > 1e-4, name
            at += parameter.numel()


def test_one_unit_less_moves_the_step_by_at_most_the_clip_norm(tmp_path: Path) -> None:
    everybody = step(tmp_path / "all", UNITS, 5)
    for gone in (0, 5, 11):
        without = step(tmp_path / str(gone), [*UNITS[:gone], *UNITS[gone + 1 :]], 5)
        moved = float((everybody - without).double().norm())
        assert 0 < moved < CLIP / 12 * (1 + 1e-4)


def test_an_examples_loss_is_the_same_in_any_company() -> None:
    model = tiny()
    alone = torch.stack([losses(model, [e])[0] for e in EXAMPLES]).detach()
    together = losses(model, EXAMPLES).detach()
    backwards = losses(model, EXAMPLES[::-1]).detach().flip(0)
    assert torch.allclose(together, alone, rtol=1e-5)
    assert torch.allclose(backwards, alone, rtol=1e-5)


def test_an_example_that_reads_no_record_has_the_loss_of_the_model_without_these_parts() -> None:
    model, code = tiny(), EXAMPLES[1::2]
    expected = per_example_losses(model, collate(code, 0), 2.0)
    assert torch.allclose(losses(model, code), expected, rtol=1e-5)


def test_z_is_random_by_step_and_record_and_by_nothing_else() -> None:
    reads = [e.read for e in EXAMPLES[::2]]
    first = draws(reads, 3, 4, 5)
    assert torch.equal(first.own, draws(reads[::-1], 3, 4, 5).own.flip(0))
    assert torch.equal(first.prior, draws(reads[:1], 3, 4, 5).prior)
    assert not torch.equal(first.own, draws(reads, 4, 4, 5).own)
    assert not torch.equal(first.prior, draws(reads, 4, 4, 5).prior)
    many = draws([tokens(i, 5) for i in range(4000)], 0, 4, 4000)
    for numbers in (many.own, many.prior):
        assert abs(float(numbers.mean())) < 0.04  # five standard errors of 16,000 draws
        assert abs(float(numbers.std()) - 1) < 0.03


def test_the_terms_are_those_of_the_page_and_the_contrast_is_bounded() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, spread, prompt = (torch.randn(6, 4, generator=generator) for _ in range(3))
    ours = torch.distributions.Normal(mean, (spread / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    expected = torch.distributions.kl_divergence(ours, prior).sum(-1)
    assert torch.allclose(latent.divergence(mean, spread), expected, atol=1e-5)
    others = torch.randn(5, 4, generator=generator)
    most = 2 / 0.2 + torch.log(torch.tensor(6.0))
    for scale in (0.0, 1e-20, 1.0, 1e20):
        found = latent.alignment(mean * scale, prompt, others, 0.2)
        assert bool((found >= 0).all() & (found <= most).all())
    assert float(latent.alignment(mean, mean, -mean[:1], 0.2)[0]) < 1e-3


def test_the_trial_refuses_an_engine_that_contrasts_records_with_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = latent.alignment
    monkeypatch.setattr(latent, "alignment", lambda code, prompt, _, t: real(code, prompt, code, t))
    learner = Learner(tiny(), 0, 64, latents=SETTINGS)
    with pytest.raises(UserError, match="depends on the others in the batch"):
        learners.try_out(learner, plan_for().clipper(learner.model), 4)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
def test_the_trial_has_records_that_are_read_at_every_length_and_next_to_others(
    monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    batches: list[list[Example]] = []
    real = learners.recorded

    def recorded(learner: Any, head: Any, clipper: Any, examples: Any, *more: Any) -> Any:
        batches.append(examples)
        return real(learner, head, clipper, examples, *more)

    monkeypatch.setattr(learners, "recorded", recorded)
    learner = Learner(tiny(), 0, 64, latents=SETTINGS)
    assert learners.try_out(learner, plan_for().clipper(learner.model), micro_batch)
    assert {len(e.ids) for batch in batches for e in batch if e.read} >= {16, 32, 64}
    reads = [[bool(e.read) for e in batch] for batch in batches]
    neighbours = {frozenset(pair) for row in reads for pair in itertools.pairwise(row)}
    assert (frozenset({True, False}) in neighbours) == (micro_batch > 1)
