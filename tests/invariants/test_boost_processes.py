"""Processes that tune one model together end where one process ends.

Under torchrun this file is also the script that the ranks run (see `work`).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from privcode.distributed import rank, start, world
from privcode.exercises.corpus import private_records
from privcode.files import sha256_tree, write_jsonl
from privcode.models import load_tokenizer
from privcode.models.settings import Lora, Model
from privcode.models.sharding import without_weights
from privcode.training import tuning
from privcode.training.settings import Boost
from tests.helpers.launched import kill, started, torchrun


class Scenario(NamedTuple):
    """How a tiny model is tuned: `pairs` of very different lengths, in steps of `batch`."""

    method: Any
    pairs: int = 23
    batch: int = 8
    micro: int = 2
    tied: bool = False
    recomputed: bool = False
    norm: type = LlamaRMSNorm


class Scale(LlamaRMSNorm):
    """A last norm by another name than accelerate looks for."""


SCENARIOS = {
    "lora": Scenario("lora"),
    "full": Scenario("full"),
    "full, tied": Scenario("full", tied=True),
    "lora, tied": Scenario("lora", tied=True, pairs=24),
    "lora, recomputed": Scenario("lora", recomputed=True),
    "full, recomputed": Scenario("full", recomputed=True),
    "lora, one pair in the last step": Scenario("lora", pairs=9, micro=3),
    "full, one pair in the last step": Scenario("full", pairs=9, micro=3),
    "full, batch that nothing divides": Scenario("full", pairs=16, batch=7, micro=2),
}
OTHERS = {"full, head alone": Scenario("full", norm=Scale), "unlike": Scenario("lora")}
EPOCHS = 3


def pairs(count: int) -> list[tuple[str, str]]:
    return [
        (f"Return {n}.\n" * (1 + n % 3), f"def f():\n    return {n}\n" * (1 + n * 5 % 7))
        for n in range(count)
    ]


def tiny(scenario: Scenario, size: int) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=36,  # three ranks and four do not divide all of its rows
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=scenario.tied,
    )
    model = LlamaForCausalLM(config)
    model.model.norm.__class__ = scenario.norm
    return model


def work(name: str, folder: Path, divided: bool) -> None:
    """Tune as the stage does, on every rank, into `folder`."""
    scenario = (SCENARIOS | OTHERS)[name]
    start()
    tokenizer = load_tokenizer("bundled:junior")
    model = tiny(scenario, len(tokenizer))
    whole = sum(p.numel() for p in model.parameters())
    if divided and rank():
        without_weights(model)
    section = Model(
        model="bundled:junior",
        max_tokens=256,
        lora=Lora(r=3, alpha=6),
        gradient_checkpointing=scenario.recomputed,
    )
    settings = Boost(
        method=scenario.method,
        epochs=EPOCHS,
        learning_rate=1e-3,
        batch_size=scenario.batch,
        micro_batch=scenario.micro,
        warmup_ratio=0.1,
        weight_decay=0.01,
        seed=5,
        shard=divided,
    )
    steps, held = [0], [0.0]

    def progress(done: int) -> None:
        steps[0] += done
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
        held[0] = sum(part.numel() for part in parts) / whole

    data = pairs(scenario.pairs)
    if name == "unlike" and rank():
        data.reverse()
    tuning.SAVE_EVERY = 4
    places = (folder / "checkpoints", folder / "out")
    folder.mkdir(exist_ok=True, parents=True)
    left_out = tuning.boost(model, tokenizer, data, section, settings, *places, progress)
    (folder / f"rank-{rank()}.json").write_text(json.dumps([left_out, *steps, *held]))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every scenario by one process, and by two that hold the model or share it, and by four."""
    root = tmp_path_factory.mktemp("tuned")
    for name in SCENARIOS:
        work(name, root / "1" / name, divided=False)
    for ranks, how in ((2, "2 whole"), (2, "2 shared"), (4, "4 shared")):
        done = torchrun(ranks, __file__, root / how)
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "out").glob("*model.safetensors")
    return load_file(file)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Greatest relative distance of two tensors of one name."""
    assert one.keys() == other.keys()
    return max(float((other[n] - one[n]).norm() / one[n].norm()) for n in one)


def moved(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """What tuning added to the weights, as far as they are known: an adapter's lora_A is not."""
    size = len(load_tokenizer("bundled:junior"))
    before = tiny(SCENARIOS[name], size).state_dict() if "full" in name else {}
    return {n: w - before.get(n, torch.zeros(1)) for n, w in weights(folder).items()}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["2 whole", "2 shared", "4 shared"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_processes_end_where_one_process_ends(tuned: Path, name: str, how: str) -> None:
    one, several = tuned / "1" / name, tuned / how / name
    assert apart(weights(one), weights(several)) < 1e-6
    assert apart(moved(name, one), moved(name, several)) < 1e-5
    for file in (one / "out").glob("*.json"):
        assert (several / "out" / file.name).read_bytes() == file.read_bytes()
    left_out, steps, _ = json.loads((one / "rank-0.json").read_text())
    ranks = int(how[0])
    for each in range(ranks):
        left_out_here, steps_here, held = json.loads((several / f"rank-{each}.json").read_text())
        assert (left_out_here, steps_here) == (left_out, steps)
        assert (held < 1 / ranks + 0.1) == ("shared" in how)
    assert not (several / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unlike", "the processes do not hold the same pairs and settings"),
        ("full, head alone", "the head of this model cannot be divided"),
    ],
)
def test_what_processes_cannot_tune_together_is_refused(
    tmp_path: Path, name: str, says: str
) -> None:
    done = torchrun(2, __file__, tmp_path / "2 shared", name)
    assert done.returncode != 0
    assert done.stderr.count(f"UserError: boost{'' if name == 'unlike' else '.shard'}: {says}") == 2
    assert not (tmp_path / "2 shared" / name / "out").exists()


