"""Which settings of a run can still be changed, after it has begun.

Promises:
- Settings that decide what is trained on private records, and under which plan, never change.
- A stage's settings are fixed once it is done. So what is published was used.
- A stage that is not done begins anew if a setting that it reads has changed.
- A trial of a sweep keeps all settings, because its sweep drew and pays for these.

Does not: change anything (`directory` does).
"""

from collections.abc import Collection

from privcode.config import Config

_READERS = {
    "prompts": ("synthesize",),
    "synthesize": ("synthesize", "validate"),
    "validate": ("validate",),
    "premium": ("boost", "evaluate", "audit"),
    "boost": ("pretune", "boost", "audit"),
    "evaluate": ("evaluate", "audit"),
    "scale": (),
}
"""The stages whose result depends on a section. A section that is not here never
changes. `validate` reads one thing of the section premium: which model describes."""

_PARTS = {
    "pretune": ("private/pretuned", "private/pretuned-checkpoints"),
    "synthesize": ("synthetic", "private/.answers.jsonl.partial"),
    "validate": (
        "synthetic/accepted.jsonl",
        "private/verdicts.jsonl",
        "private/.verdicts.jsonl.partial",
        "private/.answers.jsonl.partial",
    ),
    "boost": (
        "private/premium-checkpoints",
        "models/premium",
        "models/premium-merged",
        "models/.premium.tmp",
        "models/.premium-merged.tmp",
    ),
    "evaluate": ("evaluation", "private/.answers.jsonl.partial"),
    "audit": ("evaluation/audit.json",),
}
"""What a stage that is not done may have left."""


def changed_sections(before: Config, now: Config) -> list[str]:
    """The sections in which two configs differ."""
    old, new = before.model_dump(by_alias=True), now.model_dump(by_alias=True)
    return [name for name in new if old[name] != new[name]]


def fixed(before: Config, now: Config, done: Collection[str]) -> str | None:
    """Why the settings of a run cannot become those of `now`; None if they can."""
    for section in changed_sections(before, now):
        if section not in _READERS or before.privacy.trials is not None:
            return f"{section} cannot change in a run that has begun"
        if section == "premium" and before.sanitized is before.premium:
            return "premium is what sanitize trains"
        if section == "prompts" and before.prompts.lesson != now.prompts.lesson:
            return "prompts.source, opening, histogram and latent decide what sanitize trains on"
        readers = [*_READERS[section], *_describing(before, now)]
        if read := [stage for stage in readers if stage in done]:
            return f"{read[0]} is done, and read {section}"
    return None


def left_by(before: Config, now: Config) -> list[str]:
    """The files and folders of stages that read what changed. What is done is not among them."""
    changed = changed_sections(before, now)
    readers = {stage for section in changed for stage in _READERS[section]}
    readers.update(_describing(before, now))
    return [part for stage in sorted(readers) for part in _PARTS[stage]]


def _describing(before: Config, now: Config) -> tuple[str, ...]:
    """The stages that ask the describer, if it has changed."""
    if before.describer == now.describer:
        return ()
    return ("synthesize", "validate") if now.prompts.source == "described" else ("validate",)
