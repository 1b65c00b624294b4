"""How fast is this machine at a config's work? `privcode doctor --measure CONFIG`.

Promises:
- Every text is made up here. No data, prompts or tasks of the config are read, and nothing is
  spent: the ledger that DP-SGD wants is in a temporary folder.
- Work is done by the code that a run uses, with the config's models and settings, and timed after a
  warm-up. The time to load a model does not count.
- What cannot be measured is named with the reason, and the rest goes on.

Does not: ask a server. How fast it is depends on who else asks.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privcode.config import Compare, Config
from privcode.doctor import PROGRAMS
from privcode.errors import UserError
from privcode.generation.settings import Sampled
from privcode.pipeline.arms import arms
from privcode.pipeline.methods import stages_of
from privcode.pipeline.rates import Doing, Rate, RatesFile, this_device, versions
from privcode.pipeline.work import LONGEST, STAGES

_STEPS = 4  # of training; the first warms up
_PARTS = 2  # micro-batches in a step of DP-SGD
_NEW = 64  # most new tokens of a sampled text
_PROMPTS = "Question: Write a function that adds {} to its argument.\n\nAnswer:\n"
_LINE = "def add_{0}(value):\n    return value + {0}\n"
_RUNS = 48  # programs


@dataclass
class Found:
    """What was measured, and what could not be: lines."""

    rates: list[Rate] = field(default_factory=list)
    programs: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def file(self) -> RatesFile:
        """As it is kept."""
        return RatesFile(
            privcode_rates=1,
            device=this_device(),
            versions=versions(),
            rates=self.rates,
            programs=self.programs,
        )


class _Some(dict[Any, int]):
    """One prompt or task in every file: kinds of work do not depend on their number."""

    def __missing__(self, key: Any) -> int:
        return 1


def wanted(config: Config) -> tuple[dict[Doing, Sampled | None], list[str], list[str]]:
    """The kinds of work in a config and all its arms, the languages, and what is left out."""
    runs = [config]
    if config.compare != Compare():
        runs = [arm.config for arm in arms(config).values()]
    found: dict[Doing, Sampled | None] = {}
    left_out, languages = dict[str, None](), dict[str, None]()
    for run in runs:
        for stage in stages_of(run):
            if stage == "evaluate" or (stage == "validate" and run.validate_.execution.enabled):
                languages[run.data.language or "python"] = None
            try:
                demands = STAGES[stage](run, _Some(), LONGEST)
            except UserError as error:
                left_out[f"{stage}: {error}"] = None
                continue
            for demand in demands:
                if demand.doing.backend == "endpoint":
                    left_out[f"sample {demand.doing.model}: a server does it"] = None
                elif demand.read:
                    found.setdefault(demand.doing, demand.sampled)
    return found, list(languages), list(left_out)


def measure(config: Config, progress: Callable[[str], object] = lambda what: None) -> Found:
    """The rates of a config's work on this machine.

    Args:
        config: the config.
        progress: called with what was just done.

    Raises:
        UserError: nothing at all could be measured.
    """
    doings, languages, left_out = wanted(config)
    found = Found(left_out=left_out)
    for doing, sampled in doings.items():
        with _tried(found, f"{doing.what} {doing.model}"), _left_alone():
            found.rates.append(_MEASURES[doing.what](doing, sampled or Sampled()))
        progress(f"{doing.what} {doing.model}")
    for language in languages:
        with _tried(found, f"programs in {language}"):
            found.programs[language] = _programs(language)
        progress(f"programs in {language}")
    if not found.rates:
        reasons = f" ({found.left_out[0]})" if found.left_out else ""
        raise UserError(f"nothing could be measured{reasons}; put the models on this machine")
    return found


def pieces(config: Config) -> int:
    """How often `measure` reports progress."""
    doings, languages, _ = wanted(config)
    return len(doings) + len(languages)


@contextmanager
def _tried(found: Found, what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        found.left_out.append(f"{what}: {error}")
    except (RuntimeError, MemoryError, ValueError, ImportError) as error:  # also no memory left
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        found.left_out.append(f"{what}: {type(error).__name__}: {line[:200]}")


@contextmanager
def _left_alone() -> Iterator[None]:
    """Random state is as before, and memory is free again."""
    import torch

    from privcode.generation.backends import free

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            free()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _rate(doing: Doing, tokens: float, seconds: float, **more: Any) -> Rate:
    seconds = max(seconds, 1e-6)
    return Rate(doing=doing, read=tokens / seconds, tokens=int(tokens), seconds=seconds, **more)


def _model(doing: Doing) -> Any:
    """The model of `doing`, with the adapter that it has."""
    from privcode.models import attach_lora, load_model

    model = load_model(doing.model, doing.dtype, quantization=doing.quantization)
    if doing.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if doing.rank:
        model = attach_lora(model, doing.rank, doing.rank, 0.0, list(doing.targets) or None)
    return model


def _dp(doing: Doing, _: Sampled) -> Rate:
    from privcode.privacy import make_plan
    from privcode.privacy.ledger import Ledger
    from privcode.training.dp_sgd import sanitize
    from privcode.training.independence import made_up
    from privcode.training.learner import Learner, attend_plainly, fitting_micro_batch
    from privcode.training.settings import Sanitize, Syntax

    model = _model(doing)
    learner = Learner(model, 0, doing.length)
    attend_plainly(learner)
    vocabulary = _vocabulary(model)

    def plan(records: int) -> Any:
        # Everybody takes part in every step, so that all steps are alike.
        return make_plan(
            epsilon=None,
            noise_multiplier=1.0,
            delta=1e-6,
            units=records,
            batch=records,
            steps=_STEPS,
        )

    most = doing.batch
    most = fitting_micro_batch(learner, plan(256)) if most == "auto" else most
    records = _PARTS * most
    examples = [made_up(doing.length, vocabulary, seed) for seed in range(records)]
    settings = Sanitize(
        micro_batch=most,
        checkpoint_every=10 * _STEPS,
        syntax=Syntax(schedule="constant" if doing.syntax else "off"),
    )
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        ledger.begin(plan(records), "made up")
        units = [[index] for index in range(records)]

        def step(_: int) -> None:
            times.append(time.perf_counter())

        checkpoint = Path(folder) / "checkpoint"
        sanitize(learner, examples, units, plan(records), settings, ledger, checkpoint, step)
    # Before the first step, after it, …. The last step also writes a checkpoint.
    seconds = times[-2] - times[1]
    return _rate(doing, records * doing.length * (_STEPS - 2), seconds)


def _tune(doing: Doing, _: Sampled) -> Rate:
    from privcode.models import load_model, load_tokenizer
    from privcode.models.settings import Lora, Model
    from privcode.training.settings import Boost
    from privcode.training.tuning import boost, encode

    batch = int(doing.batch)
    lora = Lora(r=doing.rank or 1, alpha=1, targets=list(doing.targets) or None)
    section = Model(
        model=doing.model,
        dtype=doing.dtype,
        quantization=doing.quantization,
        lora=lora,
        max_tokens=doing.length,
        gradient_checkpointing=doing.checkpointing,
    )
    settings = Boost(
        method="lora" if doing.rank else "full", epochs=1, batch_size=batch, micro_batch=batch
    )
    tokenizer = load_tokenizer(doing.model)
    pair = ("Question: add\n\nAnswer:\n", _text(tokenizer, doing.length - 32))
    pairs = [pair] * (batch * _STEPS)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        boost(
            load_model(doing.model, doing.dtype, quantization=doing.quantization),
            tokenizer,
            pairs,
            section,
            settings,
            Path(folder) / "checkpoints",
            Path(folder) / "tuned",
            lambda _: times.append(time.perf_counter()),
        )
    (row,) = encode(tokenizer, [pair], doing.length)
    tokens = len(row["input_ids"]) * batch * (len(times) - 1)
    return _rate(doing, tokens, times[-1] - times[0])


def _read(doing: Doing, _: Sampled) -> Rate:
    from privcode.models import load_model
    from privcode.training.independence import made_up
    from privcode.training.likelihood import token_log_probabilities

    model = load_model(doing.model, doing.dtype)
    rows = 8 if doing.batch == "auto" else doing.batch
    length = min(256, _context(model))
    vocabulary = _vocabulary(model)
    examples = [made_up(length, vocabulary, seed) for seed in range(rows)]
    token_log_probabilities(model, examples, rows)
    began, passes = time.perf_counter(), 0
    while passes < 2 or (time.perf_counter() - began < 1 and passes < 50):
        token_log_probabilities(model, examples, rows)
        passes += 1
    return _rate(doing, rows * length * passes, time.perf_counter() - began)


def _sample(doing: Doing, sampled: Sampled) -> Rate:
    """Reading is timed by texts of one token, and writing by what longer texts take more."""
    from privcode.generation import Sampling, Weights
    from privcode.generation.backends import backend_of
    from privcode.models import answer_tokens, load_tokenizer, prompt_tokens, save_model

    make = backend_of(sampled, "backend")
    tokenizer = load_tokenizer(doing.model)
    rows = int(doing.batch)
    prompts = [_PROMPTS.format(number) for number in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        adapters: tuple[Path, ...] = ()
        if doing.rank:
            adapters = (Path(folder) / "adapter",)
            save_model(_model(doing), adapters[0], base=doing.model)
        weights = Weights(doing.model, doing.model, doing.dtype, adapters, label="base")
        generator = make(weights, rows)

        def drawn(new: int, chunk: int) -> tuple[list[list[str]], float]:
            began = time.perf_counter()
            texts = generator.generate(prompts, Sampling(max_new_tokens=new, seed=1), chunk)
            return texts, time.perf_counter() - began

        generator.generate(prompts[:2], Sampling(max_new_tokens=4, seed=1), 0)
        _, reading = drawn(1, 1)
        texts, both = drawn(_NEW, 2)
    read = sum(len(prompt_tokens(tokenizer, prompt)) for prompt in prompts)
    lengths = (len(answer_tokens(tokenizer, text).ids) for (text,) in texts)
    written = sum(min(length + 1, _NEW) for length in lengths) - rows  # the first were read
    writing = max(both - reading, 1e-6)
    speed = max(written, 1) / writing
    rate = _rate(doing, read, reading, written=speed)
    return rate.model_copy(update={"tokens": read + written, "seconds": reading + both})


def _programs(language: str) -> float:
    """Programs a second in the sandbox that a run would choose."""
    from privcode.execution import Program, execute

    code = PROGRAMS[language]
    list(execute([Program("warm up", code, language)]))
    began = time.perf_counter()
    outcomes = list(execute([Program(str(number), code, language) for number in range(_RUNS)]))
    seconds = time.perf_counter() - began
    if failed := [o for o in outcomes if o.status != "ok"]:
        raise UserError(failed[0].error or failed[0].status)
    return round(_RUNS / seconds, 2)


def _vocabulary(model: Any) -> Any:
    known = model.get_input_embeddings().weight.detach().isfinite().all(1)
    return known.nonzero()[:, 0].cpu()


def _context(model: Any) -> int:
    from privcode.models import context_length

    return context_length(model.config)


def _text(tokenizer: Any, tokens: int) -> str:
    """Made-up code of about so many tokens, and not more."""
    from privcode.models import answer_tokens

    lines: list[str] = []
    text = _LINE.format(0)
    while len(answer_tokens(tokenizer, text).ids) < tokens:
        lines.append(_LINE.format(len(lines) + 1))
        more = text + lines[-1]
        if len(answer_tokens(tokenizer, more).ids) > tokens:
            break
        text = more
    return text


_MEASURES: dict[str, Callable[[Doing, Sampled], Rate]] = {
    "dp": _dp,
    "tune": _tune,
    "read": _read,
    "sample": _sample,
}


def shown(found: Found) -> Sequence[str]:
    """The rates, a line each."""
    lines = []
    for rate in found.rates:
        doing = rate.doing
        how = [doing.dtype, f"batch {doing.batch}"]
        how += [doing.quantization] * (doing.quantization != "none")
        how += [doing.backend] * (doing.what == "sample")
        how += ["PrivSA"] * doing.syntax + ["checkpointing"] * doing.checkpointing
        words = {"dp": "DP training", "tune": "plain training", "read": "reading"}
        written = "" if rate.written is None else f", {rate.written:,.0f} new tokens/s"
        what = words.get(doing.what, "sampling")
        read = "" if doing.what != "sample" else " of the prompts"
        lines.append(
            f"{what:<15} {doing.model:<32} {rate.read:>10,.0f} tokens/s{read}{written} "
            f"({', '.join(how)})"
        )
    for language, speed in found.programs.items():
        lines.append(f"{'sandbox':<15} {language:<32} {speed:>10,.1f} programs/s")
    return lines
