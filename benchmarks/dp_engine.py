"""What a private step costs: non-private LoRA, privcode and Opacus, side by side.

Every engine takes the same steps on the same random model, in a process of its own: a few
micro-batches of the product's loss and its backward pass, clipped where private, then noise once
and AdamW. (A real step has tens of micro-batches, so noise weighs more here.) All of them, the
baseline and the peers too, have the product's loss with its chunked head; one more row is the
baseline with the loss that comes with transformers. The processes take turns, one working at a
time, so that whatever else the machine does falls on all of them; a ratio is between neighbours in
one round. Peak memory counts weights and work, not the imported libraries. On a GPU a process gives
its free memory back after each turn and takes an untimed step before the next. MFU is the share of
the card's bf16 peak that the products with weights and between tokens reach.

At the shape "ragged" the records have the lengths of the exercise world's, and the step is over
`--micro-batches` × 8 of them: privcode puts those together that are padded alike, the others pad
all to the longest, as training on padded blocks does. Tokens per second count real tokens.

    python benchmarks/dp_engine.py [--shape 256x4x128] [--device cuda] [--json]
"""

import argparse
import importlib.util
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from typing import Any

BASELINE = "non-private LoRA"
AUTOCAST = "non-private LoRA, autocast"
THEIR_LOSS = "non-private LoRA, transformers' loss"
ENGINES = {
    BASELINE: "plain backward pass of the mean loss",
    THEIR_LOSS: "the same with model(labels=…), which holds all logits",
    AUTOCAST: "the same under bf16 autocast, as transformers' Trainer runs it (on a GPU)",
    "privcode": "privcode.privacy.clipping, cryptographic noise",
    "privcode + PrivSA": "the same with the syntax term: its teacher and a KL on every other token",
    "opacus hooks": "opacus.GradSampleModule, DPOptimizer",
    "opacus ghost": "opacus.GradSampleModuleFastGradientClipping, two backward passes",
}
if importlib.util.find_spec("fastDP"):  # from its repository: no registry has it
    ENGINES["fastDP MixOpt"] = "fastDP.PrivacyEngine, what the official PrivCode code uses"


@dataclass(frozen=True)
class Shape:
    """A model (hidden size, layers, …) and a micro-batch of whole, unpadded records."""

    hidden: int
    layers: int
    tokens: int
    intermediate: int
    vocabulary: int = 4096
    heads: int = 8
    kv_heads: int = 4
    records: int = 8
    rank: int = 16
    ragged: bool = False

    @property
    def flops(self) -> float:
        """Of one token in a step of plain LoRA training. Frozen weights need no gradient."""
        narrow = self.hidden * self.kv_heads // self.heads
        layers = [(self.hidden, self.hidden)] * 2 + [(self.hidden, narrow)] * 2
        layers += [(self.hidden, self.intermediate)] * 3
        weights = self.layers * sum(a * b for a, b in layers) + self.vocabulary * self.hidden
        adapter = self.layers * self.rank * sum(a + b for a, b in layers)
        between = 2 * self.layers * self.hidden * self.tokens  # causal: half of the pairs
        return 4 * weights + 6 * adapter + 3 * between


SHAPES = {
    "256x4x128": Shape(256, 4, 128, 688),
    "384x6x192": Shape(384, 6, 192, 1024),
    "512x8x256": Shape(512, 8, 256, 1376),
    "ragged": Shape(256, 4, 192, 688, ragged=True),
    "smollm2-135m": Shape(576, 30, 112, 1536, 49_152, heads=9, kv_heads=3, records=64),
    "qwen2.5-coder-1.5b": Shape(1536, 28, 1024, 8960, 151_936, heads=12, kv_heads=2),
}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second of a card, from its data sheet."""
DEFAULT = ("256x4x128", "384x6x192", "512x8x256", "ragged")


def lengths(shape: Shape, count: int) -> list[int]:
    """Tokens of each record."""
    if not shape.ragged:
        return [shape.tokens] * count
    from privcode.exercises.corpus import private_records
    from privcode.models import load_tokenizer

    tokenizer = load_tokenizer("bundled:junior")
    texts = (row["prompt"] + row["code"] for row in private_records(count, seed=1))
    return [min(shape.tokens, len(tokenizer(text)["input_ids"])) for text in texts]


def random_model(shape: Shape, device: str) -> Any:
    """A model with a new adapter: bf16 on a GPU, fp32 on the processor."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from privcode.models import attach_lora

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.tokens,
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        base = Qwen2ForCausalLM(config).to(dtype)
    return attach_lora(base, shape.rank, 2.0 * shape.rank, 0.0).train()


