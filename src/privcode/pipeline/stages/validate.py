"""Stage 2b: keep what runs and what says what the prompt asked."""

from collections import Counter
from functools import partial
from pathlib import Path

from privcode.console import progress_bar, say
from privcode.execution import Limits, execute
from privcode.files import read_jsonl, write_jsonl
from privcode.models import load_model, load_tokenizer
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import certainty
from privcode.pipeline.preflight import beside, text_of
from privcode.pipeline.stages._stage import Stage
from privcode.validation.round_trip import scorer
from privcode.validation.verdicts import judge, keep_surest, validate


def _work(run: RunDirectory) -> Path:
    programs, trip = run.config.validate_.execution, run.config.validate_.round_trip
    limits = Limits(
        cpu_seconds=programs.cpu_seconds,
        memory_mb=programs.memory_mb,
        preload=tuple(programs.preload),
    )
    score = None
    if describer := run.config.describer:
        model = load_model(describer, trip.dtype)
        score = scorer(trip, model, load_tokenizer(describer))
    samples = [row for _, row in read_jsonl(run.raw)]
    half_way = run.private / ".verdicts.jsonl.partial"
    with progress_bar("validate", len(samples)) as progress:
        verdicts = validate(
            samples,
            partial(
                judge,
                language=run.config.data.language or "python",
                prelude=text_of(programs.prelude),
                files=beside(programs),
                execute=(lambda batch: list(execute(batch, limits, sandbox=programs.sandbox)))
                if programs.enabled
                else None,
                score=score,
                threshold=trip.threshold,
            ),
            half_way,
            progress=progress,
        )
    if (share := run.config.validate_.surest) < 1:
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


STAGE = Stage(
    name="validate",
    made=lambda run: run.accepted,
    work=_work,
    outputs=lambda run: [run.accepted],
    private=("verdicts.jsonl",),
)
