"""The models of a run: which one a label means, how it is loaded, asked, merged.

Promises: a label means the same in every stage; a prompt too long for its model gets an empty
answer, not a shortened question.
Does not: train; the stages do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from privcode.console import progress_bar
from privcode.data.records import Record, Unit
from privcode.generation import Generator, Sampling, Weights
from privcode.generation.backends import backend_named
from privcode.generation.local import LocalGenerator, load
from privcode.models import (
    asking,
    attach_lora,
    is_chat,
    load_adapter,
    load_model,
    render,
    save_merged,
    tokenizer_of,
)
from privcode.models.settings import Model
from privcode.pipeline.layout import RunDirectory
from privcode.training.likelihood import record_log_probabilities


def weights_of(run: RunDirectory, label: str) -> Weights:
    """The files of the model called "base", "tuned", "junior" or "untuned junior"."""

    section = run.config.labelled(label)
    tuned = {"junior": run.junior, "tuned": run.premium}.get(label)
    if label == "junior" and run.config.method == "control":
        tuned = None
    end = tokenizer_of(section).eos_token if is_chat(section.template) else None
    if tuned and not (tuned / "adapter_config.json").exists():  # fully tuned
        return Weights(str(tuned), section.model, section.dtype, end=end)
    before = (run.pretuned,) if label == "tuned" and run.config.method == "jft" else ()
    last = (tuned,) if tuned else ()
    return Weights(section.model, section.model, section.dtype, (*before, *last), end)


def loaded(run: RunDirectory, label: str, batch_size: int) -> LocalGenerator:
    """That model in this process: for what needs its weights or probabilities."""

    return load(weights_of(run, label), batch_size)


def trainable(run: RunDirectory) -> Any:
    """What `sanitize` tunes: the model with a new adapter, always the same at one seed."""
    import torch

    section = run.config.sanitized
    model = load_model(section.model, section.dtype)
    if run.config.method == "jft":
        model = load_adapter(model, run.pretuned).merge_and_unload()
    if section.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(run.config.sanitize.seed)  # the adapter's start
    lora = section.lora
    return attach_lora(model, lora.r, lora.alpha, lora.dropout, lora.targets)


def certainty(run: RunDirectory, samples: list[Any]) -> dict[Any, float]:
    """By sample's id, the mean log-probability of its tokens under the junior."""

    section, size = run.config.junior, run.config.sanitize.micro_batch
    records = [
        Record(row["prompt"], row["completion"], None, Unit("row", str(row["id"])), 0)
        for row in samples
    ]
    with progress_bar("certainty", len(records)) as progress:
        found = record_log_probabilities(
            loaded(run, "junior", size),
            records,
            asking_of(section),
            section.max_tokens + run.config.synthesize.max_new_tokens,
            size,
            progress,
        )
    return {row["id"]: float(f.mean()) for row, (f, _) in zip(samples, found, strict=True)}


def ask(run: RunDirectory, label: str, prompts: list[tuple[str, str]]) -> list[str]:
    """What the model called `label` answers: each prompt's likeliest text, and samples.

    Beside each prompt is how the answer to it begins.
    """
    config = run.config.audit
    section = run.config.labelled(label)
    generator = loaded(run, label, run.config.evaluate.batch_size)
    asking = asking_of(section)
    texts = [asking(prompt) + begun for prompt, begun in prompts]
    found: list[list[str]] = []
    with progress_bar(f"audit {label}", 2 * len(prompts)) as progress:
        for n, temperature in ((1, 0.0), (config.samples, 1.0)):
            sampling = sampling_of(config, n, temperature)
            found += answers_of(generator, sampling, progress)(texts)
    return [text for texts in found for text in texts]


def merge(run: RunDirectory, label: str, adapter: Path) -> None:
    """Write the whole model beside its adapter."""

    generator = loaded(run, label, 1)
    save_merged(generator.model, merged(adapter), generator.tokenizer)


def merged(adapter: Path) -> Path:
    """Where the whole model goes, if it is asked for."""
    return adapter.with_name(f"{adapter.name}-merged")


def described_by(run: RunDirectory) -> tuple[Generator, Callable[[str], str]]:
    """The public describer, and the function from code to the text that it gets.

    Raises:
        UserError: the backend is not known, or the model cannot be loaded.
    """
    section, trip = run.config.describer, run.config.validate_.round_trip
    assert section is not None  # `prompts.source` is "described"
    tokenizer = tokenizer_of(section)
    asking = asking_of(section, tokenizer)
    end = tokenizer.eos_token if is_chat(section.template) else None
    weights = Weights(section.model, section.model, section.dtype, end=end)
    backend = backend_named(run.config.synthesize.backend, "synthesize.backend")
    generator = backend(weights, trip.batch_size)
    return generator, lambda code: asking(render(trip.template, code=code))


def answers_of(
    generator: Generator, sampling: Sampling, progress: Callable[[int], None]
) -> Callable[[list[str]], list[list[str]]]:
    """Texts for the model to answers, in small chunks. A text too long for it has empty ones."""

    def answer(texts: list[str]) -> list[list[str]]:
        answers = [[""] * sampling.n for _ in texts]
        short = [i for i, text in enumerate(texts) if generator.fits(text)]
        for chunk, start in enumerate(range(0, len(short), generator.batch_size)):
            here = short[start : start + generator.batch_size]
            found = generator.generate([texts[i] for i in here], sampling, chunk)
            for i, new in zip(here, found, strict=True):
                answers[i] = new
            progress(len(here))
        return answers

    return answer


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
