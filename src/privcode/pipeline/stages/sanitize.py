"""Stage 1: tune the junior on the private records under the plan (dpft, jft: the premium).

Promises: the ledger begins before a step is taken or a histogram is released, and not before the
trial has shown that the model can be clipped per unit. This and what is labelled internal is all
that reads private records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from privcode.console import epsilon_text, progress_bar, say, say_private
from privcode.data.prompts import Lessons, private_prompts
from privcode.data.records import Record, units_of
from privcode.distributed import from_first, rank
from privcode.errors import UserError
from privcode.files import settle, write_json, write_jsonl
from privcode.models import is_chat, save_model, tokenizer_of
from privcode.pipeline import topics
from privcode.pipeline.budget import begin
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import (
    MICRO_BATCH,
    asking_of,
    merge,
    merged,
    micro_batch,
    start_of,
    trainable,
)
from privcode.pipeline.private import DataIdentity, private_records
from privcode.pipeline.spending import runs_beside, spent_beside
from privcode.pipeline.stages._stage import Stage
from privcode.pipeline.truncation import looked_at, refuse_emptied, truncation, words
from privcode.privacy.accounting import unit_words
from privcode.privacy.ledger import Ledger
from privcode.privacy.spending import overlaps
from privcode.training import dp_sgd
from privcode.training.examples import Encoded, Example, lesson, refuse_unknown_tokens
from privcode.training.gradient_canaries import GradientCanaries
from privcode.training.independence import passes
from privcode.training.learner import Learner, attend_plainly, fitting_micro_batch, try_out


def _work(run: RunDirectory) -> Path:
    section, output, checkpoint = run.config.sanitized, run.sanitized, _checkpoint(run)
    settings = run.config.sanitize
    tokenizer, latents = tokenizer_of(section), run.config.latent
    model = trainable(run)
    embeddings = model.get_input_embeddings().weight.shape[0]
    learner = Learner(model, tokenizer.pad_token_id, section.max_tokens, None, latents)
    attend_plainly(learner)
    most = _micro_batch(run, learner)  # what reading leaves in memory would make it private
    whole, counts, data = private_records(run.config, folder=run.private)
    say_private(lambda: private_prompts(run.prompts(), (r.prompt for r in whole)))
    records = Lessons(whole, run.config.prompts)
    own = len(records) - counts["canaries"] * records.each
    examples = _examples(run, records, tokenizer)
    cut = _look(run, records, own, examples, tokenizer, embeddings)
    canaries = _canaries(run, model)
    with progress_bar("trial", passes(most)) as progress:
        clipper = run.plan.clipper(model)
        grouping = try_out(learner, clipper, most, progress)
    first = rank() == 0
    start = start_of(model, tokenizer, most) if run.plan.reproducible_seed is not None else {}
    counts_of_topics = topics.counted(run, whole[: len(whole) - counts["canaries"]])
    from_first(lambda: begin_ledger(run, data, start))
    from_first(lambda: topics.release(run, counts_of_topics))
    ledger = Ledger(run.ledger)  # whole by now: the first rank has mended and begun it
    if first:
        counts |= cut
        if settings.micro_batch == "auto":
            write_json(run.private / MICRO_BATCH, {"records": most}, mode=0o600)
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
            replace(learner, grouping=grouping, lessons=records.each),
            examples,
            units_of(records),
            run.plan,
            settings.model_copy(update={"micro_batch": most}),
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
        topics.write(run)
        save_model(model, output, base=section.model)
        if settings.merge:
            merge(run, "tuned" if output == run.premium else "junior", output)
    return output


def _examples(run: RunDirectory, records: Sequence[Record], tokenizer: Any) -> Encoded:
    """The records as examples, which are made when a step draws them."""
    section, syntax = run.config.sanitized, run.config.sanitize.syntax.schedule != "off"
    asking, latent = asking_of(section, tokenizer), run.config.latent
    prefix = latent.prefix if latent else 0

    def make(record: Record, structure: bool) -> tuple[Example, bool]:
        return lesson(
            record,
            asking,
            tokenizer,
            section.max_tokens,
            syntax=syntax and structure,
            template=section.template,
            prefix=prefix,
        )

    how = [section.template, section.system, syntax, str(tokenizer.eos_token), prefix]
    told = f"{how}\n{tokenizer.backend_tokenizer.to_str()}"
    return Encoded(records, make, section.max_tokens, told)


def _look(
    run: RunDirectory,
    records: Sequence[Record],
    own: int,
    examples: Encoded,
    tokenizer: Any,
    embeddings: int,
) -> dict[str, int]:
    """Refuse records that cannot be trained on. Returns what the context cuts off: private counts.

    Args:
        run: the run.
        records: the first `own` of them are private, and canaries come after them.
        own: see there.
        examples: the same records, as examples.
        tokenizer: the model's.
        embeddings: how many it has.

    Raises:
        UserError: no record has code within the context; the model has no embedding for a token;
            the chat template fails.
    """
    section = run.config.sanitized
    field = "premium" if section is run.config.premium else "junior"
    seen, canaries = looked_at(own), range(own, len(records))
    with progress_bar("read", len(seen), counted=False) as progress:
        lost = truncation((examples.look(i, progress) for i in seen), own)
    say_private(lambda: f"sanitize: {line}" if (line := words(lost, section, field)) else "")
    refuse_emptied(lost, field, lambda index: examples.look(index)[0])
    asking = asking_of(section, tokenizer)
    texts = (asking(record.prompt) + record.completion for record in records)
    refuse_unknown_tokens(texts, examples, tokenizer, embeddings)
    if is_chat(section.template):  # a program, which may fail on any prompt
        for record in records:
            asking(record.prompt)
    counts = {
        "truncated": lost.cut + sum(examples.look(i)[1] for i in canaries),
        "without_code": lost.emptied,
    }
    return counts if lost.records == lost.all else counts | {"looked_at": lost.records}


def begin_ledger(
    run: RunDirectory, data: DataIdentity, start: Mapping[str, str] | None = None
) -> None:
    """Begin the ledger, or go on with it, unless that would spend budget for no guarantee.

    `start`: see `budget.begin`.
    """
    for other in spent_beside(run, data):
        own, its = run.plan.owner_column, other.owner_column
        if own != its and run.plan.selection != "not-charged":
            raise UserError(
                f"privacy.unit: is {unit_words(own)}, and another run over the same data "
                f"protects each {unit_words(its)}: no ε holds for the two together; take the "
                "same unit, or declare privacy.selection: not-charged"
            )
    begin(run.config, run.plan, run.ledger, data, start)


def _micro_batch(run: RunDirectory, learner: Learner) -> int:
    """The most records of one pass. What was found when the run began stays."""
    chosen = run.config.sanitize.micro_batch
    known = from_first((run.private / MICRO_BATCH).exists)
    if chosen != "auto" or known:
        return from_first(lambda: micro_batch(run))
    found = fitting_micro_batch(learner, run.plan)
    say(f"sanitize: {found} records of {learner.max_tokens} tokens fit in memory in one pass")
    return found


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
    outputs=lambda run: [run.sanitized, merged(run.sanitized), run.histogram],
    private=("ledger.jsonl", "data.json", "curve.jsonl", "gradient_canaries.json", MICRO_BATCH),
    done=_done,
)
