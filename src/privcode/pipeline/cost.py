"""What runs would cost in computing: by measured rates where there are some, or by arithmetic.

Promises:
- Costs are made from declared, public numbers alone, never from private records.
- The figures that are called "at most" count every text at the longest that the config allows. The
  expected ones take mean lengths, which are named with where they come from.
- A rate is used for exactly what it was measured for. The rest is arithmetic, and the output says
  which is which.
- What is not counted is named.

Does not: measure anything. Operations are those of the weights. Attention between tokens, the
adapter, similarity models and the programs that are run come on top.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from privcode.config import Config
from privcode.data.prompts import prompts_of
from privcode.data.settings import Prompts
from privcode.errors import UserError
from privcode.models.settings import Dtype
from privcode.pipeline.devices import Wall, wall
from privcode.pipeline.methods import stages_of
from privcode.pipeline.preflight import tasks_of
from privcode.pipeline.rates import Rates
from privcode.pipeline.work import (
    FORWARD,
    LONGEST,
    STAGES,
    WIDTH,
    Counts,
    Demand,
    Lengths,
    size_of,
)
from privcode.scoring.settings import TaskFile

GPU = "A100-80GB"
PEAK: dict[Dtype, float] = {"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12}
"""Its operations a second, from the data sheet, by the type of the weights."""
BANDWIDTH = 2.04e12
"""Bytes a second from its memory."""
UTILISATION = 0.3
"""Share of either that a run is taken to reach: a guess."""

PROMPT, ANSWER = 250, 350
"""Mean tokens of a prompt and of its code, where nothing better is known: an assumption.

The card of arjunguha/magicoder-micro on the hub has 28,880 pairs of Magicoder-OSS-Instruct-75K, the
paper's data, of less than 1,000 tokens: 1,729 bytes a pair, or 576 tokens at `BYTES` each."""
BYTES = 3
"""Bytes of a token, in code and words: an assumption on the careful side. Usual are 3 to 4."""


@dataclass(frozen=True)
class Work:
    """Tokens through models, operations, seconds on one device, and bytes held at least.

    `measured` are the seconds that come from a measured rate. The others are arithmetic, of a
    `GPU`. Seconds of several devices that share a model are added up.
    """

    tokens: float = 0
    flops: float = 0
    seconds: float = 0
    memory: int = 0
    measured: float = 0

    def __add__(self, other: "Work") -> "Work":
        """One after the other."""
        return Work(
            self.tokens + other.tokens,
            self.flops + other.flops,
            self.seconds + other.seconds,
            max(self.memory, other.memory),
            self.measured + other.measured,
        )


def priced(demand: Demand, rates: Rates) -> Work:
    """What a demand costs: by the rate of exactly this work, if there is one.

    By arithmetic, reading takes the time of its operations. Writing takes that of its operations,
    or of reading the weights from memory for each new token of a batch, whichever is longer.
    """
    reading = demand.weights * demand.read * demand.operations
    writing = demand.weights * demand.written * FORWARD
    tokens = demand.read + demand.written
    dtype = demand.doing.dtype
    held = demand.weights * WIDTH[dtype] if demand.held is None else demand.held
    if rate := rates.table.get(demand.doing):
        seconds = demand.read / rate.read
        if demand.written:
            seconds += demand.written / (rate.written or rate.read)
        seconds *= demand.doing.gpus
        return Work(tokens, reading + writing, seconds, held, seconds)
    speed = PEAK[demand.compute or dtype] * UTILISATION
    loading = demand.rounds * demand.weights * WIDTH[dtype] / (BANDWIDTH * UTILISATION)
    seconds = reading / speed + max(writing / speed, loading)
    return Work(tokens, reading + writing, seconds, held)


