"""Stage 2b: keep what runs and what says what the prompt asked."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Lock

from privcode.cluster import Engine, engine
from privcode.console import progress_bar, say
from privcode.execution import Limits, Outcome, Program
from privcode.files import Lines, Row, write_jsonl
from privcode.generation.backends import free
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import certainty
from privcode.pipeline.preflight import beside, text_of
from privcode.pipeline.scale import describers, executing
from privcode.pipeline.stages._stage import Stage
from privcode.validation.filters import (
    Candidate,
    Filter,
    Finding,
    named_filters,
    runs,
    says_what_was_asked,
)
from privcode.validation.verdicts import judge, keep_surest, validate


def _work(run: RunDirectory) -> Path:
    config = run.config.validate_
    language = run.config.data.language or "python"
    samples = Lines(run.raw)
    half_way = run.private / ".verdicts.jsonl.partial"
    with ExitStack() as open_, progress_bar("validate", len(samples)) as progress:
        chosen = open_.enter_context(engine(run.config.scale))
        filters = [
            *_execution(run, language, chosen),
            *_round_trip(run, chosen, open_),
            *map(_one_at_a_time, named_filters(config.filters)),
        ]
        verdicts: Iterable[Row] = validate(
            samples,
            partial(
                judge,
                language=language,
                filters=filters,
                template=run.config.junior.template,
                any_language=run.config.data.language is None,
            ),
            half_way,
            progress=progress,
            engine=chosen,
        )
    free()  # the describer: the junior is loaded next
    if (share := config.surest) < 1:
        number = sum(verdict["accepted"] for verdict in verdicts)
        sure = certainty(run, _accepted(samples, verdicts), number)
        verdicts = keep_surest(verdicts, sure, share)
    write_jsonl(run.verdicts, verdicts, mode=0o600)
    write_jsonl(run.accepted, _accepted(samples, Lines(run.verdicts)))
    half_way.unlink()
    reasons = Counter("" if row["accepted"] else row["reason"] for row in Lines(run.verdicts))
    kept = reasons.pop("", 0)
    most = [f"{n / len(samples):.0%} {why}" for why, n in reasons.most_common(3)]
    rejected = f"; rejected, most of all: {'; '.join(most)}" if most else ""
    say(f"validate: {kept} of {len(samples)} samples accepted{rejected}")
    return run.accepted


def _accepted(samples: Iterable[Row], verdicts: Iterable[Row]) -> Iterator[Row]:
    """The samples that were accepted. Verdicts come in the samples' order."""
    for sample, verdict in zip(samples, verdicts, strict=True):
        if verdict["accepted"]:
            yield sample


def _execution(run: RunDirectory, language: str, chosen: Engine) -> list[Filter]:
    section = run.config.validate_.execution
    if not section.enabled:
        return []
    limits = Limits(
        cpu_seconds=section.cpu_seconds,
        memory_mb=section.memory_mb,
        preload=tuple(section.preload),
    )
    execute = executing(chosen)

    def run_all(programs: list[Program]) -> list[Outcome]:
        return list(execute(programs, limits, sandbox=section.sandbox))

    return [runs(run_all, language, text_of(section.prelude), beside(section))]


def _round_trip(run: RunDirectory, chosen: Engine, open_: ExitStack) -> list[Filter]:
    if run.config.validate_.round_trip.method == "off":
        return []
    workers = open_.enter_context(describers(chosen, run.config, run.answers))

    def score(pairs: list[tuple[str, str]], chunk: int) -> list[float | None]:
        return workers(lambda describer: describer(pairs, chunk))

    return [says_what_was_asked(score, run.config.validate_.round_trip.threshold)]


def _one_at_a_time(judgement: Filter) -> Filter:
    """A filter of another package. It stays in this process, and threads take turns."""
    turn = Lock()

    def judge(candidates: Sequence[Candidate], chunk: int) -> Sequence[Finding]:
        with turn:
            return judgement(candidates, chunk)

    return judge


STAGE = Stage(
    name="validate",
    made=lambda run: run.accepted,
    work=_work,
    outputs=lambda run: [run.accepted],
    private=("verdicts.jsonl",),
)
