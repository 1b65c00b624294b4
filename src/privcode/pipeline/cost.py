"""What runs would cost in computing, by arithmetic from their configs.

Promises:
- Costs are made from declared, public numbers alone, never from private records.
- Every text is counted at the longest that the config allows. So operations are an upper bound.
- A model's size is that of its config. Without a config the name gives it, and the output says so.
- What is not counted is named.

Does not: measure anything. Operations are those of the weights. Attention between tokens, the
adapter, similarity models and the programs that are run come on top.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from privcode.audit import canaries, coin_canaries
from privcode.config import Config
from privcode.data.prompts import prompts_of
from privcode.data.settings import Prompts
from privcode.errors import UserError
from privcode.models import sizes
from privcode.models.settings import Dtype, Model
from privcode.pipeline.methods import stages_of
from privcode.pipeline.preflight import tasks_of
from privcode.scoring.settings import TaskFile

GPU = "A100-80GB"
PEAK: dict[Dtype, float] = {"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12}
"""Its operations a second, from the data sheet, by the type of the weights."""
BANDWIDTH = 2.04e12
"""Bytes a second from its memory."""
UTILISATION = 0.3
"""Share of either that a run is taken to reach: a guess."""

FORWARD = 2
"""Operations for each token and weight: a product and a sum."""
BACKWARD = {"lora": 2, "full": 4}
"""Those of going back; a frozen weight needs no gradient of its own."""

_WIDTH: dict[Dtype, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
_PACKED = {"8bit": 1.0, "4bit": 0.5625}  # with the scale of each row, or of each 64 weights
_IN_NAME = re.compile(r"(?<![\d.x])(\d+(?:\.\d+)?)([MB])(?![A-Za-z\d])", re.IGNORECASE)

Counts = Mapping[Prompts | TaskFile, int | None]
"""How many prompts or tasks a public file holds; None: it is not here."""


@dataclass(frozen=True)
class Work:
    """Tokens through models, operations, seconds on one `GPU`, and bytes held at least."""

    tokens: float = 0
    flops: float = 0
    seconds: float = 0
    memory: int = 0

    def __add__(self, other: "Work") -> "Work":
        """One after the other."""
        return Work(
            self.tokens + other.tokens,
            self.flops + other.flops,
            self.seconds + other.seconds,
            max(self.memory, other.memory),
        )


@dataclass(frozen=True)
class Size:
    """Weights of a model, its adapter and the layers that have one (0: unknown), and of the other
    parts by kind; and whether the model's name alone says so."""

    base: int
    adapter: int = 0
    adapted: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    by_name: bool = False


def size(section: Model) -> Size:
    """Of a model with its adapter.

    Raises:
        UserError: its config is not on this machine, and its name tells no size.
    """
    return _size(section.model, section.lora.r, tuple(section.lora.targets or ()))


@cache
def _size(name: str, r: int = 1, targets: tuple[str, ...] = ()) -> Size:
    try:
        return Size(*sizes(name, r, list(targets) or None))
    except UserError as error:
        if str(error).startswith("lora."):
            raise
        if not (found := _IN_NAME.findall(Path(name).name)):
            raise UserError(f"{name}: its config is not here, and its name has no size") from None
    number, unit = found[-1]
    return Size(round(float(number) * {"M": 1e6, "B": 1e9}[unit.upper()]), by_name=True)


def passes(weights: int, tokens: float, operations: int, dtype: Dtype) -> Work:
    """`tokens` through a model, at so many `operations` for each of them and each weight."""
    flops = weights * tokens * operations
    return Work(tokens, flops, flops / (PEAK[dtype] * UTILISATION), weights * _WIDTH[dtype])