def estimate(
    runs: Sequence[tuple[str, Config, Collection[str]]],
    rates: Rates | None = None,
    lengths: Lengths | None = None,
    devices: int = 1,
) -> dict[str, Any]:
    """What runs cost, each by itself and all together.

    Args:
        runs: the name of each run's row (runs of one name are added up), its config, and the
            stages that it takes over from another run.
        rates: measured ones.
        lengths: mean tokens of texts; without `public`, a file of prompts that is here tells that
            one. Default: `PROMPT` and `ANSWER`.
        devices: to spread the work over.

    Returns:
        {"gpu", "utilisation", "devices", "rates": {"device", "file"} or None, "lengths":
        {"prompt", "answer", "public": those of the files of prompts that are here}, "rows": [row],
        "all": row, "by_name": [model whose size is what its name says], "not_measured": [work that
        no rate is of, where there are rates], "programs": {"count", "seconds" or None},
        "not_counted": [what, and why]}; a row is {"name", "runs", "dp_trainings": runs of
        `sanitize`, "tokens", "flops", "seconds", "measured": seconds by rates, "memory": bytes that
        the largest run holds at least, "stages": {stage: seconds}, "expected": {"tokens", "flops",
        "seconds", "stages", "measured"}, "wall": {stage: {"devices", "seconds", "traffic", "host",
        "busy"}}}. What is not in "expected" or "wall" is at most, if every text is as long as the
        settings allow. "wall" is made from expected figures.
    """
    rates = rates or Rates()
    given = lengths or Lengths(PROMPT, ANSWER)
    counts, public = _public([config for _, config, _ in runs])
    rows: dict[str, dict[str, Any]] = {}
    most, mean = dict[str, dict[str, Work]](), dict[str, dict[str, Work]]()
    walls: dict[str, dict[str, Wall]] = {}
    left_out: dict[str, dict[str, None]] = {}  # reason -> stages
    programs: dict[str, int] = {}
    unmeasured: dict[str, None] = {}
    for name, config, taken in runs:
        todo = [stage for stage in stages_of(config) if stage not in taken]
        row = rows.setdefault(name, {"name": name, "runs": 0, "dp_trainings": 0})
        row["runs"] += 1
        row["dp_trainings"] += "sanitize" in todo
        one = Lengths(given.prompt, given.answer, public.get(config.prompts, given.prompt))
        for each in (most, mean, walls):
            each.setdefault(name, {})
        for stage in todo:
            try:
                longest = STAGES[stage](config, counts, LONGEST)
                usual = STAGES[stage](config, counts, one)
                _count_programs(stage, config, counts, programs)
            except UserError as reason:
                left_out.setdefault(str(reason), {})[stage] = None
                continue
            works = [priced(demand, rates) for demand in usual]
            took = wall(stage, config, list(zip(usual, works, strict=True)), devices)
            whole = sum((priced(demand, rates) for demand in longest), Work())
            most[name][stage] = most[name].get(stage, Work()) + whole
            mean[name][stage] = mean[name].get(stage, Work()) + sum(works, Work())
            walls[name][stage] = walls[name].get(stage, Wall()) + took
            missing = [d.doing for d in usual if d.doing not in rates.table and d.read]
            unmeasured |= dict.fromkeys(f"{d.what} {d.model}" for d in missing if rates.table)
    together = {"name": "all"} | {
        key: sum(row[key] for row in rows.values()) for key in ("runs", "dp_trainings")
    }
    return {
        "gpu": GPU,
        "utilisation": UTILISATION,
        "devices": devices,
        "rates": {"device": rates.device, "file": rates.path} if rates.table else None,
        "lengths": {
            "prompt": given.prompt,
            "answer": given.answer,
            "public": {p.public_file: round(length) for p, length in public.items()},
        },
        "rows": [row | _figures(most[n], mean[n], walls[n]) for n, row in rows.items()],
        "all": together | _figures(_added(most), _added(mean), _added(walls)),
        "by_name": _by_name([config for _, config, _ in runs]),
        "not_measured": list(unmeasured),
        "programs": _programs(programs, rates),
        "not_counted": [f"{', '.join(stages)}: {reason}" for reason, stages in left_out.items()],
    }


def _added(by_row: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of all rows: stage -> sum."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        for done in by_row.values():
            if stage in done:
                found[stage] = found[stage] + done[stage] if stage in found else done[stage]
    return found


def _figures(
    most: Mapping[str, Work], mean: Mapping[str, Work], walls: Mapping[str, Wall]
) -> dict[str, Any]:
    expected = asdict(sum(mean.values(), Work())) | {"stages": _seconds(mean)}
    del expected["memory"]  # it is the same
    return asdict(sum(most.values(), Work())) | {
        "stages": _seconds(most),
        "expected": expected,
        "wall": {stage: asdict(one) for stage, one in walls.items()},
    }


def _seconds(done: Mapping[str, Work]) -> dict[str, float]:
    return {stage: round(work.seconds, 1) for stage, work in done.items()}


def _by_name(configs: Sequence[Config]) -> list[str]:
    sections = [m for c in configs for m in (c.junior, c.premium, c.describer) if m]
    found = []
    for name in sorted({section.model for section in sections}):
        try:
            if size_of(name).by_name:
                found.append(name)
        except UserError:
            pass
    return found


def _public(configs: Sequence[Config]) -> tuple[Counts, dict[Prompts, float]]:
    """How many prompts and tasks public files hold, and mean tokens of the prompts of each."""
    counts: dict[Prompts | TaskFile, int | None] = {}
    lengths: dict[Prompts, float] = {}
    for prompts in {config.prompts for config in configs}:
        counts[prompts] = prompts.limit
        if prompts.public_file and Path(prompts.public_file).exists():
            texts = prompts_of(prompts)
            counts[prompts] = len(texts)
            lengths[prompts] = sum(len(text.encode()) for text in texts) / len(texts) / BYTES
    for file in {file for config in configs for file in config.evaluate.tasks}:
        counts[file] = len(tasks_of(file)) if Path(file.file).exists() else None
    return counts, lengths


def _count_programs(stage: str, config: Config, counts: Counts, found: dict[str, int]) -> None:
    """Add the programs that a stage runs, by language; none of files that are not here."""
    number = 0
    if stage == "validate" and config.validate_.execution.enabled:
        number = (counts[config.prompts] or 0) * config.synthesize.samples_per_prompt
    if stage == "evaluate":
        samples = config.evaluate.samples if config.evaluate.temperature else 1
        tasks = sum(counts[file] or 0 for file in config.evaluate.tasks)
        number = tasks * samples * len(config.evaluate.models)
    language = config.data.language or "python"
    found[language] = found.get(language, 0) + number


def _programs(counted: Mapping[str, int], rates: Rates) -> dict[str, Any]:
    known = all(language in rates.programs for language in counted)
    seconds = sum(n / rates.programs[name] for name, n in counted.items()) if known else None
    return {"count": sum(counted.values()), "seconds": seconds and round(seconds, 1)}
