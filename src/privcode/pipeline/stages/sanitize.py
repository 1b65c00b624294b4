"""Stage 1: tune the junior on the private records under the plan (dpft, jft: the premium).

Promises: the ledger begins before a step is taken, and not before the trial has shown that the
model can be clipped per unit. This and what is labelled internal is all that reads private records.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from privcode.console import epsilon_text, progress_bar, say, say_private
from privcode.data.prompts import lessons, private_prompts
from privcode.distributed import from_first, rank
from privcode.errors import UserError
from privcode.files import settle, write_json, write_jsonl
from privcode.models import around, save_model, tokenizer_of
from privcode.pipeline.budget import begin
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_of, merge, merged, trainable
from privcode.pipeline.private import DataIdentity, private_records
from privcode.pipeline.spending import runs_beside, spent_beside
from privcode.pipeline.stages._stage import Stage
from privcode.pipeline.truncation import refuse_emptied, truncation, words
from privcode.privacy.accounting import unit_words
from privcode.privacy.ledger import Ledger
from privcode.privacy.spending import overlaps
from privcode.training import dp_sgd
from privcode.training.dp_sgd import Learner
from privcode.training.examples import encode, refuse_unknown_tokens
from privcode.training.gradient_canaries import GradientCanaries
from privcode.training.independence import passes


def _work(run: RunDirectory) -> Path:
    section, output, checkpoint = run.config.sanitized, run.sanitized, _checkpoint(run)
    settings = run.config.sanitize
    whole, counts, data = private_records(run.config)
    taught = [lessons(record, run.config.prompts) for record in whole]
    records = [pair for pairs in taught for pair in pairs]
    planted = sum(map(len, taught[len(taught) - counts["canaries"] :]))
    say_private(lambda: private_prompts(run.prompts(), (r.prompt for r in whole)))
    tokenizer = tokenizer_of(section)
    asking = asking_of(section, tokenizer)
    model = trainable(run)
    encoded = []
    with progress_bar("read", len(records), counted=False) as progress:
        for record in records:
            pair = encode(
                record,
                asking(record.prompt),
                tokenizer,
                section.max_tokens,
                syntax=settings.syntax.schedule != "off",
                code_around=around(section.template, record.prompt),
            )
            encoded.append(pair)
            progress(1)
    examples = [example for example, _ in encoded]
    lost = truncation(encoded[: len(encoded) - planted])
    field = "premium" if output == run.premium else "junior"
    say_private(lambda: f"sanitize: {line}" if (line := words(lost, section, field)) else "")
    refuse_emptied(lost, field)
    refuse_unknown_tokens(examples, model.get_input_embeddings().weight.shape[0])
    canaries = _canaries(run, model)
    learner = Learner(model, tokenizer.pad_token_id, section.max_tokens)
    dp_sgd.attend_plainly(learner)
    with progress_bar("trial", passes(settings.micro_batch)) as progress:
        clipper = run.plan.clipper(model)
        grouping = dp_sgd.try_out(learner, clipper, settings.micro_batch, progress)
    first = rank() == 0
    from_first(lambda: begin_ledger(run, data))
    ledger = Ledger(run.ledger)  # whole by now: the first rank has mended and begun it
    if first:
        counts["truncated"] = sum(cut for _, cut in encoded)
        counts["without_code"] = lost.emptied
        write_json(run.private / "data.json", counts, mode=0o600)
    if first and (others := runs_beside(run, data)):
        charge = run.plan.charge([other.spent for other in others.values()])
        say_private(lambda: "\n".join(f"sanitize: {line}" for line in overlaps(others)))
        say(
            charge.words
            or f"sanitize: {len(others)} other run(s) spent budget on these data; all of "
            f"them count: together ε = {epsilon_text(charge.cost.epsilon)}"
        )
    with progress_bar("sanitize", run.plan.steps) as progress:
        curve = dp_sgd.sanitize(
            replace(learner, grouping=grouping),
            examples,
            dp_sgd.by_unit(records),
            run.plan,
            settings,
            ledger,
            checkpoint,
            progress,
            canaries,
        )
    if first:
        if canaries is not None:
            coins, scores = canaries.included.tolist(), canaries.scores.tolist()
            kept = {"included": coins, "scores": scores}
            write_json(run.private / "gradient_canaries.json", kept, mode=0o600)
        write_jsonl(run.private / "curve.jsonl", curve, mode=0o600)
        save_model(model, output, base=section.model)
        if settings.merge:
            merge(run, "tuned" if output == run.premium else "junior", output)
    return output


def begin_ledger(run: RunDirectory, data: DataIdentity) -> None:
    """Begin the ledger, or go on with it, unless that would spend budget for no guarantee."""
    for other in spent_beside(run, data):
        own, its = run.plan.owner_column, other.owner_column
        if own != its and run.plan.selection != "not-charged":
            raise UserError(
                f"privacy.unit: is {unit_words(own)}, and another run over the same data "
                f"protects each {unit_words(its)}: no ε holds for the two together; take the "
                "same unit, or declare privacy.selection: not-charged"
            )
    begin(run.config, run.plan, run.ledger, data)


def _canaries(run: RunDirectory, model: Any) -> GradientCanaries | None:
    count, seed = run.config.audit.gradient_canaries, run.config.audit.seed
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return GradientCanaries(run.plan, parameters, count, seed) if count else None


def _checkpoint(run: RunDirectory) -> Path:
    return run.private / ".sanitize.partial"


def _done(run: RunDirectory) -> None:
    """Delete the checkpoint, not before the stage is noted."""
    if rank() == 0:
        _checkpoint(run).unlink(missing_ok=True)
        settle(run.out)


STAGE = Stage(
    name="sanitize",
    made=lambda run: run.sanitized,
    work=_work,
    outputs=lambda run: [run.sanitized, merged(run.sanitized)],
    private=("ledger.jsonl", "data.json", "curve.jsonl", "gradient_canaries.json"),
    done=_done,
)
