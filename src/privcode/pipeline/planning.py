"""What `privcode plan` says before anything is trained.

Promises: `planned` is public, made from the settings and the runs that are known; what
`shared_by_many` says is private, from a look at the data. Does not: spend budget, or train.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from privcode.config import Compare, Config
from privcode.config.proposal import KEEP, epsilon_words, shared
from privcode.console import columns, epsilon_text
from privcode.data.columns import Columns
from privcode.data.prompts import Lessons, private_prompts, prompts_of
from privcode.data.records import Record, units_of
from privcode.data.repeats import repeats
from privcode.data.rows import is_local, read_rows
from privcode.data.survey import alike, unused_columns
from privcode.errors import UserError
from privcode.fields import json_number
from privcode.pipeline.arms import arms
from privcode.pipeline.cost import BANDWIDTH, GPU, PEAK, UTILISATION, estimate
from privcode.pipeline.devices import LINK, share_of
from privcode.pipeline.private import private_records
from privcode.pipeline.rates import Rates
from privcode.pipeline.results import charged
from privcode.pipeline.spending import runs_elsewhere, spent_elsewhere
from privcode.pipeline.work import Lengths, memory, size
from privcode.privacy.accounting import spend, unit_words
from privcode.privacy.plan import PrivacyPlan
from privcode.privacy.spending import overlaps

GROUPS = (2, 5, 10)
"""Sizes of the groups that `plan` names; fixed, so that they say nothing about the data."""

_PROMPTS = {
    "public": """\
not covered       the prompts are taken as public; settings chosen by looking at runs that are
                  not counted below are not charged""",
    "synthesised": """\
prompts           written by the junior; prompt and code of a record are covered together
not covered       settings chosen by looking at runs that are not counted below""",
    "latent": """\
prompts           written by the junior, each for a random vector; prompt and code of a record, and
                  what encodes them, are covered together
not covered       settings chosen by looking at runs that are not counted below""",
    "described": """\
prompts           written by the describer, from synthetic code; no private prompt is read
not covered       settings chosen by looking at runs that are not counted below""",
}
"""What `plan` says of prompts, and of what is not covered, by their source."""


@dataclass(frozen=True)
class Assumed:
    """What `plan` takes to be so, in addition to the config.

    Attributes:
        rates: measured ones.
        ignored: one line on a file of rates that is not used, or "".
        lengths: mean tokens of texts. None: the default.
        devices: GPUs to spread the work over.
    """

    rates: Rates = field(default_factory=Rates)
    ignored: str = ""
    lengths: Lengths | None = None
    devices: int = 1


def planned(
    config: Config, plan: PrivacyPlan, assumed: Assumed | None = None
) -> tuple[dict[str, Any], str]:
    """The guarantee of `plan`, what it covers and costs: as JSON values, and in words.

    Raises:
        UserError: the section compare names what is not there; a public file cannot be read.
    """
    assumed = assumed or Assumed()
    cost = plan.cost()
    groups = {units: plan.group_epsilon(units) for units in GROUPS}
    facts = plan.describe() | {
        "epsilon": json_number(cost.epsilon),
        "epsilon_rdp": json_number(cost.epsilon_rdp),
        "group_epsilon": {
            str(units): e if math.isfinite(e) else epsilon_words(e) for units, e in groups.items()
        },
        "memory_bytes": (held := memory(config, assumed.devices)),
    }
    room = "unknown: the model's config cannot be read here"
    if held is not None:
        where = f"sanitize{_in_each(config, assumed.devices)}"
        room = f"at least {held / 1e6:,.0f} MB for {where}, plus activations"
    facts["adapters"], adapters_text = _adapters(config)
    facts["cost"], cost_text = _cost(config, assumed)
    selection, selection_text = _selection(config, plan)
    whom = unit_words(plan.owner_column)
    text = f"""\
