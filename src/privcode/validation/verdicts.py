"""Stage 2b, validation: keep the samples that pass all filters.

By default these are samples that run and whose code does what the prompt asked. `keep_surest` then
keeps those of which the junior itself is surest.

Promises:
- Every sample gets a verdict with a reason. It is about the code that `syntax.fences` finds.
- Code runs only in the sandbox.
- Verdicts are written to disk chunk by chunk, so a killed run goes on where it was.

Does not: read private records, or change a sample.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from privcode.cluster import Engine
from privcode.cluster.chunks import OnDisk, on_disk
from privcode.errors import UserError
from privcode.files import HALF, Row
from privcode.models import around
from privcode.plain import is_text
from privcode.syntax.fences import code_in
from privcode.validation.filters import Candidate, Filter

Judgement = Callable[[Sequence[Row], int], list[Row]]


def judge(
    samples: Sequence[Row],
    chunk: int = 0,
    *,
    language: str,
    filters: Sequence[Filter],
    template: str = "",
    any_language: bool = False,
) -> list[Row]:
    """One verdict {id, accepted, reason, round_trip} per sample, with the figures of other filters.

    Args:
        samples: rows with id, prompt, completion.
        chunk: the number of these samples' chunk. It seeds what filters draw at random.
        language: the language of the samples, and of code whose fence names none.
        filters: applied in this order. Each filter sees only what the earlier ones passed.
        template: the junior's. If it fills gaps, the code around an answer is judged too.
        any_language: take the first block of code in any language; see `syntax.fences`.

    Raises:
        UserError: a filter does not return one finding for each candidate.
    """
    codes = [_code(s, language, template, any_language) for s in samples]
    reasons = [
        "no code" if not code else "" if is_text(s["completion"]) else HALF
        for s, (code, _) in zip(samples, codes, strict=True)
    ]
    verdicts: list[Row] = [
        {"id": s["id"], "accepted": not reason, "reason": reason, "round_trip": None}
        for s, reason in zip(samples, reasons, strict=True)
    ]
    for ask in filters:
        left = [i for i, verdict in enumerate(verdicts) if verdict["accepted"]]
        candidates = [
            Candidate(str(samples[i]["id"]), samples[i]["prompt"], *codes[i]) for i in left
        ]
        findings = ask(candidates, chunk) if candidates else []
        if len(findings) != len(candidates):
            raise UserError(
                f"validate.filters: a filter gave {len(findings)} findings for {len(candidates)} "
                "samples; it must give one each"
            )
        for i, finding in zip(left, findings, strict=True):
            verdicts[i] |= {"accepted": not finding.reason, "reason": finding.reason}
            verdicts[i] |= finding.figures
    return verdicts


def _code(sample: Row, language: str, template: str, any_language: bool) -> tuple[str, str]:
    """The code of a sample and its language. What fills a gap is code with what is around it."""
    before, after = around(template, sample["prompt"])
    if not before and not after:
        return code_in(sample["completion"], language, any_language=any_language)
    completion = sample["completion"]
    return (before + completion + after if completion.strip() else ""), language


def keep_surest(
    verdicts: Iterable[Row], certainty: Mapping[Any, float], share: float
) -> Iterator[Row]:
    """`verdicts`, with the least certain accepted samples rejected too.

    Args:
        verdicts: see `judge`.
        certainty: for the id of every accepted sample, the mean log-probability of its tokens.
        share: the share of the accepted samples to keep, rounded up.
    """
    order = sorted(certainty, key=lambda name: -certainty[name])
    kept = set(order[: math.ceil(share * len(order))])
    for row in verdicts:
        if row["accepted"] and row["id"] not in kept:
            row = row | {
                "accepted": False,
                "reason": "the junior was less sure of it than of others",
            }
        yield row


def validate(
    samples: Sequence[Row],
    judgement: Judgement,
    partial: Path,
    chunk_size: int = 256,
    progress: Callable[[int], object] = lambda samples: None,
    engine: Engine | None = None,
) -> OnDisk:
    """Judge all samples, chunk by chunk. `partial` keeps the verdicts of whole chunks.

    `engine` calls `judgement`. By default this process does.
    """
    return on_disk(judgement, samples, partial, chunk_size, progress, engine)