CONFIG = """\
method: nondpft
data: {source: private.jsonl, language: python, public: true}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 70, batch: 8, steps: 12}
prompts: {source: public, file: private.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 256}
boost: {method: METHOD, shard: SHARD, batch_size: 1, micro_batch: 1, epochs: 2}
evaluate: {tasks: []}
audit: {repetitions: []}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "method", "shard"),
    [("0", "full", "true"), ("1", "lora", "false")],
)
def test_a_boost_whose_rank_is_killed_says_so_once_and_goes_on(
    tmp_path: Path, killed: str, method: str, shard: str
) -> None:
    write_jsonl(tmp_path / "private.jsonl", private_records(70, seed=1))
    config = CONFIG.replace("METHOD", method).replace("SHARD", shard)
    (tmp_path / "privcode.yaml").write_text(config)
    program = ("-m", "privcode", "boost", "privcode.yaml", "--out")
    checkpoints = tmp_path / "cut" / "private" / "premium-checkpoints"
    cut = started(2, tmp_path, *program, "cut")
    while not (checkpoints / "checkpoint-100" / "complete.json").exists():
        assert cut.poll() is None, cut.communicate()[0]
        time.sleep(0.01)
    kill(cut, killed)
    said, _ = cut.communicate(timeout=60)
    assert cut.returncode != 0
    assert said.count("privcode: ") == said.count("another process of this run ended") == 1, said
    assert not (tmp_path / "cut" / "models" / "premium").exists()
    assert (checkpoints / "checkpoint-100" / "complete.json").exists()
    for out in ("cut", "whole"):
        again = started(2, tmp_path, *program, out)
        said, _ = again.communicate(timeout=200)
        assert again.returncode == 0, said
        assert "70" not in said
        assert "Warning" not in said
    one, other = (sha256_tree(tmp_path / out / "models" / "premium") for out in ("cut", "whole"))
    assert one == other


if __name__ == "__main__":
    where = Path(sys.argv[1])
    for each in sys.argv[2:] or SCENARIOS:
        work(each, where / each, "shared" in where.name)
    assert world() > 1