guarantee         ε = {epsilon_text(cost.epsilon)}, δ = {plan.delta:g} \
(by RDP: ε = {epsilon_text(cost.epsilon_rdp)})
protects          one {whom} added or removed, at most {plan.max_records_per_unit} record(s) each
together          what {" / ".join(map(str, GROUPS))} of them share: \
ε = {" / ".join(map(epsilon_words, groups.values()))}
noise multiplier  {plan.noise_multiplier:.4f}, {facts["noise"]}
{_histogram(plan)}\
sampling          rate {plan.sampling_rate:.5g}: {plan.expected_batch} of {plan.units} units \
expected per step, {plan.steps} steps, clip norm {plan.clip_norm:g}
memory            {room}{adapters_text}
{_PROMPTS[config.prompts.source]}"""
    return facts | selection, f"{text}\n{selection_text}\n{cost_text}"


def _histogram(plan: PrivacyPlan) -> str:
    """What the histogram costs by itself, in words. Empty if the plan has none."""
    noise = plan.histogram_noise_multiplier
    if noise is None:
        return ""
    alone = spend((plan.spent(steps=0),), plan.delta)
    return (
        f"histogram         of what prompts are about: noise multiplier {noise:g}; "
        f"alone ε = {epsilon_text(alone.epsilon)}\n"
    )


def _adapters(config: Config) -> tuple[dict[str, Any], str]:
    """What share of each model the layers hold that get an adapter: as JSON values, in words.

    Raises:
        UserError: the field lora.targets names what the model does not have.
    """
    facts, text = {}, ""
    labels = ["junior"] * (config.method == "privcode")
    labels += ["premium"] * (config.sanitized is config.premium or config.boost.method == "lora")
    for label in labels:
        try:
            known = size(getattr(config, label))
        except UserError as error:
            if str(error).startswith("lora."):
                raise UserError(f"{label}.{error}") from None
            continue
        if known.adapted:
            share = known.adapted / known.base
            rest = {part: count / known.base for part, count in known.left_out.items()}
            facts[label] = {"share": share, "left_out": rest}
            large = sorted((part for part in rest if rest[part] >= 0.01), key=lambda p: -rest[p])
            words = [f"{part} {rest[part]:.0%}" for part in large] or ["little"]
            text += (
                f"\n{label:<17} its adapted layers hold {share:.0%} of the weights; "
                f"left out: {', '.join(words)}"
            )
    return facts, text


def _in_each(config: Config, devices: int) -> str:
    """Words on what each process holds, where there are several."""
    if devices == 1:
        return ""
    shared = ", which share the layers" if config.sanitize.shard else ""
    return f" in each of {devices} processes{shared}"


def _cost(config: Config, assumed: Assumed) -> tuple[dict[str, Any], str]:
    """What the run, or all runs of the section compare, would take: as JSON values, in words."""
    runs: list[tuple[str, Config, tuple[str, ...]]] = [(config.method, config, ())]
    if config.compare != Compare():
        runs = [(arm.method, arm.config, arm.taken) for arm in arms(config).values()]
    facts = estimate(runs, assumed.rates, assumed.lengths, assumed.devices)
    facts["rates_ignored"] = assumed.ignored or None
    several = len(runs) > 1
    stages = list(facts["all"]["stages"])
    head = [*stages, "together", "at most", "operations", "memory"]
    body = []
    for row in [*facts["rows"], facts["all"]] if several else facts["rows"]:
        usual = row["expected"]
        cells = [_duration(usual["stages"].get(stage)) for stage in stages]
        cells += [_duration(usual["seconds"]), _duration(row["seconds"])]
        cells.append(f"{usual['flops']:.1e}" if usual["flops"] else "–")
        cells.append(f"{row['memory'] / 1e9:.3g} GB" if row["memory"] else "–")
        body.append(cells)
        if several:
            cells[:0] = [row["name"], str(row["runs"]), str(row["dp_trainings"])]
    if several:
        head[:0] = ["method", "runs", "DP trainings"]
    text = f"""\
