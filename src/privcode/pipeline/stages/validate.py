"""Stage 2b: keep what runs and what says what the prompt asked."""

from collections import Counter
from functools import partial
from pathlib import Path

from privcode.console import progress_bar, say
from privcode.execution import Limits, Outcome, Program, execute
from privcode.files import read_jsonl, write_jsonl
from privcode.models import load_model, tokenizer_of
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_of, certainty
from privcode.pipeline.preflight import beside, text_of
from privcode.pipeline.stages._stage import Stage
from privcode.validation.filters import Filter, named_filters, runs, says_what_was_asked
from privcode.validation.round_trip import scorer
from privcode.validation.verdicts import judge, keep_surest, validate


def _work(run: RunDirectory) -> Path:
    config = run.config.validate_
    language = run.config.data.language or "python"
    filters = [*_execution(run, language), *_round_trip(run), *named_filters(config.filters)]
    samples = [row for _, row in read_jsonl(run.raw)]
    half_way = run.private / ".verdicts.jsonl.partial"
    with progress_bar("validate", len(samples)) as progress:
        verdicts = validate(
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
        )
    if (share := config.surest) < 1:
        passed = {row["id"] for row in verdicts if row["accepted"]}
        sure = certainty(run, [row for row in samples if row["id"] in passed])
        verdicts = keep_surest(verdicts, sure, share)
    write_jsonl(run.verdicts, verdicts, mode=0o600)
    kept = {row["id"] for row in verdicts if row["accepted"]}
    write_jsonl(run.accepted, (row for row in samples if row["id"] in kept))
    half_way.unlink()
    reasons = Counter(row["reason"] for row in verdicts if not row["accepted"])
    most = [f"{n / len(samples):.0%} {why}" for why, n in reasons.most_common(3)]
    rejected = f"; rejected, most of all: {'; '.join(most)}" if most else ""
    say(f"validate: {len(kept)} of {len(samples)} samples accepted{rejected}")
    return run.accepted


def _execution(run: RunDirectory, language: str) -> list[Filter]:
    section = run.config.validate_.execution
    if not section.enabled:
        return []
    limits = Limits(
        cpu_seconds=section.cpu_seconds,
        memory_mb=section.memory_mb,
        preload=tuple(section.preload),
    )

    def run_all(programs: list[Program]) -> list[Outcome]:
        return list(execute(programs, limits, sandbox=section.sandbox))

    return [runs(run_all, language, text_of(section.prelude), beside(section))]


def _round_trip(run: RunDirectory) -> list[Filter]:
    trip, section = run.config.validate_.round_trip, run.config.describer
    if section is None or trip.method == "off":
        return []
    model = load_model(section.model, section.dtype)
    tokenizer = tokenizer_of(section)
    score = scorer(trip, model, tokenizer, asking_of(section, tokenizer))
    return [says_what_was_asked(score, trip.threshold)]


STAGE = Stage(
    name="validate",
    made=lambda run: run.accepted,
    work=_work,
    outputs=lambda run: [run.accepted],
    private=("verdicts.jsonl",),
)
