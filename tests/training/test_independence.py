"""What a unit adds to the sum is, to the bit, a function of that unit and the model alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from privcode.data.records import Record
from privcode.errors import UserError
from privcode.exercises.corpus import private_records
from privcode.models import attach_lora, load_model, load_tokenizer
from privcode.privacy.clipping import Clipper
from privcode.privacy.ledger import Ledger
from privcode.privacy.plan import make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example, encode
from privcode.training.independence import (
    WAYS,
    Grouping,
    grouping_of,
    has_experts,
    made_up,
    passes,
    refuse_by_name,
    rope_types,
)
from privcode.training.learner import Learner, _ways, attend_plainly, try_out
from privcode.training.settings import Sanitize, Syntax
from tests.helpers.device import DEVICE

CLIP = 0.05
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "gemma": (GemmaConfig, GemmaForCausalLM, {}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {}),  # its head cannot be split off
    "mixtral": (MixtralConfig, MixtralForCausalLM, {"num_local_experts": 8}),
    "qwen3moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {"moe_intermediate_size": 24, "num_experts": 16, "num_experts_per_tok": 4},
    ),
}
DENSE = ("llama", "qwen2", "gemma", "gemma2")
SPARSE = ("mixtral", "qwen3moe")
DTYPES = (torch.float32, torch.bfloat16)
ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 32,
        "factor": 8.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0 + 3 * i for i in range(4)],
    },
}


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    torch.manual_seed(0)
    config, make, own = FAMILIES[family]
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,  # larger than usual, so that every part does something
        "pad_token_id": 0,
    }
    return adapted(make(config(**sizes | own | more)).to(dtype))


def adapted(base: Any, targets: list[str] | None = None) -> Any:
    torch.manual_seed(1)
    model = attach_lora(base, 4, 8.0, 0.0, targets or ATTENTION)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model.to(DEVICE)


def example(seed: int, length: int) -> Example:
    ids = torch.randint(1, 64, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Example(tuple(ids), 2, tuple(i % 3 == 0 for i in range(length)))


def step(
    model: Any,
    examples: Sequence[Example],
    units: Sequence[Sequence[int]] | None = None,
    grouping: Grouping | None = None,
    **chosen: Any,
) -> torch.Tensor:
    """The clipped sum of one step in which everybody takes part, without noise."""
    sums: list[torch.Tensor] = []
    taken = Clipper.take_sum

    def take_sum(clipper: Clipper) -> torch.Tensor:
        sums.append(taken(clipper))
        return sums[-1].clone()

    plan = make_plan(
        epsilon=None,
        noise_multiplier=0.0,
        delta=1e-6,
        units=100,
        batch=100,
        steps=1,
        clip_norm=CLIP,
        reproducible_seed=1,
    )
    alone = [[i] for i in range(len(examples))] if units is None else units
    most = chosen.pop("max_tokens", 64)
    settings = Sanitize(learning_rate=5e-6, syntax=Syntax(lambda_max=1.0), **chosen)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clipper, "take_sum", take_sum)
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        ledger.begin(plan, "fingerprint")
        checkpoint = Path(folder) / "checkpoint"
        learner = Learner(model, 0, most, grouping)
        sanitize(learner, examples, alone, plan, settings, ledger, checkpoint)
    (only,) = sums
    return only


def tried(model: Any, max_tokens: int = 64, micro_batch: int = 8) -> Grouping:
    return try_out(Learner(model, 0, max_tokens), Clipper(model, CLIP), micro_batch)


def moves_by_its_own(
    make: Callable[[], Any],
    examples: Sequence[Example],
    gone: Sequence[int],
    **chosen: Any,
) -> None:
    """Without one unit, the sum is less by what that unit gives by itself: not one bit more."""
    way = tried(make(), **chosen)
    everybody = step(make(), examples, grouping=way, **chosen)
    for unit in gone:
        others = [e for i, e in enumerate(examples) if i != unit]
        alone = step(make(), [examples[unit]], grouping=way, **chosen)
        assert 0 < float(alone.norm()) <= CLIP
        assert torch.equal(everybody - step(make(), others, grouping=way, **chosen), alone)


RAGGED = [example(i, 10 + 7 * i % 50) for i in range(24)]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_unit_less_changes_no_bit_of_what_the_others_give(
    family: str, dtype: torch.dtype
) -> None:
    order = sorted(range(len(RAGGED)), key=lambda i: len(RAGGED[i].ids))
    gone = (order[0], order[11])  # the longer ones move up
    moves_by_its_own(lambda: tiny(family, dtype), RAGGED, gone)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", DENSE)
def test_one_unit_less_changes_no_bit_where_short_texts_attend_plainly(
    family: str, dtype: torch.dtype
) -> None:
    def make() -> Any:
        model = tiny(family, dtype).cpu()
        attend_plainly(Learner(model, 0, 64))
        assert model.get_base_model().config._attn_implementation == "eager"
        return model

    moves_by_its_own(make, RAGGED, [4])


def test_long_texts_and_an_attention_that_was_chosen_keep_theirs() -> None:
    long, chosen = tiny(), tiny(attn_implementation="eager")
    before = long.get_base_model().config._attn_implementation
    attend_plainly(Learner(long, 0, 257))
    attend_plainly(Learner(chosen, 0, 64))
    assert long.get_base_model().config._attn_implementation == before == "sdpa"
    assert chosen.get_base_model().config._attn_implementation == "eager"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_unit_less_changes_no_bit_of_the_bundled_juniors_step(dtype: Any) -> None:
    tokenizer = load_tokenizer("bundled:junior")
    examples = [
        encode(
            Record(r["prompt"], r["code"], "python", f"u{i}", i),
            f"Question: {r['prompt']}\n\nAnswer:\n",
            tokenizer,
            256,
        )[0]
        for i, r in enumerate(private_records(30, seed=4))
    ]
    shortest = min(range(30), key=lambda i: len(examples[i].ids))  # all others move up
    moves_by_its_own(
        lambda: adapted(load_model("bundled:junior", dtype).cpu(), None),
        examples,
        [shortest],
        max_tokens=256,
    )


@pytest.mark.gpu
@settings(max_examples=12, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("family", DENSE)
@pytest.mark.slow
def test_whatever_the_company_a_units_rows_have_the_same_bits(
    family: str, data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    count = data.draw(st.integers(2, 12))
    lengths = data.draw(st.lists(st.integers(4, 60), min_size=count, max_size=count))
    micro_batch = data.draw(st.integers(2, 9))
    examples = [example(i, n) for i, n in enumerate(lengths)]
    gone = data.draw(st.integers(0, count - 1))
    moves_by_its_own(lambda: tiny(family, dtype), examples, [gone], micro_batch=micro_batch)


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 18])
def test_the_progress_of_a_trial_ends_at_its_number_of_passes(micro_batch: int) -> None:
    model, done = tiny("qwen2"), list[int]()
    try_out(Learner(model, 0, 64), Clipper(model, CLIP), micro_batch, done.append)
    assert sum(done) == passes(micro_batch)


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batch", [1, 5, 8, 80])
def test_a_step_has_the_same_bits_however_it_is_cut(micro_batch: int) -> None:
    units = [[0, 1, 2], [3, 4], *([i] for i in range(5, 24))]
    whole = step(tiny("qwen2"), RAGGED, units)
    cut = step(tiny("qwen2"), RAGGED, units, micro_batch=micro_batch)
    if DEVICE == "cpu":
        assert torch.equal(cut, whole)
    else:  # a GPU's kernels depend on the number of rows, which is the same throughout a run
        assert float((cut - whole).norm()) < 1e-5 * float(whole.norm())


@pytest.mark.parametrize("micro_batch", [8, 80])
def test_a_longer_unit_does_not_change_the_longrope_positions_of_the_others(
    micro_batch: int,
) -> None:
    examples = [*(example(i, 24 + i % 6) for i in range(20)), example(99, 60)]
    make = lambda: tiny(max_position_embeddings=32, rope_parameters=ROPES["longrope"])  # noqa: E731
    assert rope_types(make()) == ["longrope"]
    moves_by_its_own(make, examples, [20], micro_batch=micro_batch)


@pytest.mark.parametrize("micro_batch", [8, 80])
def test_dynamic_rope_is_refused_beyond_its_original_length_and_exact_within(
    micro_batch: int,
) -> None:
    make = lambda: tiny(max_position_embeddings=32, rope_parameters=ROPES["dynamic"])  # noqa: E731
    with pytest.raises(UserError, match=r"rotary positions of type dynamic .* at most 32"):
        tried(make(), micro_batch=micro_batch, max_tokens=33)
    within = [e for e in RAGGED if len(e.ids) <= 32]
    moves_by_its_own(make, within, [3], micro_batch=micro_batch, max_tokens=32)


def test_dynamic_rope_that_still_follows_a_longer_text_is_refused() -> None:
    model = tiny(max_position_embeddings=32, rope_parameters=ROPES["dynamic"])
    model(input_ids=torch.ones(1, 40, dtype=torch.long))
    with pytest.raises(UserError, match="still follow a longer text"):
        tried(model, max_tokens=32)


def test_a_rope_that_remembers_is_found_by_trial_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privcode.training.learner.refuse_by_name", lambda *_: None)
    with pytest.raises(UserError, match=r"module .*: "):
        tried(tiny(max_position_embeddings=32, rope_parameters=ROPES["dynamic"]))


def test_an_unknown_kind_of_rope_is_refused() -> None:
    model = tiny()
    model.get_base_model().model.rotary_emb.rope_type = "spiral"
    with pytest.raises(UserError, match="type spiral are not known"):
        tried(model)


class Capacity(nn.Module):
    """First come, first served: tokens beyond their expert's capacity pass unchanged."""

    def __init__(self, inner: nn.Module, most: int, last_first: bool) -> None:
        super().__init__()
        self.inner, self.most, self.last_first = inner, most, last_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        keep = torch.zeros(len(flat), dtype=torch.bool)
        for expert in (True, False):
            at = ((flat[:, 0] > 0) == expert).nonzero()[:, 0]
            keep[at[-self.most :] if self.last_first else at[: self.most]] = True
        return torch.where(keep.view(*x.shape[:2], 1), self.inner(x), x)