def sampling(
    weights: int, texts: float, prompt: float, new: float, batch: int, dtype: Dtype, same: int = 1
) -> Work:
    """Reading and continuing prompts, `batch` texts at a time; lengths in tokens.

    Each new token of a batch has all weights read from memory, which may take longer than the
    operations. `same` texts continue one prompt that is read once.
    """
    read = passes(weights, texts / same * prompt, FORWARD, dtype)
    written = passes(weights, texts * new, FORWARD, dtype)
    loaded = -(-texts // batch) * new * weights * _WIDTH[dtype]
    return read + replace(written, seconds=max(written.seconds, loaded / (BANDWIDTH * UTILISATION)))


def memory(config: Config) -> int | None:
    """Bytes that DP-SGD holds beside activations, by one process; None if unknown.

    The weights; in fp32 the adapter, its clipped sum, noise, gradient and two moments; and a row
    of per-record gradients for each record of a micro-batch.
    """
    section = config.sanitized
    try:
        known = size(section)
    except UserError:
        return None
    chosen = config.sanitize.micro_batch
    rows = 6 + (1 if chosen == "auto" else chosen)
    packed = _PACKED.get(section.quantization, _WIDTH[section.dtype])
    base = known.adapted * packed + (known.base - known.adapted) * _WIDTH[section.dtype]
    return round(base) + known.adapter * 4 * rows


def estimate(runs: Sequence[tuple[str, Config, Collection[str]]]) -> dict[str, Any]:
    """What runs cost, each by itself and all together.

    Args:
        runs: the name of each run's row (runs of one name are added up), its config, and the
            stages that it takes over from another run.

    Returns:
        {"gpu", "utilisation", "rows": [row], "all": row, "by_name": [model whose size is what its
        name says], "not_counted": [what, and why]}; a row is {"name", "runs", "dp_trainings":
        runs of `sanitize`, "tokens", "flops", "seconds", "memory": bytes that the largest run
        holds at least, "stages": {stage: seconds}}.
    """
    counts = _counts([config for _, config, _ in runs])
    rows: dict[str, dict[str, Any]] = {}
    work: dict[str, dict[str, Work]] = {}
    left_out: dict[str, dict[str, None]] = {}  # reason -> stages
    for name, config, taken in runs:
        todo = [stage for stage in stages_of(config) if stage not in taken]
        row = rows.setdefault(name, {"name": name, "runs": 0, "dp_trainings": 0})
        row["runs"] += 1
        row["dp_trainings"] += "sanitize" in todo
        done = work.setdefault(name, {})
        for stage in todo:
            try:
                done[stage] = done.get(stage, Work()) + _STAGES[stage](config, counts)
            except UserError as reason:
                left_out.setdefault(str(reason), {})[stage] = None
    whole = {
        stage: sum((done.get(stage, Work()) for done in work.values()), Work())
        for stage in _STAGES
        if any(stage in done for done in work.values())
    }
    together = {"name": "all"} | {
        key: sum(row[key] for row in rows.values()) for key in ("runs", "dp_trainings")
    }
    return {
        "gpu": GPU,
        "utilisation": UTILISATION,
        "rows": [row | _figures(work[name]) for name, row in rows.items()],
        "all": together | _figures(whole),
        "by_name": _by_name([config for _, config, _ in runs]),
        "not_counted": [f"{', '.join(stages)}: {reason}" for reason, stages in left_out.items()],
    }


def _figures(done: Mapping[str, Work]) -> dict[str, Any]:
    stages = {stage: round(work.seconds, 1) for stage, work in done.items()}
    return asdict(sum(done.values(), Work())) | {"stages": stages}


def _by_name(configs: Sequence[Config]) -> list[str]:
    sections = [m for c in configs for m in (c.junior, c.premium, c.describer) if m]
    found = []
    for name in sorted({section.model for section in sections}):
        try:
            if _size(name).by_name:
                found.append(name)
        except UserError:
            pass
    return found


def _counts(configs: Sequence[Config]) -> Counts:
    counts: dict[Prompts | TaskFile, int | None] = {}
    for prompts in {config.prompts for config in configs}:
        counts[prompts] = prompts.limit
        if prompts.public_file and Path(prompts.public_file).exists():
            counts[prompts] = len(prompts_of(prompts))
    for file in {file for config in configs for file in config.evaluate.tasks}:
        counts[file] = len(tasks_of(file)) if Path(file.file).exists() else None
    return counts


def _records(config: Config) -> int:
    """Private records by declaration, and the made-up ones among them."""
    planted = len(canaries.KINDS) * len(set(config.audit.places)) * sum(config.audit.repetitions)
    planted += config.audit.coin_canaries
    return config.privacy.units * config.privacy.max_records_per_unit + planted


def _samples(config: Config, counts: Counts) -> int:
    prompts = counts[config.prompts]
    if prompts is None:
        raise UserError(f"{config.prompts.file} is not here; prompts.limit would tell how many")
    return prompts * config.synthesize.samples_per_prompt


def _sanitize(config: Config, counts: Counts) -> Work:
    section, privacy = config.sanitized, config.privacy
    operations = FORWARD + BACKWARD["lora"]
    operations += FORWARD * (config.sanitize.syntax.schedule != "off")  # the untuned model beside
    operations += FORWARD * section.gradient_checkpointing  # activations once more
    drawn = privacy.steps * privacy.batch / privacy.units * _records(config)
    drawn *= 1 + (config.prompts.source == "synthesised")  # the prompt is learned by itself, too
    work = passes(size(section).base, drawn * section.max_tokens, operations, section.dtype)
    return replace(work, memory=memory(config) or 0)


def _synthesize(config: Config, counts: Counts) -> Work:
    section, settings, prompts = config.junior, config.synthesize, config.prompts
    samples, most = _samples(config, counts), section.max_tokens
    batch, dtype = settings.batch_size, section.dtype
    weights = size(section).base
    same = settings.samples_per_prompt if settings.backend == "vllm" else 1
    work = sampling(weights, samples, most, settings.max_new_tokens, batch, dtype, same)
    if prompts.source == "synthesised":
        work += sampling(weights, counts[prompts] or 0, most, prompts.max_new_tokens, batch, dtype)
    elif prompts.source == "described" and config.describer:
        model, trip = config.describer, config.validate_.round_trip
        read, new = settings.max_new_tokens, prompts.max_new_tokens
        work += sampling(_size(model.model).base, samples, read, new, trip.batch_size, trip.dtype)
    return work


def _validate(config: Config, counts: Counts) -> Work:
    trip, describer = config.validate_.round_trip, config.describer
    sure = Work()
    if config.validate_.surest < 1:
        section, most = config.junior, config.junior.max_tokens + config.synthesize.max_new_tokens
        tokens = _samples(config, counts) * most
        sure = passes(size(section).base, tokens, FORWARD, section.dtype)
    if describer is None or trip.method == "off":
        return sure
    weights, samples = _size(describer.model).base, _samples(config, counts)
    code, prompt = config.synthesize.max_new_tokens, config.junior.max_tokens
    if trip.method == "likelihood":  # of the prompt after the code, and after none
        return sure + passes(weights, samples * (code + 2 * prompt), FORWARD, trip.dtype)
    each = trip.samples if trip.temperature else 1
    same = each if trip.backend == "vllm" else 1  # it keeps what it has read of the code
    new, batch = trip.max_new_tokens, trip.batch_size
    return sure + sampling(weights, samples * each, code, new, batch, trip.dtype, same)


def _tune(config: Config, counts: Counts) -> Work:
    section, settings = config.premium, config.boost
    if config.method in ("nondpft", "jft"):
        pairs = min(_records(config), settings.limit or _records(config))
    else:
        pairs = _samples(config, counts)
    known, lora = size(section), settings.method == "lora"
    operations = FORWARD + BACKWARD[settings.method]
    operations += FORWARD * section.gradient_checkpointing  # activations once more
    # On a GPU boosting computes in bf16.
    tokens = settings.epochs * pairs * section.max_tokens
    work = passes(known.base, tokens, operations, "bfloat16")
    # A gradient and two moments for each weight that is trained; an adapter's are in fp32.
    held = known.base * _WIDTH[section.dtype]
    return replace(work, memory=held + known.adapter * 16 if lora else held * 4)


def _evaluate(config: Config, counts: Counts) -> Work:
    settings, total = config.evaluate, Work()
    tasks = 0
    for file in settings.tasks:
        if (found := counts[file]) is None:
            raise UserError(f"{file.file} is not here")
        tasks += found
    there = {"base": True, "tuned": config.method != "base", "junior": config.method == "privcode"}
    for label in settings.models:
        section = config.labelled(label)
        if there[label]:
            total += sampling(
                size(section).base,
                tasks * (settings.samples if settings.temperature else 1),
                section.max_tokens,
                settings.max_new_tokens,
                settings.batch_size,
                section.dtype,
            )
    return total


def _audit(config: Config, counts: Counts) -> Work:
    settings, total = config.audit, Work()
    # Made-up texts have at most as many tokens as characters.
    opening = config.prompts.opening
    planted = [
        (len(prompt), len(prompt + answer))
        for canary in canaries.plant(settings.repetitions, settings.seed, settings.places)
        for prompt, answer in canary.pairs(opening)
    ]
    thrown = [c.record for c in coin_canaries.throw(settings.coin_canaries, settings.seed)]
    ranked = sum(whole for _, whole in planted) * (settings.candidates + 1)
    coins = sum(len(record.prompt + record.completion) for record in thrown)
    held_out = 2 * settings.holdout * config.privacy.max_records_per_unit
    sections = [config.premium] + [config.junior] * (config.method == "privcode")
    for section in sections:
        weights = size(section).base
        scored = ranked * (settings.candidates > 0) + coins + held_out * section.max_tokens
        total += passes(weights, 2 * scored, FORWARD, section.dtype)  # untuned and tuned
        for prompt, _ in planted:
            total += sampling(
                weights,
                1 + settings.samples,
                prompt,
                settings.max_new_tokens,
                config.evaluate.batch_size,
                section.dtype,
            )
    return total


_STAGES: dict[str, Callable[[Config, Counts], Work]] = {
    "pretune": _tune,
    "sanitize": _sanitize,
    "synthesize": _synthesize,
    "validate": _validate,
    "boost": _tune,
    "evaluate": _evaluate,
    "audit": _audit,
}