def stepper(
    engine: str, shape: Shape, parts: int, device: str, noise: str = "beside"
) -> Callable[[], None]:
    """A function that takes one step of `parts` micro-batches with `engine`.

    `noise` is drawn in a thread "beside" the passes, as in the product; "after" them; or "never".
    """
    import torch

    from privcode.privacy.plan import make_plan
    from privcode.training.dp_sgd import micro_batches
    from privcode.training.examples import Example, collate, padded
    from privcode.training.learner import same_bits_each_time
    from privcode.training.loss import per_example_losses, split_head

    model = random_model(shape, device)
    head = split_head(model)
    sizes = lengths(shape, parts * shape.records)
    private = engine.startswith("privcode")
    if shape.ragged and private:
        groups = list(micro_batches([[i] for i in range(len(sizes))], sizes, shape.records))
    else:
        groups = [list(range(i, i + shape.records)) for i in range(0, len(sizes), shape.records)]
    examples = [
        Example(
            tuple(torch.randint(shape.vocabulary, (size,)).tolist()),
            size // 4,
            tuple(i % 2 == 0 for i in range(size)),
        )
        for size in sizes
    ]
    if shape.ragged and not private:  # one row as long as the longest pads the others
        width = max(sizes)
        block = Example((0,) * width, width - 1, (False,) * width)
        batches = [collate([*(examples[i] for i in group), block], 0, device) for group in groups]
        batches = [type(b)(*(part[:-1] for part in astuple(b))) for b in batches]
    else:
        widths = [padded(max(sizes[i] for i in group), shape.tokens) for group in groups]
        batches = [
            collate([examples[i] for i in group], 0, device, width if private else 0)
            for group, width in zip(groups, widths, strict=True)
        ]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: Any = torch.optim.AdamW(trained, lr=1e-4, foreach=device != "cpu")

    if engine in (BASELINE, THEIR_LOSS, AUTOCAST):

        def loss(batch: Any) -> torch.Tensor:
            if engine != THEIR_LOSS:
                with torch.autocast(device, torch.bfloat16, enabled=engine == AUTOCAST):
                    return per_example_losses(model, batch, 0.0, head).mean()
            labels = batch.ids.masked_fill(~batch.scored, -100)
            return model(input_ids=batch.ids, attention_mask=batch.attention, labels=labels).loss

        def step() -> None:
            optimizer.zero_grad()
            for batch in batches:
                (loss(batch) / len(batches)).backward()
            optimizer.step()

    elif private:
        plan = make_plan(
            epsilon=None,
            noise_multiplier=1.0,
            delta=1e-5,
            units=1000,
            batch=len(examples),
            steps=1,
        )
        clipper, randomness = plan.clipper(model), plan.randomness()
        weight = 1.0 if "PrivSA" in engine else 0.0
        beside = ThreadPoolExecutor(1)

        @same_bits_each_time()
        def step() -> None:
            drawn = None
            if noise == "beside":
                drawn = beside.submit(plan.noise, clipper, 0, randomness)
            for batch in batches:
                with clipper.recording(len(batch.ids)):
                    per_example_losses(model, batch, weight, head).sum().backward()
                clipper.accumulate(torch.arange(len(batch.ids)))
            total = clipper.take_sum()
            if noise != "never":
                of_step = drawn.result() if drawn else plan.noise(clipper, 0, randomness)
                total += of_step.to(device)
            clipper.set_gradients(total / plan.expected_batch)
            optimizer.step()

    elif engine.startswith("fastDP"):
        from fastDP import PrivacyEngine

        PrivacyEngine(
            model,
            batch_size=len(examples),
            sample_size=1000,
            epochs=1,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            clipping_mode="MixOpt",
            clipping_fn="Abadi",
            clipping_style="all-layer",
            loss_reduction="sum",
        ).attach(optimizer)

        def step() -> None:
            optimizer.zero_grad()
            for batch in batches:
                per_example_losses(model, batch, 0.0, head).sum().backward()
            optimizer.step()

    else:
        from opacus import GradSampleModule
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

        ghost = engine == "opacus ghost"
        kind = DPOptimizerFastGradientClipping if ghost else DPOptimizer
        optimizer = kind(
            optimizer,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            expected_batch_size=len(examples),
            loss_reduction="sum",
        )
        if ghost:
            model = GradSampleModuleFastGradientClipping(
                model, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
            )
        else:
            model = GradSampleModule(model, loss_reduction="sum")

        def step() -> None:
            for part, batch in enumerate(batches):
                optimizer.zero_grad()
                losses = per_example_losses(model, batch, 0.0, head)
                if ghost:
                    DPTensorFastGradientClipping(model, optimizer, losses, "sum").backward()
                else:
                    losses.sum().backward()
                if part + 1 < len(batches):  # clip and keep, without an update
                    optimizer.signal_skip_step()
                optimizer.step()

    return step


