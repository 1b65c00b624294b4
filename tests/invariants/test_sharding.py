"""Processes that share one model take the steps that one process would.

Under torchrun this file is also the script that the ranks run (see `work`).
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.data.settings import Latent as Latents
from privcode.distributed import from_first, rank, start, world
from privcode.exercises.corpus import private_records, public_prompts
from privcode.files import write_jsonl
from privcode.models import attach_latent, save_model
from privcode.models.sharding import is_sharded, mesh_of, shard
from privcode.privacy.ledger import Ledger, read_ledger
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.training.dp_sgd import sanitize
from privcode.training.examples import Example
from privcode.training.gradient_canaries import GradientCanaries
from privcode.training.learner import Learner
from privcode.training.settings import Sanitize, Syntax
from tests.helpers.launched import kill, started, torchrun

STEPS = 4
LATENTS = Latents(size=4, prefix=2, contrasted=5)
UNITS = [[i] for i in range(20)] + [[i, i + 1, i + 2] for i in range(20, 35, 3)]
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "recomputed": {"tie_word_embeddings": True},
}
"""Of a scenario's name, the words that change the model."""
SCENARIOS = (
    "plain",
    "tied",
    "recomputed",
    "plain, few drawn",
    "plain, nobody drawn",
    "tied, always as many",
    "plain, alone",
    "plain, with canaries",
    "plain, with vectors",
    "recomputed, with vectors",
)


def examples(vectors: bool = False) -> list[Example]:
    """Ragged, some without a structural token, and some without a scored one.

    With `vectors`, every other one reads a record, longer or shorter than itself.
    """
    generator = torch.Generator().manual_seed(2)
    made = []
    for index in range(35):
        length = 6 + index * 7 % 40
        ids = torch.randint(1, 64, (length,), generator=generator).tolist()
        structure = tuple(i > 1 and i % 2 == 0 and index % 3 > 0 for i in range(length))
        one = Example(tuple(ids), length if index % 11 == 0 else 2, structure)
        if vectors and index % 2:
            one = replace(one, read=one.ids[: 3 + index % 5] * (1 + index % 3), read_start=3)
        made.append(one)
    return made


def plan_for(scenario: str) -> PrivacyPlan:
    few, nobody = "few drawn" in scenario, "nobody drawn" in scenario
    return make_plan(
        epsilon=None,
        noise_multiplier=1e-4 if not nobody else 1.0,
        delta=1e-8,
        units=10**7 if nobody else len(UNITS),
        batch=1 if nobody else 2 if few else 12,
        steps=STEPS,
        clip_norm=0.5,
        owner_column="owner",
        max_records_per_unit=3,
        reproducible_seed=1,
    )


