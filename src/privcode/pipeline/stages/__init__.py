"""The stages of the method, in the order of the paper, one module each.

Promises: a stage reads and writes files of a run and shows how far it is; what it computes is
computed by the package that it is named after, from values, to values. What is computed from
private records goes to `private/` and nowhere else.
Does not: decide which stages a run has (`methods`), or whether one is done (`run`).
"""

from privcode.pipeline.stages import (
    audit,
    boost,
    evaluate,
    pretune,
    sanitize,
    synthesize,
    validate,
)
from privcode.pipeline.stages._stage import Stage

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (pretune, sanitize, synthesize, validate, boost, evaluate, audit)
}

__all__ = ["STAGES", "Stage"]
