"""What `privcode plan` says before anything is trained.

Promises: `planned` is public, made from the settings and the runs that are known; `say_shared`
looks at the data and speaks to the owner's console alone. Does not: spend budget, or train.
"""

import math
from typing import Any

from privcode.config import Config, json_number
from privcode.console import say
from privcode.errors import UserError
from privcode.init import KEEP, epsilon_words, shared
from privcode.inspect import repeats
from privcode.models import sizes
from privcode.privacy.plan import PrivacyPlan
from privcode.private import private_records
from privcode.records import is_local
from privcode.results import charged, spent_elsewhere

GROUPS = (2, 5, 10)
"""Sizes of the groups that `plan` names; fixed, so that they say nothing about the data."""


def planned(config: Config, plan: PrivacyPlan) -> tuple[dict[str, Any], str]:
    """The guarantee of `plan`, what it covers and costs: as JSON values, and in words."""
    cost = plan.cost()
    groups = {units: plan.group_epsilon(units) for units in GROUPS}
    facts = plan.describe() | {
        "epsilon": json_number(cost.epsilon),
        "epsilon_rdp": json_number(cost.epsilon_rdp),
        "group_epsilon": {
            str(units): e if math.isfinite(e) else epsilon_words(e) for units, e in groups.items()
        },
        "memory_bytes": _memory(config),
    }
    memory = facts["memory_bytes"]
    room = "unknown: the model's config cannot be read here"
    if memory is not None:
        room = f"at least {memory / 1e6:,.0f} MB for sanitize, plus activations"
    selection, selection_text = _selection(config, plan)
    whom = "record" if plan.unit == "record" else f"owner (column {plan.unit})"
    text = f"""\
guarantee         ε = {cost.epsilon:.4g}, δ = {plan.delta:g} (by RDP: ε = {cost.epsilon_rdp:.4g})
protects          one {whom} added or removed, at most {plan.max_records_per_unit} record(s) each
together          what {" / ".join(map(str, GROUPS))} of them share: \
ε = {" / ".join(map(epsilon_words, groups.values()))}
noise multiplier  {plan.noise_multiplier:.4f}, {facts["noise"]}
sampling          rate {plan.sampling_rate:.5g}: {plan.expected_batch} of {plan.units} units \
expected per step, {plan.steps} steps, clip norm {plan.clip_norm:g}
memory            {room}
not covered       the prompts are taken as public; settings chosen by looking at runs that are
                  not counted below are not charged"""
    return facts | selection, f"{text}\n{selection_text}"


def _memory(config: Config) -> int | None:
    """Bytes that DP-SGD holds beside activations, from the model's config; None if unknown.

    The weights; in fp32 the adapter, its clipped sum, noise, gradient and two moments; and a row
    of per-record gradients for each record of a micro-batch.
    """
    section = config.premium if config.method in ("dpft", "jft") else config.junior
    try:
        base, adapter = sizes(section.model, section.lora.r, section.lora.targets)
    except UserError:
        return None
    width = 4 if section.dtype == "float32" else 2
    return base * width + adapter * 4 * (6 + config.sanitize.micro_batch)


def say_shared(config: Config, plan: PrivacyPlan) -> None:
    """Tell the owner, on the console, what stands in many units' records."""
    source = config.data.source
    if not is_local(source):
        say(f"{source}: not here, so what stands in many of its records was not looked at")
        return
    try:
        records, counts, _ = private_records(config)
    except UserError as error:
        say(f"the data were not looked at: {error}")
        return
    own = records[: len(records) - counts["canaries"]]
    lines = list(shared(repeats((r.unit, r.prompt, r.completion) for r in own), plan))
    for line in lines:
        say(f"! {line}")
    if lines:
        say(KEEP)


def _selection(config: Config, plan: PrivacyPlan) -> tuple[dict[str, Any], str]:
    """What the plan's selection means beside the runs that are known by now."""
    charge = plan.charge(tuple(spent_elsewhere(config).values()))
    facts = charged(charge)
    others = facts["runs_over_the_same_data"] - 1
    text = f"selection         {plan.selection}: {others} other run(s) over this source are known"
    if plan.trials:
        text += f"; the best of\n{' ' * 18}Poisson-many trials, mean {plan.trials:g}, is charged"
    if charge.words:
        text += f"\n{charge.words}"
    elif others:
        text += f"; with all of\n{' ' * 18}them ε = {charge.cost.epsilon:.4g}"
    return facts, text