cost              {_how(facts, assumed)}
{columns(head, body)}"""
    spread = _spread(config, facts, several) if assumed.devices > 1 else []
    return facts, "\n".join([text, *_notes(facts, several), *spread])


def _how(facts: Mapping[str, Any], assumed: Assumed) -> str:
    """Where times come from: lengths, and rates or arithmetic."""
    lengths, usual = facts["lengths"], facts["all"]["expected"]
    source = "as you say" if assumed.lengths else "an assumption; --prompt-tokens, --answer-tokens"
    words = [
        f"expected, with prompts of {lengths['prompt']:g} and code of {lengths['answer']:g} tokens "
        f"in the mean ({source})"
    ]
    words += [
        f"prompts of {name}: {tokens} tokens in the mean, at 3 bytes each"
        for name, tokens in lengths["public"].items()
    ]
    words.append("at most: if every text is as long as the settings allow")
    arithmetic = (
        f"by arithmetic, not measured: one {GPU} at {UTILISATION:.0%} of its "
        f"{PEAK['bfloat16'] / 1e12:g} TFLOP/s (bf16) and {BANDWIDTH / 1e12:g} TB/s"
    )
    if rates := facts["rates"]:
        words.append(
            f"measured: {_duration(usual['measured'])} of {_duration(usual['seconds'])}, at the "
            f"rates in {rates['file']}, of {rates['device']}"
        )
        if left := facts["not_measured"]:
            words += [arithmetic, f"by arithmetic: {', '.join(left)}"]
    else:
        words.append(arithmetic)
    if assumed.ignored:
        words.append(assumed.ignored)
    return f"\n{' ' * 18}".join(words)


def _notes(facts: Mapping[str, Any], several: bool) -> list[str]:
    """What the table means, and what it does not count."""
    notes = [
        "operations: floating-point, expected; memory: at least, of the largest run, beside "
        "activations"
    ]
    if several:
        notes[:0] = [
            "times are sums over the runs; what runs have in common is done, and counted, once",
            "DP training: on the private data, with clipping and noise; one serves several runs",
        ]
    stages = facts["all"]["stages"]
    if "boost" in stages and "synthesize" in stages:
        notes.append(
            "boost: as if all samples passed the filters; what is tuned on samples takes the share "
            "that does"
        )
    if facts["by_name"]:
        notes.append(f"size taken from the model's name: {', '.join(facts['by_name'])}")
    programs, missing = facts["programs"], list(facts["not_counted"])
    if programs["count"]:
        what = f"{programs['count']:,} programs that are run to test them, on processors"
        if programs["seconds"]:
            notes.append(
                f"and {what}: {_duration(programs['seconds'])}, if they end as soon as the made-up "
                "ones that were measured"
            )
        else:
            missing.append(what)
    return notes + [f"not counted: {what}" for what in missing]


def _spread(config: Config, facts: Mapping[str, Any], several: bool) -> list[str]:
    """The same over several devices."""
    count, walls = facts["devices"], facts["all"]["wall"]
    share, rows = share_of(config, count)
    body = [
        [
            stage,
            str(one["devices"]),
            _duration(one["seconds"]),
            _duration(one["traffic"]),
            _duration(one["host"]),
            f"{one['busy'] / 3600:,.1f}",
        ]
        for stage, one in walls.items()
    ]
    seconds = sum(one["seconds"] for one in walls.values())
    busy = sum(one["busy"] for one in walls.values())
    body.append(["together", "", _duration(seconds), "", "", f"{busy / 3600:,.1f}"])
    head = ["stage", "devices", "by the clock", "traffic", "host", "device-hours at work"]
    ray = config.scale.engine == "ray"
    lines = [
        f"devices           {count}: sanitize and boost have a process on each (torchrun); "
        + ("the Ray cluster has" if ray else "other stages use one: scale.engine is local, not ray")
        + (" the other stages' workers" if ray else ""),
        columns(head, body),
        f"traffic: between processes, at {LINK / 1e9:g} GB/s for each (an assumption), and none of "
        "it hidden",
        "host: one core reads the records and draws who takes part; measured on processors",
        f"held for all of it, {count} devices take {count * seconds / 3600:,.1f} device-hours",
    ]
    if several:
        lines.append("by the clock: one run after the other")
    if "sanitize" in walls:
        lines.append(
            f"sanitize: a process has {share:,} records of a step, and computes {rows:,} rows"
            + ": lower sanitize.micro_batch, or take fewer processes" * (rows > 1.2 * share)
        )
    idle = [stage for stage, one in walls.items() if one["devices"] < count]
    if idle:
        lines.append(f"cannot use them all: {', '.join(idle)}")
    return lines


def _duration(seconds: float | None) -> str:
    if not seconds:
        return "–"
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def shared_by_many(config: Config, plan: PrivacyPlan) -> str:
    """What stands in many units' records, and what else the owner should know: private."""
    source = config.data.source
    if not is_local(source):
        return f"{source}: not here, so what stands in many of its records was not looked at"
    try:
        records, counts, data = private_records(config)
    except UserError as error:
        return f"the data were not looked at: {error}"
    own = records[: len(records) - counts["canaries"]]
    columns = Columns(**config.data.columns.model_dump()) if config.data.columns else None
    unused = unused_columns((row for _, row in read_rows(source)), columns)
    lines = [f"columns with text that are not read: {', '.join(unused)}"] if unused else []
    lines += filter(None, [alike((r.prompt for r in own), unused)])
    lines += list(shared(repeats((r.unit, r.prompt, r.completion) for r in own), plan))
    with suppress(UserError):  # a model that is not here
        lines += filter(None, [_cut(config, own)])
    with suppress(UserError):  # prompts that cannot be read: the run will say so
        prompts = prompts_of(config.prompts)
        lines += filter(None, [private_prompts(prompts, (r.prompt for r in own))])
    if (units := len(units_of(own))) > 1.5 * plan.units:
        lines.append(
            f"{units} units are there and {plan.units} are declared: a step takes "
            f"{units / plan.units:.1f} times privacy.batch"
        )
    known, by_content = runs_elsewhere(config), runs_elsewhere(config, data)
    if more := len(by_content) - len(known):
        together = plan.charge([other.spent for other in by_content.values()]).of_all.epsilon
        lines.append(
            f"{more} more run(s) read the same records from another file, or many of them, and "
            f"count as well: with them ε = {epsilon_text(together)}"
        )
    lines += overlaps({name: by_content[name] for name in by_content if name not in known})
    return "\n".join([f"! {line}" for line in lines] + [KEEP] * bool(lines))


