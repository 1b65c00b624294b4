"""The models of a run: which one a label means, how it is loaded, asked, merged.

Promises: a label means the same in every stage; a prompt too long for its model gets an empty
answer, not a shortened question.
Does not: train; the stages do.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from privcode.cluster import Engine, Here, Workers
from privcode.cluster.chunks import in_order
from privcode.config import Config
from privcode.console import progress_bar, say
from privcode.data.records import Record, Unit
from privcode.distributed import in_turn, world
from privcode.files import Row, read_json
from privcode.generation import Generator, Sampling, Weights
from privcode.generation.backends import backend_of
from privcode.generation.local import LocalGenerator, load
from privcode.models import (
    asking,
    attach_latent,
    attach_lora,
    device_here,
    is_chat,
    load_adapter,
    load_model,
    render,
    save_merged,
    tokenizer_of,
)
from privcode.models.settings import Model
from privcode.models.templates import CHAT
from privcode.pipeline.layout import RunDirectory
from privcode.training.likelihood import record_log_probabilities
from privcode.validation.settings import RoundTrip

MICRO_BATCH = "micro_batch.json"
"""In `private/`, of a run with `sanitize.micro_batch: auto`: how many records fitted."""


def weights_of(run: RunDirectory, label: str) -> Weights:
    """The files of the model called "base", "tuned", "junior" or "untuned junior"."""

    section = run.config.labelled(label)
    tuned = {"junior": run.junior, "tuned": run.premium}.get(label)
    if label == "junior" and run.config.method == "control":
        tuned = None
    end = end_of(section)
    if tuned and not (tuned / "adapter_config.json").exists():  # fully tuned
        return Weights(str(tuned), section.model, section.dtype, end=end, label=label)
    before = (run.pretuned,) if label == "tuned" and run.config.method == "jft" else ()
    last = (tuned,) if tuned else ()
    return Weights(section.model, section.model, section.dtype, (*before, *last), end, label)


def end_of(section: Model) -> str | None:
    """The token that ends an answer, where it is not the tokenizer's own."""
    return tokenizer_of(section).eos_token if is_chat(section.template) else None


def describer(config: Config, answers: Path) -> Generator:
    """The model that describes code.

    A server makes a chat itself, so that the describer's tokenizer need not be on this machine.

    Args:
        config: names one.
        answers: see `backend_of`.
    """
    trip, section = config.validate_.round_trip, config.describer
    assert section is not None
    backend = backend_of(trip, "validate.round_trip", answers)
    if asked_there(trip, section):
        from privcode.generation.endpoint import load_describer

        chat = section.template == CHAT
        return load_describer(trip.endpoint, chat, section.system, trip.batch_size, answers)
    weights = Weights(
        section.model, section.model, section.dtype, end=end_of(section), label="describer"
    )
    return backend(weights, trip.batch_size)


def asking_describer(config: Config) -> Callable[[str], str]:
    """The function from a question to the text that the describer gets."""
    trip, section = config.validate_.round_trip, config.describer
    assert section is not None
    return str if asked_there(trip, section) else asking_of(section)


def question_of(config: Config) -> Callable[[str], str]:
    """The function from code to the text that the describer gets."""
    trip, asking = config.validate_.round_trip, asking_describer(config)
    return lambda code: asking(render(trip.template, code=code))


def asked_there(trip: RoundTrip, section: Model) -> bool:
    """Whether a server puts the questions to the describer in its own template."""
    return trip.backend == "endpoint" and section.template in (CHAT, "{prompt}")


def loaded(run: RunDirectory, label: str, batch_size: int) -> LocalGenerator:
    """That model in this process: for what needs its weights or probabilities."""

    return load(weights_of(run, label), batch_size)


def trainable(run: RunDirectory) -> Any:
    """What `sanitize` tunes: the model with a new adapter, always the same at one seed.

    With `sanitize.shard` the processes load it one after the other, and each keeps its part.
    """
    from privcode.models.sharding import mesh_of, shard

    if not run.config.sanitize.shard:
        return _with_adapter(run)
    if world() == 1:
        say("sanitize.shard: one process holds the whole model; start several with torchrun")
        return _with_adapter(run)
    mesh = mesh_of(device_here())
    return in_turn(lambda: shard(_with_adapter(run, "cpu"), mesh))


