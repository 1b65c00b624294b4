"""What the stages of a run do: tokens through models, by each kind of work.

Promises:
- Amounts are made from declared, public numbers alone, never from private records.
- With `LONGEST`, every text is counted at the longest that the config allows.
- A model's size is that of its config. Without a config the name gives it.

Does not: know how fast anything is (`cost` does), or count attention between tokens, the adapter,
similarity models and the programs that are run.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from privcode.audit import canaries, coin_canaries
from privcode.config import Config
from privcode.data.settings import Prompts
from privcode.errors import UserError
from privcode.generation.settings import Sampled
from privcode.models import sizes
from privcode.models.settings import Dtype, Model
from privcode.pipeline.rates import Doing
from privcode.scoring.settings import TaskFile

FORWARD = 2
"""Operations for each token and weight: a product and a sum."""
BACKWARD = {"lora": 2, "full": 4}
"""Those of going back; a frozen weight needs no gradient of its own."""

WIDTH: dict[Dtype, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
_PACKED = {"8bit": 1.0, "4bit": 0.5625}  # with the scale of each row, or of each 64 weights
_IN_NAME = re.compile(r"(?<![\d.x])(\d+(?:\.\d+)?)([MB])(?![A-Za-z\d])", re.IGNORECASE)

Counts = Mapping[Prompts | TaskFile, int | None]
"""How many prompts or tasks a public file holds; None: it is not here."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of texts, where they are shorter than the config allows.

    Attributes:
        prompt: of a record's prompt.
        answer: of code.
        public: of a public prompt.
    """

    prompt: float = math.inf
    answer: float = math.inf
    public: float = math.inf

    @property
    def record(self) -> float:
        """Of a record: prompt and code."""
        return self.prompt + self.answer

    @property
    def pair(self) -> float:
        """Of a synthetic pair: public prompt and code."""
        return self.public + self.answer


LONGEST = Lengths()


@dataclass(frozen=True)
class Demand:
    """Tokens that go through one model.

    Attributes:
        doing: the kind of work.
        weights: of the model.
        operations: for each weight and each token that is read or trained on.
        read: tokens that are read or trained on.
        written: new tokens that are sampled.
        rounds: how often all weights are read from memory for them, one after the other.
        texts: how many texts, which workers can share.
        spread: whether workers of a cluster can share them.
        held: bytes that are held at least, if not just the weights.
        compute: what is computed in, if not in the type of the weights.
        sampled: the section that says how the model is sampled.
    """

    doing: Doing
    weights: int
    operations: int
    read: float
    written: float = 0
    rounds: float = 0
    texts: float = 0
    spread: bool = False
    held: int | None = None
    compute: Dtype | None = None
    sampled: Sampled | None = field(default=None, compare=False)


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
    return size_of(section.model, section.lora.r, tuple(section.lora.targets or ()))


@cache
def size_of(name: str, r: int = 1, targets: tuple[str, ...] = ()) -> Size:
    """Of a model by its name, with an adapter of rank `r`. Raises what `size` raises."""
    try:
        return Size(*sizes(name, r, list(targets) or None))
    except UserError as error:
        if str(error).startswith("lora."):
            raise
        if not (found := _IN_NAME.findall(Path(name).name)):
            raise UserError(f"{name}: its config is not here, and its name has no size") from None
    number, unit = found[-1]
    return Size(round(float(number) * {"M": 1e6, "B": 1e9}[unit.upper()]), by_name=True)


def memory(config: Config, processes: int = 1) -> int | None:
    """Bytes that DP-SGD holds without activations, by one process. None if unknown.

    The weights, of which each of `processes` has its part with `sanitize.shard`; in fp32 the
    adapter, its clipped sum, noise, gradient and two moments; and a row of per-record gradients
    for each record of a micro-batch.
    """
    section = config.sanitized
    try:
        known = size(section)
    except UserError:
        return None
    chosen = config.sanitize.micro_batch
    rows = 6 + (1 if chosen == "auto" else chosen)
    width = WIDTH[section.dtype]
    packed = _PACKED.get(section.quantization, width)
    layers, rest = known.adapted * packed, (known.base - known.adapted) * width
    if known.by_name:  # all of it is taken as layers
        layers, rest = known.base * packed, 0
    if config.sanitize.shard:
        layers /= processes
    return round(layers + rest) + known.adapter * 4 * rows


def records_of(config: Config) -> int:
    """Private records by declaration, and the made-up ones among them."""
    planted = len(canaries.KINDS) * len(set(config.audit.places)) * sum(config.audit.repetitions)
    planted += config.audit.coin_canaries
    return config.privacy.units * config.privacy.max_records_per_unit + planted


def lessons_of(config: Config) -> int:
    """Pairs that are trained on for each record: the prompt may be learned by itself, too."""
    return 1 + config.prompts.by_junior


def samples_of(config: Config, counts: Counts) -> int:
    """Samples of the junior.

    Raises:
        UserError: the file of prompts is not here, and nothing tells their number.
    """
    prompts = counts[config.prompts]
    if prompts is None:
        raise UserError(f"{config.prompts.file} is not here; prompts.limit would tell how many")
    return prompts * config.synthesize.samples_per_prompt


def _trained(what: Any, section: Model, batch: Any, **more: Any) -> Doing:
    lora = section.lora
    adapter = {} if more.get("rank") == 0 else {"rank": lora.r, "targets": lora.targets or ()}
    return Doing(
        what=what,
        model=section.model,
        dtype=section.dtype,
        batch=batch,
        length=section.max_tokens,
        quantization=section.quantization,
        checkpointing=section.gradient_checkpointing,
        **(adapter | more),
    )


def _sampling(
    section: Model,
    weights: int,
    sampled: Sampled,
    batch: int,
    texts: float,
    prompt: float,
    new: float,
    most: float,
    same: int = 1,
    adapter: bool = False,
) -> Demand:
    """Reading and continuing prompts, `batch` texts at a time; lengths in tokens.

    Each new token of a batch has all weights read from memory. `same` texts continue one prompt,
    which vLLM reads once. A batch of another backend goes on until its longest text, of `most`
    tokens, ends.
    """
    vllm = sampled.backend == "vllm"
    doing = Doing(
        what="sample",
        model=section.model,
        dtype=section.dtype,
        batch=batch,
        rank=section.lora.r if adapter else 0,
        targets=tuple(section.lora.targets or ()) if adapter else (),
        backend=sampled.backend,
        gpus=sampled.vllm.tensor_parallel if vllm else 1,
        packed=sampled.vllm.quantization if vllm else None,
    )
    return Demand(
        doing,
        weights,
        FORWARD,
        texts / (same if vllm else 1) * prompt,
        texts * new,
        -(-texts // batch) * (new if vllm else most),
        texts,
        spread=sampled.backend != "endpoint",
        sampled=sampled,
    )


def _reading(section: Model, weights: int, batch: int, read: float, texts: float = 0) -> Demand:
    doing = Doing(what="read", model=section.model, dtype=section.dtype, batch=batch)
    return Demand(doing, weights, FORWARD, read, texts=texts, spread=texts > 0)


def _sanitize(config: Config, counts: Counts, lengths: Lengths) -> list[Demand]:
    section, privacy, settings = config.sanitized, config.privacy, config.sanitize
    syntax = settings.syntax.schedule != "off"
    operations = FORWARD + BACKWARD["lora"]
    operations += FORWARD * (syntax or config.latent is not None)  # the untuned model
    operations += FORWARD * section.gradient_checkpointing  # activations once more
    drawn = privacy.steps * privacy.batch / privacy.units * records_of(config)
    drawn *= lessons_of(config)
    doing = _trained("dp", section, settings.micro_batch, syntax=syntax)
    read = drawn * min(section.max_tokens, lengths.record)
    return [Demand(doing, size(section).base, operations, read, held=memory(config) or 0)]


def _synthesize(config: Config, counts: Counts, lengths: Lengths) -> list[Demand]:
    section, settings, prompts = config.junior, config.synthesize, config.prompts
    samples, most = samples_of(config, counts), section.max_tokens
    batch, weights, new = settings.batch_size, size(section).base, settings.max_new_tokens
    prompt, code = min(most, lengths.public), min(new, lengths.answer)
    same = settings.samples_per_prompt
    tuned = config.method != "control"
    done = [_sampling(section, weights, settings, batch, samples, prompt, code, new, same, tuned)]
    words, said = prompts.max_new_tokens, min(prompts.max_new_tokens, lengths.prompt)
    if prompts.by_junior:
        texts = counts[prompts] or 0
        done.append(
            _sampling(section, weights, settings, batch, texts, prompt, said, words, 1, tuned)
        )
    elif prompts.source == "described" and config.describer:
        model, trip = config.describer, config.validate_.round_trip
        weights = size_of(model.model).base
        done.append(_sampling(model, weights, trip, trip.batch_size, samples, code, said, words))
    return done


def _validate(config: Config, counts: Counts, lengths: Lengths) -> list[Demand]:
    trip, describer, done = config.validate_.round_trip, config.describer, list[Demand]()
    prompt = min(config.junior.max_tokens, lengths.public)
    code = min(config.synthesize.max_new_tokens, lengths.answer)
    if config.validate_.surest < 1:
        section, samples = config.junior, samples_of(config, counts)
        batch = 8 if config.sanitize.micro_batch == "auto" else config.sanitize.micro_batch
        done.append(_reading(section, size(section).base, batch, samples * (prompt + code)))
    if describer is None or trip.method == "off":
        return done
    weights, samples = size_of(describer.model).base, samples_of(config, counts)
    if trip.method == "likelihood":  # of the prompt after the code, and after none
        read = samples * (code + 2 * prompt)
        return [*done, _reading(describer, weights, trip.batch_size, read, samples)]
    each = trip.samples if trip.temperature else 1
    most = trip.max_new_tokens
    said = min(most, lengths.public)  # a description is as long as what it should resemble
    texts, batch = samples * each, trip.batch_size
    return [
        *done,
        _sampling(describer, weights, trip, batch, texts, code, said, most, each),
    ]


def _tune(config: Config, counts: Counts, lengths: Lengths) -> list[Demand]:
    section, settings = config.premium, config.boost
    if config.method in ("nondpft", "jft"):
        pairs = min(records_of(config), settings.limit or records_of(config)) * lessons_of(config)
        length = lengths.record
    else:
        pairs, length = samples_of(config, counts), lengths.pair
    known, lora = size(section), settings.method == "lora"
    operations = FORWARD + BACKWARD[settings.method]
    operations += FORWARD * section.gradient_checkpointing  # activations once more
    tokens = settings.epochs * pairs * min(section.max_tokens, length)
    # A gradient and two moments for each weight that is trained; an adapter's are in fp32.
    held = known.base * WIDTH[section.dtype]
    held = held + known.adapter * 16 if lora else held * 4
    more: dict[str, Any] = {} if lora else {"rank": 0}
    doing = _trained("tune", section, settings.micro_batch, **more)
    # On a GPU boosting computes in bf16.
    done = Demand(doing, known.base, operations, tokens, held=held, compute="bfloat16")
    return [replace(done, texts=settings.epochs * pairs)]


def _evaluate(config: Config, counts: Counts, lengths: Lengths) -> list[Demand]:
    settings, done, tasks = config.evaluate, list[Demand](), 0
    for file in settings.tasks:
        if (found := counts[file]) is None:
            raise UserError(f"{file.file} is not here")
        tasks += found
    there = {"base": True, "tuned": config.method != "base", "junior": config.method == "privcode"}
    new = min(settings.max_new_tokens, lengths.answer)
    for label in settings.models:
        section = config.labelled(label)
        if there[label]:
            lora = label == "junior" or config.method in ("dpft", "jft")
            lora = lora or config.boost.method == "lora"
            done.append(
                _sampling(
                    section,
                    size(section).base,
                    settings,
                    settings.batch_size,
                    tasks * (settings.samples if settings.temperature else 1),
                    min(section.max_tokens, lengths.prompt),
                    new,
                    settings.max_new_tokens,
                    adapter=label != "base" and lora,
                )
            )
    return done


def _audit(config: Config, counts: Counts, lengths: Lengths) -> list[Demand]:
    settings, done = config.audit, list[Demand]()
    # Made-up texts have at most as many tokens as characters.
    opening = config.prompts.opening
    planted = [
        (len(pair.prompt), len(pair.prompt + pair.completion))
        for canary in canaries.plant(settings.repetitions, settings.seed, settings.places)
        for pair in canary.pairs(opening)
    ]
    thrown = [c.record for c in coin_canaries.throw(settings.coin_canaries, settings.seed)]
    ranked = sum(whole for _, whole in planted) * (settings.candidates + 1)
    coins = sum(len(record.prompt + record.completion) for record in thrown)
    held_out = 2 * settings.holdout * config.privacy.max_records_per_unit
    batch, here = config.evaluate.batch_size, Sampled()
    for section in [config.premium] + [config.junior] * (config.method == "privcode"):
        weights = size(section).base
        scored: float = ranked * (settings.candidates > 0) + coins
        scored += held_out * min(section.max_tokens, lengths.record)
        done.append(_reading(section, weights, batch, 2 * scored))  # untuned and tuned
        new, texts = settings.max_new_tokens, 1 + settings.samples
        asked = (
            _sampling(section, weights, here, batch, texts, prompt, new, new, adapter=True)
            for prompt, _ in planted
        )
        done += asked
    return [_alone(demand) for demand in done]


def _alone(demand: Demand) -> Demand:
    return replace(demand, spread=False)


STAGES: dict[str, Callable[[Config, Counts, Lengths], list[Demand]]] = {
    "pretune": _tune,
    "sanitize": _sanitize,
    "synthesize": _synthesize,
    "validate": _validate,
    "boost": _tune,
    "evaluate": _evaluate,
    "audit": _audit,
}
