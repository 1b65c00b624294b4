"""The audit of a run: what it attacks, and where what it finds goes.

Promises: figures about made-up secrets go to evaluation/audit.json; what is computed from real
records, outside the mechanism, goes to `private/` alone, and the console hears of the file alone.
Does not: attack (`audit.measure` does).
"""

from functools import partial
from pathlib import Path
from typing import Any

from privcode.audit import canaries, coin_canaries
from privcode.audit.attacks import named_attacks
from privcode.audit.measure import (
    Target,
    black_box,
    exposures,
    leakage,
    membership,
    sides,
    white_box,
)
from privcode.audit.membership import picture
from privcode.console import progress_bar, say
from privcode.errors import UserError
from privcode.files import read_json, read_jsonl, write_json, write_with
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.methods import audited, coins
from privcode.pipeline.models import ask, asking_of, loaded, micro_batch
from privcode.pipeline.private import split_records
from privcode.pipeline.stages._stage import Stage
from privcode.privacy.ledger import read_ledger

UNTUNED = {"junior": "untuned junior", "tuned": "base"}
"""A tuned model's label (see `weights_of`) to that of what it was made from."""


def _check(run: RunDirectory) -> None:
    if not audited(run.config):
        raise UserError(
            f"{run.out / 'config.yaml'}, field audit.repetitions: no canary was planted and "
            "no record held out; both have to happen before training"
        )


def _work(run: RunDirectory) -> Path:
    output = _made(run)
    config, targets = run.config.audit, _targets(run)
    facts: dict[str, Any] = {}
    if config.repetitions:
        planted = canaries.plant(config.repetitions, config.seed, config.places)
        places: dict[str, list[str]] = {}
        if run.raw.exists():
            rows = [row for _, row in read_jsonl(run.raw)]
            places["synthetic samples"] = [f"{row['prompt']}\n{row['completion']}" for row in rows]
        opening = run.config.prompts.opening
        counts = leakage(planted, places, targets, opening)
        pairs = sum(len(canary.pairs(opening)) for canary in planted)
        total = 2 * (config.candidates + 1) * pairs * len(targets)
        with progress_bar("exposure", total) as progress:
            n, seed = config.candidates, config.seed
            ranked = exposures(planted, targets, opening, n, seed, progress)
        facts = {"samples_per_prompt": config.samples, "places": counts, "exposure": ranked}
    if coins(run.config):
        facts["one_run"] = _one_run(run, targets)
    if facts:
        write_json(output, facts)
    for name, attack in named_attacks(config.attacks).items():
        found = run.private / f"attack-{name}.json"
        write_json(found, attack(targets), mode=0o600)
        say(f"audit: what {name} found is in {found}")
    return _membership(run, targets) if config.holdout else output


def _targets(run: RunDirectory) -> list[Target]:
    found = []
    for label, section, size in (
        ("junior", run.config.junior, micro_batch(run)),
        ("tuned", run.config.premium, run.config.boost.micro_batch),
    ):
        if label == "tuned" or run.config.method == "privcode":
            found.append(
                Target(
                    name="tuned model" if label == "tuned" else label,
                    ask=partial(ask, run, label),
                    tuned=partial(loaded, run, label, size),
                    untuned=partial(loaded, run, UNTUNED[label], size),
                    asking=asking_of(section),
                    max_tokens=section.max_tokens,
                    batch_size=size,
                )
            )
    return found


def _one_run(run: RunDirectory, targets: list[Target]) -> dict[str, Any]:
    """Lower bounds on ε, by what the attack looked at."""
    config, found = run.config.audit, {}
    if config.gradient_canaries and "sanitize" in run.stages:
        seen = read_json(run.private / "gradient_canaries.json")
        found["what training gives away"] = white_box(seen["scores"], seen["included"], run.plan)
    if config.coin_canaries:
        thrown = coin_canaries.throw(config.coin_canaries, config.seed)
        with progress_bar("coins", 2 * len(thrown) * len(targets)) as progress:
            found |= black_box(thrown, targets, run.plan, progress)
    return found


def _membership(run: RunDirectory, targets: list[Target]) -> Path:
    """Membership inference: the one thing after training that reads private records."""
    limit = run.config.boost.limit if run.config.method == "nondpft" else None
    trained, held_out, _, data = split_records(run.config, run.private)
    if any(entry["data"] != data.fingerprint for entry in read_ledger(run.ledger)[:1]):
        raise UserError(
            f"{run.config.data.source}: was changed since sanitize; restore it, or the audit "
            "would take the wrong records for members"
        )
    members, others = sides(trained[:limit], held_out, run.config.audit.seed)
    total = 2 * len(targets) * sum(map(len, [*members, *others]))
    with progress_bar("membership", total, counted=False) as progress:
        facts, curves = membership(members, others, targets, progress)
    output = run.private / "membership.json"
    write_json(output, facts, mode=0o600)
    image = picture(curves)
    write_with(run.private / "roc.png", lambda file: file.write(image), mode=0o600)
    say(
        f"audit: membership inference is in {output}: it was computed from real records, "
        "outside the mechanism, so it is yours alone"
    )
    return output


def _made(run: RunDirectory) -> Path:
    return run.evaluation / "audit.json"


STAGE = Stage(
    name="audit",
    made=_made,
    work=_work,
    outputs=lambda run: [_made(run)],
    passed_on=False,
    check=_check,
)