def peak(device: str) -> float:
    """Most memory held so far, in MB."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def worker(pipe: Connection, engine: str, shape: Shape, parts: int, device: str) -> None:
    """Answer each number of steps with their seconds and the peak memory; end at None."""
    import warnings

    import torch

    import privcode.privacy.plan
    import privcode.training.dp_sgd  # noqa: F401  what is imported is not the engine's memory

    if engine.startswith("opacus"):
        import opacus  # noqa: F401

    warnings.simplefilter("ignore")
    start = peak(device)
    try:
        step = stepper(engine, shape, parts, device)
        while steps := pipe.recv():
            if device == "cuda":
                step()  # takes the memory back that the last turn gave away
                torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            if device == "cuda":
                torch.cuda.empty_cache()
            pipe.send((seconds, peak(device) - start))
    except Exception as error:  # the row says why
        reason = (str(error).strip().splitlines() or [""])[0]
        pipe.send(f"{type(error).__name__}: {reason}")


class Bench:
    """One engine in its own process."""

    def __init__(self, engine: str, shape: Shape, parts: int, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker, args=(theirs, engine, shape, parts, device))
        self.process.start()
        theirs.close()
        self.error = ""
        self.megabytes = 0.0
        self.seconds: list[float] = []

    def take(self, steps: int) -> float:
        """Seconds per step; infinite once the engine has failed."""
        if self.error:
            return float("inf")
        try:
            self.pipe.send(steps)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            answer = "the process ended, for lack of memory perhaps"
        if isinstance(answer, str):
            self.error = answer
            return float("inf")
        seconds, self.megabytes = answer
        return seconds / steps

    def close(self) -> None:
        if self.process.is_alive() and not self.error:
            self.pipe.send(None)
        self.process.join()


def mfu(shape: Shape, tokens_per_second: float, device: str) -> float | None:
    """Of plain LoRA's operations, as a share of the card's peak. None for an unknown card."""
    if device != "cuda":
        return None
    import torch

    card = torch.cuda.get_device_name()
    peaks = [peak for name, peak in PEAK.items() if name in card]
    return round(shape.flops * tokens_per_second / peaks[0], 3) if peaks else None


def measure(name: str, shape: Shape, parts: int, device: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each engine."""
    chosen = [engine for engine in ENGINES if device == "cuda" or engine != AUTOCAST]
    benches = {engine: Bench(engine, shape, parts, device) for engine in chosen}
    order = list(benches)
    warm = min(bench.take(1) for bench in benches.values())
    steps = max(1, round(1.0 / warm)) if warm < float("inf") else 1
    for number in range(rounds):
        for engine in order[number % len(order) :] + order[: number % len(order)]:
            benches[engine].seconds.append(benches[engine].take(steps))
        print(f"{name}: round {number + 1} of {rounds}", file=sys.stderr)
    for bench in benches.values():
        bench.close()
    base = benches[BASELINE]
    rows = []
    for engine, bench in benches.items():
        row: dict[str, Any] = {"engine": engine, "shape": name, "device": device}
        if bench.error or base.error:
            rows.append(row | {"error": bench.error or f"no baseline ({base.error})"})
            continue
        ratios = [a / b for a, b in zip(bench.seconds, base.seconds, strict=True)]
        real = sum(lengths(shape, parts * shape.records))
        tokens = real / statistics.median(bench.seconds)
        row |= {"tokens_per_second": round(tokens, 1), "mfu": mfu(shape, tokens, device)}
        row |= {"time_ratio": round(statistics.median(ratios), 3)}
        row |= {"time_ratio_min": round(min(ratios), 3), "time_ratio_max": round(max(ratios), 3)}
        ratio = round(bench.megabytes / base.megabytes, 3) if base.megabytes else None
        row |= {"memory_ratio": ratio}  # a tiny model's work needs no more than its imports did
        rows.append(row | {"peak_mb": round(bench.megabytes), "rounds": rounds, "steps": steps})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| shape | engine | tokens/s | MFU | time ÷ non-private (min–max) "
        "| memory ÷ non-private | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['shape']} | {row['engine']} | – | – | {row['error']} | – | – |")
            continue
        spread = f"({row['time_ratio_min']:.2f}–{row['time_ratio_max']:.2f})"
        share, memory = (
            "–" if row[name] is None else f"{row[name]:.2f}" for name in ("mfu", "memory_ratio")
        )
        lines.append(
            f"| {row['shape']} | {row['engine']} | {row['tokens_per_second']:,.0f} | {share} "
            f"| {row['time_ratio']:.2f} {spread} | {memory} "
            f"| {row['peak_mb']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shape", action="append", choices=SHAPES, help="default: the three small ones"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--micro-batches", type=int, default=2, help="of each step")
    parser.add_argument("--rounds", type=int, default=5, help="of one measurement per engine")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    rows = [
        row
        for name in chosen.shape or DEFAULT
        for row in measure(name, SHAPES[name], chosen.micro_batches, chosen.device, chosen.rounds)
    ]
    print(json.dumps({"rows": rows}, ensure_ascii=False) if chosen.json else table(rows))


if __name__ == "__main__":
    main()