@pytest.mark.parametrize("last_first", [False, True])
def test_experts_of_limited_capacity_are_found_whoever_is_served_first(last_first: bool) -> None:
    model = tiny()
    for layer in model.get_base_model().model.layers:
        layer.mlp = Capacity(layer.mlp, 40, last_first)
    with pytest.raises(UserError, match=r"module .*: .*depends on the others"):
        tried(model)


class Tail(nn.Module):
    """Only the last of more than five records sees its neighbour."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.inner(x)
        if len(out) > 5:
            out = torch.cat([out[:-1], out[-1:] + 0.1 * out[-2:-1]])
        return out


def test_a_record_that_only_the_last_of_a_full_micro_batch_sees_is_found() -> None:
    model = tiny()
    layer = model.get_base_model().model.layers[1]
    layer.mlp = Tail(layer.mlp)
    with pytest.raises(UserError, match=r"module .*: .*depends on the others"):
        tried(model)


@pytest.mark.parametrize(
    ("field", "value"), [("expert_capacity", 64), ("moe_token_dropping", True)]
)
def test_a_config_that_lets_experts_drop_tokens_is_refused_by_field(field: str, value: Any) -> None:
    model = tiny("mixtral")
    setattr(model.get_base_model().config, field, value)
    with pytest.raises(UserError, match=rf"config\.json, {field}: is {value}"):
        tried(model)


def test_statistics_over_the_batch_are_refused_by_module() -> None:
    model = tiny()
    model.get_base_model().model.layers[0].extra = nn.BatchNorm1d(4, affine=False)
    with pytest.raises(UserError, match=r"layers\.0\.extra: BatchNorm1d keeps statistics"):
        tried(model)


def test_router_noise_of_a_part_in_training_mode_is_refused_by_module() -> None:
    model = tiny("mixtral", router_jitter_noise=0.1)
    tried(model)  # in eval mode there is none
    for module in model.modules():
        if hasattr(module, "jitter_noise"):
            module.train()
    with pytest.raises(UserError, match="jitter_noise adds random noise"):
        refuse_by_name(model, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_mixtures_of_experts_go_one_unit_at_a_time_and_others_together(family: str) -> None:
    model = tiny(family)
    assert has_experts(model) == (family in SPARSE)
    assert tried(model) == ("alone" if family in SPARSE else "any number")


def test_a_product_whose_kernel_depends_on_the_rows_is_not_hidden_by_bf16() -> None:
    # Found at random: with both records in one pass, one number of a product in bf16 is another.
    examples = [example(0, 33), example(2, 34)]
    moves_by_its_own(lambda: tiny("gemma", torch.bfloat16), examples, [0, 1], micro_batch=2)


def test_on_a_gpu_and_in_bf16_a_length_always_has_as_many_rows_or_one_unit() -> None:
    gpu = torch.device("cuda")
    assert _ways(tiny(), gpu) == ("always as many", "alone")
    assert _ways(tiny(dtype=torch.bfloat16), torch.device("cpu")) == ("always as many", "alone")
    assert _ways(tiny("mixtral"), gpu) == ("alone",)


def test_of_a_large_micro_batch_the_first_the_last_and_some_between_are_computed_alone() -> None:
    assert [passes(n) for n in (1, 2, 16, 17, 128)] == [6, 12, 26, 29, 29]
    assert tried(tiny(), micro_batch=40) == "any number"


def nine_tokens(length: int, seed: int) -> Example:
    return made_up(length, torch.arange(9), seed)


@pytest.mark.parametrize("seen", range(63))
def test_a_record_of_a_large_micro_batch_that_its_neighbour_changes_is_found(seen: int) -> None:
    def gradients(examples: Sequence[Example], fill: int) -> torch.Tensor:
        rows = torch.tensor([[float(sum(e.ids)), float(len(e.ids))] for e in examples])
        if len(examples) + fill == 64 and len(examples) > seen + 1:
            rows[seen] += 1e-6 * rows[seen + 1]
        return rows

    with pytest.raises(UserError, match="module layer: "):
        grouping_of(gradients, lambda _: "layer", nine_tokens, 64, 64, 1e-30, WAYS[1:2])


class Rounding(nn.Module):
    """A product whose last bit depends on how many rows it has, as on some devices."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out * (1 + len(x) % 3 * 2.0**-22)