def tiny(scenario: str) -> Any:
    kind = scenario.partition(",")[0]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=36,  # three ranks and four do not divide all of its rows
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        **MODELS[kind],
    )
    base = LlamaForCausalLM(config)
    if kind == "recomputed":
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    if "vectors" in scenario:
        attach_latent(model, LATENTS.size, LATENTS.prefix)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "decoder" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def work(scenario: str, folder: Path, divided: bool) -> None:
    """What `Run.sanitize` does, on every rank; leaves each rank's adapter in `folder`."""
    plan = plan_for(scenario)
    folder.mkdir(exist_ok=True)
    start()

    def begun() -> Ledger:
        ledger = Ledger(folder / "ledger.jsonl")
        ledger.begin(plan, "fingerprint")
        return ledger

    model = tiny(scenario)
    whole = sum(p.numel() for p in model.parameters())
    if divided:
        shard(model, mesh_of("cpu"))
        assert is_sharded(model)
    held = sum(
        p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters()
    )
    settings = Sanitize(
        learning_rate=1e-2, checkpoint_every=2, micro_batch=3, syntax=Syntax(lambda_max=1.0)
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    canaries = None
    if scenario.endswith("canaries"):
        canaries = GradientCanaries(plan, sum(p.numel() for p in trained), 200, 0)
    grouping: Any = next((g for g in ("always as many", "alone") if g in scenario), None)
    vectors = "vectors" in scenario
    learner = Learner(model, 0, 64, grouping, LATENTS if vectors else None)
    ledger = from_first(begun)
    checkpoint = folder / "checkpoint.pt"
    curve = sanitize(
        learner, examples(vectors), UNITS, plan, settings, ledger, checkpoint, canaries=canaries
    )
    if rank() == 0:
        save_model(model, folder / "adapter", base="tiny")
    adapter = torch.cat([p.detach().flatten() for p in trained])
    torch.save((adapter, curve, held / whole), folder / f"rank-{rank()}.pt")


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every scenario by one process, by two that each hold the model, and by two and four that
    share it."""
    root = tmp_path_factory.mktemp("shards")
    for name in ("1", "2 whole", "2", "4"):
        (root / name).mkdir()
    for scenario in SCENARIOS:
        work(scenario, root / "1" / scenario, divided=False)
    for ranks, name in ((2, "2 whole"), (2, "2"), (4, "4")):
        done = torchrun(ranks, __file__, root / name)
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def result(folder: Path, rank: int = 0) -> tuple[torch.Tensor, list[dict[str, float]], float]:
    adapter, curve, share = torch.load(folder / f"rank-{rank}.pt", weights_only=True)
    return adapter, curve, share


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_processes_that_share_a_model_end_where_one_process_ends(
    taken: Path, scenario: str, ranks: int
) -> None:
    one, curve, _ = result(taken / "1" / scenario)
    for each in range(ranks):
        shared, shared_curve, share = result(taken / str(ranks) / scenario, each)
        assert float((shared - one).double().norm() / one.double().norm()) < 1e-5
        assert [row["records"] for row in shared_curve] == [row["records"] for row in curve]
        losses = [row["loss"] for row in curve]
        assert [row["loss"] for row in shared_curve] == pytest.approx(losses, rel=1e-4)
        assert share < 0.75  # the layers of this model are two thirds of it


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_sharing_the_model_changes_no_bit(taken: Path, scenario: str) -> None:
    whole, shared = (result(taken / name / scenario) for name in ("2 whole", "2"))
    assert torch.equal(whole[0], shared[0])
    assert whole[1] == shared[1]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_ledger_of_processes_that_share_a_model_is_that_of_one(
    taken: Path, scenario: str
) -> None:
    one, two, four = (
        read_ledger(taken / name / scenario / "ledger.jsonl") for name in ("1", "2", "4")
    )
    assert two == one
    assert four == one


CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 100, batch: 8, steps: 12,
          noise: reproducible}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 64}
sanitize: {shard: true, checkpoint_every: 2, syntax: {lambda_max: 1.0}}
premium: {model: "bundled:premium", lora: {r: 2, alpha: 4}}
evaluate: {tasks: []}
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["0", "1"])
def test_a_run_whose_rank_is_killed_says_so_once_counts_its_steps_and_goes_on(
    tmp_path: Path, killed: str
) -> None:
    write_jsonl(tmp_path / "private.jsonl", private_records(100, seed=1))
    write_jsonl(tmp_path / "prompts.jsonl", public_prompts(4, seed=1))
    (tmp_path / "privcode.yaml").write_text(CONFIG)
    ledger = tmp_path / "cut" / "private" / "ledger.jsonl"
    program = ("-m", "privcode", "sanitize", "privcode.yaml", "--out")
    cut = started(2, tmp_path, *program, "cut")
    while not ledger.exists() or len(read_ledger(ledger)) < 5:
        assert cut.poll() is None, cut.communicate()[0]
        time.sleep(0.05)
    kill(cut, killed)
    said, _ = cut.communicate(timeout=60)
    assert cut.returncode != 0
    assert said.count("privcode: ") == said.count("another process of this run ended") == 1, said
    assert 5 <= len(read_ledger(ledger)) < 13
    for out in ("cut", "whole"):
        again = started(2, tmp_path, *program, out)
        said, _ = again.communicate(timeout=200)
        assert again.returncode == 0, said
    one, other = (
        (tmp_path / out / "models" / "junior" / "adapter_model.safetensors").read_bytes()
        for out in ("cut", "whole")
    )
    assert one == other
    assert len(read_ledger(ledger)) == 13


if __name__ == "__main__":
    for each in SCENARIOS:
        where = Path(sys.argv[1])
        work(each, where / each, divided="whole" not in where.name)
    assert world() > 1