def start_of(model: Any, tokenizer: Any, most: int) -> dict[str, str]:
    """What the bits of training follow from, in addition to settings, data and `directory.bits`.

    Digests of the weights that this process holds and of the tokenizer; records in a micro-batch.
    """
    import torch

    weights = hashlib.sha256()
    for weight in chain(model.parameters(), model.buffers()):
        held = getattr(weight, "to_local", weight.detach)().detach().cpu()  # its part, if divided
        weights.update(held.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    words = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    found = {"weights": weights.hexdigest(), "tokenizer": words.hexdigest()}
    return found | {"micro_batch": str(most)}


def _with_adapter(run: RunDirectory, device: str | None = None) -> Any:
    import torch

    section = run.config.sanitized
    model = load_model(section.model, section.dtype, device, section.quantization)
    if run.config.method == "jft":
        model = load_adapter(model, run.pretuned).merge_and_unload()
    if section.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(run.config.sanitize.seed)  # the adapter's start
    lora = section.lora
    adapted = attach_lora(model, lora.r, lora.alpha, lora.dropout, lora.targets)
    if latent := run.config.latent:
        attach_latent(adapted, latent.size, latent.prefix)
    return adapted


def micro_batch(run: RunDirectory) -> int:
    """`sanitize.micro_batch` as a number: of "auto", what was found when the run began."""
    chosen = run.config.sanitize.micro_batch
    if chosen != "auto":
        return chosen
    kept = run.private / MICRO_BATCH
    return int(read_json(kept)["records"]) if kept.exists() else 8


def certainty(run: RunDirectory, samples: Iterable[Row], number: int) -> dict[Any, float]:
    """By sample's id, the mean log-probability of its tokens under the junior.

    `samples` are `number` rows. A few thousand of them are in memory.
    """

    section, size = run.config.junior, micro_batch(run)
    longest = section.max_tokens + run.config.synthesize.max_new_tokens
    junior, asking = loaded(run, "junior", size), asking_of(section)
    sure: dict[Any, float] = {}
    waiting = iter(samples)
    with progress_bar("certainty", number) as progress:
        while some := list(islice(waiting, 8192)):
            records = [
                Record(row["prompt"], row["completion"], None, Unit("row", str(row["id"])), 0)
                for row in some
            ]
            found = record_log_probabilities(junior, records, asking, longest, size, progress)
            sure |= {row["id"]: float(f.mean()) for row, (f, _) in zip(some, found, strict=True)}
    return sure


def ask(run: RunDirectory, label: str, prompts: list[tuple[str, str]]) -> list[str]:
    """What the model called `label` answers: each prompt's likeliest text, and samples.

    Each prompt comes with how the answer to it begins.
    """
    config = run.config.audit
    section = run.config.labelled(label)
    size = run.config.evaluate.batch_size
    generator = loaded(run, label, size)
    asking = asking_of(section)
    written: dict[bool, list[str]] = {False: [], True: []}
    for prompt, begun in prompts:
        written[prompt == run.config.prompts.opening].append(asking(prompt) + begun)
    found: list[list[str]] = []
    with progress_bar(f"audit {label}", 2 * len(prompts)) as progress:
        for n, temperature in ((1, 0.0), (config.samples, 1.0)):
            for latent, texts in written.items():  # a prompt is written for some z
                sampling = replace(sampling_of(config, n, temperature), latent=latent)
                found += answers_of(lambda use: use(generator), size, sampling, progress)(texts)
    return [text for texts in found for text in texts]


def merge(run: RunDirectory, label: str, adapter: Path) -> None:
    """Write the whole model beside its adapter."""

    generator = loaded(run, label, 1)
    save_merged(generator.model, merged(adapter), generator.tokenizer)


def merged(adapter: Path) -> Path:
    """Where the whole model goes, if it is asked for."""
    return adapter.with_name(f"{adapter.name}-merged")


def answers_of(
    generators: Workers[Generator],
    batch_size: int,
    sampling: Sampling,
    progress: Callable[[int], None],
    engine: Engine | None = None,
) -> Callable[[list[str]], list[list[str]]]:
    """Texts for the model to answers, in small chunks. A text too long for it has empty ones."""
    engine = engine or Here()

    def answer(texts: list[str]) -> list[list[str]]:
        answers = [[""] * sampling.n for _ in texts]
        fits = fitting(generators, texts, str, engine)
        asked = np.flatnonzero(fits).tolist()

        def drawn(here: Sequence[int], chunk: int) -> list[list[str]]:
            return draw(generators, [texts[i] for i in here], sampling, chunk)

        done = 0
        for found in in_order(engine, drawn, asked, batch_size):
            for new in found:
                answers[asked[done]] = new
                done += 1
            progress(len(found))
        return answers

    return answer


def draw(
    generators: Workers[Generator], texts: Sequence[str], sampling: Sampling, chunk: int
) -> list[list[str]]:
    """`Generator.generate` by one of the generators."""
    return generators(lambda generator: generator.generate(texts, sampling, chunk))


def fitting(
    generators: Workers[Generator],
    prompts: Sequence[str],
    asking: Callable[[str], str],
    engine: Engine,
) -> np.ndarray:
    """[prompts] whether each, put by `asking`, leaves room for an answer in the model's context."""

    def fit(some: Sequence[str], _: int) -> list[bool]:
        texts = list(map(asking, some))
        return generators(lambda generator: [generator.fits(text) for text in texts])

    found = in_order(engine, fit, prompts, 4096)
    return np.fromiter((fits for some in found for fits in some), bool)  # to the end: see `each`


def sampling_of(section: Any, n: int, temperature: float | None = None) -> Sampling:
    """`n` answers a prompt, as a section of the config has it otherwise."""

    return Sampling(
        temperature=section.temperature if temperature is None else temperature,
        top_p=getattr(section, "top_p", 1.0),
        max_new_tokens=section.max_new_tokens,
        n=n,
        seed=section.seed,
    )


def asking_of(section: Model, tokenizer: Any | None = None) -> Callable[[str], str]:
    """The function from a prompt to the text that the section's model gets.

    `tokenizer` is that of `tokenizer_of`, where it is loaded already.
    """
    return asking(section.template, tokenizer or tokenizer_of(section), section.system)