def _cut(config: Config, records: Sequence[Record]) -> str:
    """What the context cuts off the records: private."""
    from privcode.models import tokenizer_of
    from privcode.pipeline.models import asking_of
    from privcode.pipeline.truncation import looked_at, truncation, words
    from privcode.training.examples import encode

    section = config.sanitized
    tokenizer = tokenizer_of(section)
    asking = asking_of(section, tokenizer)
    field = "premium" if section is config.premium else "junior"
    pairs = Lessons(records, config.prompts)
    encoded = (
        encode(pair, asking(pair.prompt), tokenizer, section.max_tokens, syntax=False)
        for pair in (pairs[index] for index in looked_at(len(pairs)))
    )
    return words(truncation(encoded, len(pairs)), section, field)


def _selection(config: Config, plan: PrivacyPlan) -> tuple[dict[str, Any], str]:
    """What the plan's selection means beside the runs that are known by now."""
    known = tuple(spent_elsewhere(config).values())
    charge = plan.charge(known)
    facts = charged(charge)
    others = facts["runs_over_the_same_data"] - 1
    text = f"selection         {plan.selection}: {others} other run(s) over this source are known"
    text += ", this one counted if it was begun" if others else ""
    if plan.trials:
        text += f"; the best of\n{' ' * 18}Poisson-many trials, mean {plan.trials:g}, is charged"
    if charge.words:
        text += f"\n{charge.words}"
    elif others:
        text += f"; with all of\n{' ' * 18}them ε = {epsilon_text(charge.cost.epsilon)}"
    others_protect = {s.owner_column for s in known} - {plan.owner_column}
    if kinds := sorted(map(unit_words, others_protect)):
        text += f"\nNo ε holds together with runs that protect each {' or '.join(kinds)}."
    return facts, text
