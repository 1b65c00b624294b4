"""Stage 2c: tune the premium model on the accepted pairs (nondpft: on the private records).

Processes that a launcher started tune it together. The first of them writes.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from privcode.console import progress_bar, say
from privcode.data.prompts import Lessons
from privcode.data.records import Record
from privcode.distributed import in_turn, rank, world
from privcode.errors import NothingLeft
from privcode.files import Lines
from privcode.models import load_model, tokenizer_of
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_of, merge, merged
from privcode.pipeline.private import private_records
from privcode.pipeline.stages._stage import Stage
from privcode.training.tuning import boost


def _work(run: RunDirectory) -> Path:
    if run.config.method == "nondpft":
        pairs, number = private_pairs(run)
    else:
        accepted = Lines(run.accepted)
        pairs, number = ((r["prompt"], r["completion"]) for r in accepted), len(accepted)
        if not number:
            raise NothingLeft(
                f"{run.accepted}: no sample was accepted; the reasons are in {run.verdicts}"
            )
    tune(run, pairs, number, run.premium)
    if rank() == 0 and run.config.boost.merge and run.config.boost.method == "lora":
        merge(run, "tuned", run.premium)
    return run.premium


def private_pairs(run: RunDirectory) -> tuple[Iterator[tuple[str, str]], int]:
    """The private records as pairs, for the methods that train without privacy; how many there are.

    If prompts are secret (`prompts.source: synthesised`), the model learns to write them, too.
    """
    records: Sequence[Record]
    records, _, _ = private_records(run.config, run.config.boost.limit, run.private)
    if run.config.prompts.by_junior:
        records = Lessons(records, run.config.prompts)
    return ((r.prompt, r.completion) for r in records), len(records)


def tune(run: RunDirectory, pairs: Iterable[tuple[str, str]], number: int, output: Path) -> None:
    """Plain tuning of the premium model on `pairs`, so many of them."""
    config, section = run.config.boost, run.config.premium
    tokenizer = tokenizer_of(section)
    asking = asking_of(section, tokenizer)
    steps = -(-number // config.batch_size) * config.epochs
    private = run.config.method in ("nondpft", "jft")
    with progress_bar(output.name, steps, counted=not private) as progress:
        left_out = boost(
            _loaded(run),
            tokenizer,
            ((asking(prompt), completion) for prompt, completion in pairs),
            section,
            config,
            run.private / f"{output.name}-checkpoints",
            output,
            progress,
        )
    if left_out and not private:
        say(f"boost: {left_out} pairs were longer than premium.max_tokens and left out")


def _loaded(run: RunDirectory) -> Any:
    """The premium model.

    With `boost.shard` the processes load it one after the other, on the processor. The first keeps
    its weights, and sends the others their parts as training begins.
    """
    section = run.config.premium
    if not run.config.boost.shard:
        return load_model(section.model, section.dtype, quantization=section.quantization)
    if world() == 1:
        say("boost.shard: one process holds the whole model; start several with torchrun")
        return load_model(section.model, section.dtype)
    from privcode.models.sharding import without_weights

    def part() -> Any:
        model = load_model(section.model, section.dtype, "cpu")
        return without_weights(model) if rank() else model

    return in_turn(part)


STAGE = Stage(
    name="boost",
    made=lambda run: run.premium,
    work=_work,
    outputs=lambda run: [run.premium, merged(run.premium)],
)
