"""Every family's layers can be divided over processes, here one, and no gradient changes a bit.

Several processes are started in `tests/invariants/test_sharding.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from privcode.errors import UserError
from privcode.models import attach_lora, load_model
from privcode.models.sharding import is_sharded, mesh_of, shard
from privcode.privacy.clipping import Clipper
from privcode.training.examples import Example, collate
from privcode.training.learner import Learner, try_out, without_dropout
from privcode.training.loss import per_example_losses, split_head
from tests.helpers.families import FAMILIES, save


@pytest.fixture(autouse=True)
def processes() -> Iterator[None]:
    """A group of this process alone."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def tuned(where: str, recomputed: bool) -> Any:
    model = load_model(where, device="cpu")
    if recomputed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    adapted = attach_lora(model, 4, 8, 0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    without_dropout(adapted)
    return adapted


def rows(model: Any) -> torch.Tensor:
    """[records, parameters]: the gradients that DP-SGD clips, with the syntax term."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for length in (9, 14, 12):
        ids = torch.randint(5, 60, (length,), generator=generator).tolist()
        examples.append(Example(tuple(ids), 2, tuple(i % 2 == 0 for i in range(length))))
    clipper = Clipper(model, 0.5)
    batch, head = collate(examples, 0, clipper.device), split_head(model)
    with clipper.recording(len(examples)):
        per_example_losses(model, batch, 2.0, head).sum().backward()
    return clipper.take_rows()


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_dividing_the_layers_of_a_family_changes_no_bit(
    tmp_path: Path, family: str, recomputed: bool
) -> None:
    where = save(family, tmp_path)
    whole, divided = tuned(where, recomputed), tuned(where, recomputed)
    shard(divided, mesh_of("cpu"))
    assert is_sharded(divided)
    assert not is_sharded(whole)
    outside = {n for n, p in divided.named_parameters() if not isinstance(p, DTensor)}
    parts = ("embed", "wte", "wpe", "lm_head", "norm", "ln_f", "lora_")
    assert all(any(part in name for part in parts) for name in outside)
    assert torch.equal(rows(divided), rows(whole))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_layers_that_are_divided_on_a_gpu_give_the_gradients_of_whole_ones(tmp_path: Path) -> None:
    where = save("llama", tmp_path)
    divided = shard(tuned(where, True), mesh_of("cuda"))
    assert {p.device.type for p in divided.parameters()} == {"cuda"}
    got, expected = rows(divided), rows(tuned(where, True).cuda())
    assert float((got - expected).norm() / expected.norm()) < 1e-5


def test_a_model_that_is_divided_passes_its_trial(tmp_path: Path) -> None:
    model = shard(tuned(save("llama", tmp_path), False), mesh_of("cpu"))
    assert try_out(Learner(model, 0, 32), Clipper(model, 0.5), 3) == "any number"


def test_a_model_without_layers_is_refused() -> None:
    class Bare(nn.Module):
        def get_base_model(self) -> nn.Module:
            return nn.Linear(2, 2)

    with pytest.raises(UserError, match=r"sanitize\.shard: the model has no layers"):
        shard(Bare(), mesh_of("cpu"))
