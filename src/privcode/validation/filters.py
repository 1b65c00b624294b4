"""The filters that a synthetic sample must pass, one after the other.

Promises:
- Model-written code runs only in the sandbox.
- Another package adds a filter by an entry point of the group `privcode.filters` (see
  `extensions`). A config names it in `validate.filters`.

Does not: read private records. A filter sees only samples of the DP model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from privcode.execution import Outcome, Program
from privcode.extensions import named, with_added
from privcode.languages import canonical_language
from privcode.validation.round_trip import Scorer

Execute = Callable[[list[Program]], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that passed all earlier filters.

    Attributes:
        id: the sample's id.
        prompt: the public prompt that was answered.
        code: the code in the answer.
        language: the language of the code.
    """

    id: str
    prompt: str
    code: str
    language: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a filter says of a candidate.

    Attributes:
        reason: why the candidate is rejected. Empty if it passes.
        figures: the figures that it was judged by, by name. They are noted in the verdict.
    """

    reason: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)


Filter = Callable[[Sequence[Candidate], int], Sequence[Finding]]
"""Takes candidates and the number of their chunk. Returns one finding for each candidate.

The chunk's number seeds what is drawn at random. A killed run that goes on uses the same candidates
and number for a chunk. So the findings must depend on these alone.
"""


def runs(execute: Execute, language: str, prelude: str, files: Mapping[str, bytes]) -> Filter:
    """The execution filter: a candidate passes if its code ends with exit code 0 in the sandbox.

    Args:
        execute: runs programs in the sandbox.
        language: the language of the data.
        prelude: code put before each program in that language.
        files: the files next to each program: name -> content.
    """
    heads = {canonical_language(language): f"{prelude}\n"}

    def judge(candidates: Sequence[Candidate], chunk: int) -> list[Finding]:
        programs = []
        for c in candidates:
            head = heads.get(canonical_language(c.language), "")
            programs.append(Program(c.id, head + c.code, c.language, files=files))
        return [
            Finding("" if o.status == "ok" else f"execution: {o.error or o.status}")
            for o in execute(programs)
        ]

    return judge


def says_what_was_asked(score: Scorer, threshold: float) -> Filter:
    """The round-trip filter: a candidate passes if its score is at least τ.

    Args:
        score: see `round_trip.scorer`.
        threshold: τ.
    """

    def finding(value: float | None) -> Finding:
        if value is None:
            return Finding("round trip: too long for the describer")
        shown = {"round_trip": round(value, 4) if math.isfinite(value) else None}
        # NaN is rejected too.
        return Finding("" if value >= threshold else "round trip: below the threshold", shown)

    def judge(candidates: Sequence[Candidate], chunk: int) -> list[Finding]:
        return [finding(value) for value in score([(c.prompt, c.code) for c in candidates], chunk)]

    return judge


@cache
def _added() -> dict[str, Filter]:
    return with_added("filters", {}, Callable)  # type: ignore[arg-type]


def named_filters(names: Sequence[str]) -> list[Filter]:
    """The filters of these names that other packages add.

    Raises:
        UserError: there is no filter of a name, or a filter cannot be used.
    """
    return [named(_added(), name, "validate.filters") for name in names]
