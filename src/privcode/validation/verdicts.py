"""Stage 2b, validation: keep samples that run, whose code says what the prompt asked, and of which
the junior itself is surest.

Promises: every sample gets a verdict with a reason; code runs only in the sandbox; verdicts are
on disk chunk by chunk, so that a killed run goes on where it was.
Does not: read private records, or change a sample.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from privcode.execution import Outcome, Program
from privcode.files import Row, jsonl_line, read_jsonl
from privcode.languages import canonical_language
from privcode.syntax.spans import code_blocks
from privcode.validation.round_trip import Scorer

Execute = Callable[[list[Program]], list[Outcome]]
Judgement = Callable[[Sequence[Row], int], list[Row]]


def code_of(completion: str, language: str = "python") -> tuple[str, str]:
    """The first block of code in a completion and its language; all of it where none is fenced."""
    for start, end, named in code_blocks(completion, language):
        if completion[start:end].strip():
            return completion[start:end], named or language
    return "", language


def judge(
    samples: Sequence[Row],
    chunk: int = 0,
    *,
    language: str,
    prelude: str,
    files: Mapping[str, bytes] | None = None,
    execute: Execute | None,
    score: Scorer | None,
    threshold: float,
) -> list[Row]:
    """One verdict {id, accepted, reason, round_trip} per sample.

    Args:
        samples: rows with id, prompt, completion.
        chunk: their number, for the seeds of `score`.
        language: of code that names none.
        prelude: code put before each program in that language.
        files: what lies beside each program: name -> content.
        execute: runs programs in the sandbox; None leaves out the execution filter.
        score: round-trip scores (see `roundtrip.scorer`); None leaves out that filter.
        threshold: τ, the smallest score to keep.
    """
    codes = [code_of(s["completion"], language) for s in samples]
    reasons = ["" if code else "no code" for code, _ in codes]
    if execute:
        running = [i for i, reason in enumerate(reasons) if not reason]
        heads = {canonical_language(language): f"{prelude}\n"}
        programs = [
            Program(
                str(samples[i]["id"]),
                heads.get(canonical_language(codes[i][1]), "") + codes[i][0],
                codes[i][1],
                files=files or {},
            )
            for i in running
        ]
        for i, outcome in zip(running, execute(programs), strict=True):
            if outcome.status != "ok":
                reasons[i] = f"execution: {outcome.error or outcome.status}"
    scores: dict[int, float] = {}
    if score:
        left = [i for i, reason in enumerate(reasons) if not reason]
        found = score([(samples[i]["prompt"], codes[i][0]) for i in left], chunk)
        for i, value in zip(left, found, strict=True):
            if value is None:
                reasons[i] = "round trip: too long for the describer"
                continue
            scores[i] = value
            if not value >= threshold:  # NaN is rejected too
                reasons[i] = "round trip: below the threshold"
    return [
        {
            "id": sample["id"],
            "accepted": not reason,
            "reason": reason,
            "round_trip": round(scores[i], 4) if math.isfinite(scores.get(i, math.nan)) else None,
        }
        for i, (sample, reason) in enumerate(zip(samples, reasons, strict=True))
    ]


def keep_surest(verdicts: Sequence[Row], certainty: Mapping[Any, float], share: float) -> list[Row]:
    """`verdicts`, of which the least certain of the accepted are rejected too.

    Args:
        verdicts: see `judge`.
        certainty: for the id of every accepted sample, the mean log-probability of its tokens.
        share: of the accepted to keep, rounded up.
    """
    order = sorted(certainty, key=lambda name: -certainty[name])
    kept = set(order[: math.ceil(share * len(order))])
    return [
        row
        if not row["accepted"] or row["id"] in kept
        else row | {"accepted": False, "reason": "the junior was less sure of it than of others"}
        for row in verdicts
    ]


def validate(
    samples: Sequence[Row],
    judgement: Judgement,
    partial: Path,
    chunk_size: int = 256,
    progress: Callable[[int], object] = lambda samples: None,
) -> list[Row]:
    """Judge all samples, chunk by chunk; `partial` keeps the verdicts of whole chunks."""
    verdicts: list[Row] = []
    if partial.exists():
        lines = [x for x in partial.read_bytes().splitlines(keepends=True) if x.endswith(b"\n")]
        # Whole chunks only: a chunk is what is judged together.
        whole = len(lines) if len(lines) == len(samples) else len(lines) // chunk_size * chunk_size
        with partial.open("r+b") as file:
            file.truncate(sum(map(len, lines[:whole])))
        verdicts = [row for _, row in read_jsonl(partial)]
    progress(len(verdicts))
    with partial.open("ab") as file:
        for start in range(len(verdicts), len(samples), chunk_size):
            new = judgement(samples[start : start + chunk_size], start // chunk_size)
            file.write("".join(map(jsonl_line, new)).encode())
            file.flush()
            os.fsync(file.fileno())
            verdicts += new
            progress(len(new))
    return verdicts