def test_where_bits_depend_on_the_number_of_rows_it_is_always_the_same() -> None:
    def make() -> Any:
        model = tiny()
        layer = model.get_base_model().model.layers[0]
        layer.mlp = Rounding(layer.mlp)
        return model

    assert tried(make()) == "always as many"
    moves_by_its_own(make, RAGGED, [0, 5])


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_a_trial_sees_both_halves_of_an_adapter_that_begins_with_one_at_zero(
    half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Clipper._receive

    def receive(clipper: Clipper, slot: int, x: Any, gradient: Any, factor: float = 1.0) -> None:
        if half in clipper._layers[slot][0]:
            factor *= 1 + len(x) % 3 * 2.0**-22  # as `Rounding`
        real(clipper, slot, x, gradient, factor)

    monkeypatch.setattr(Clipper, "_receive", receive)
    model = tiny()
    started = {n: w for n, w in model.named_parameters() if "lora_B" in n}
    with torch.no_grad():
        for weight in started.values():
            weight.zero_()
    assert tried(model) == "always as many"
    assert not any(bool(weight.any()) for weight in started.values())


class Neighbour(nn.Module):
    """A product whose last bit depends on the rows next to it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out + 2.0**-20 * (out.roll(1, 0) - out).detach()


def test_where_bits_depend_on_the_other_rows_each_unit_goes_by_itself() -> None:
    def make() -> Any:
        model = tiny()
        layer = model.get_base_model().model.layers[0]
        layer.mlp = Neighbour(layer.mlp)
        return model

    assert tried(make()) == "alone"
    moves_by_its_own(make, RAGGED, [0, 5])


class Chance(nn.Module):
    """A product whose last bits are left to chance, as those of some parallel sums are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out * (1 + 2.0**-20 * torch.rand(()))


def test_a_model_whose_bits_are_left_to_chance_is_refused() -> None:
    model = tiny()
    layer = model.get_base_model().model.layers[0]
    layer.mlp = Chance(layer.mlp)
    with pytest.raises(UserError, match="other bits when it is computed again"):
        tried(model)


def test_the_tokens_of_a_trial_and_what_it_costs_do_not_depend_on_the_records() -> None:
    read: list[int] = []
    model = tiny()
    model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: read.append(given[0].numel())
    )
    tried(model)
    # Turned around and every second one; the shortest alone, of the others two; the teacher too.
    tokens = 2 * ((8 + 8 + 4) * 16 + (2 + 8 + 4) * (32 + 64))
    assert sum(read) <= 1.1 * tokens
