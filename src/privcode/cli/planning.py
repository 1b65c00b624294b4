"""Before anything is trained: account, plan, init."""

import re
from pathlib import Path
from typing import Annotated

import typer

from privcode.cli._options import Json
from privcode.console import answer, epsilon_text, say_private
from privcode.errors import UserError
from privcode.outputs import check_output, is_stdout


def account(
    records: Annotated[int, typer.Option(help="Declared number of units.")],
    batch: Annotated[int, typer.Option(help="Expected units per step.")],
    steps: Annotated[int, typer.Option(help="Noised updates.")],
    delta: Annotated[float, typer.Option(help="δ, at most 1/records.")],
    epsilon: Annotated[float | None, typer.Option(help="Target ε; inf allowed.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier, instead of ε.")] = None,
    as_json: Json = False,
) -> None:
    """The accountant by itself: noise for an ε, or ε for a noise multiplier."""
    from privcode.fields import json_number
    from privcode.privacy import make_plan

    try:
        plan = make_plan(
            epsilon=epsilon,
            noise_multiplier=noise,
            delta=delta,
            units=records,
            batch=batch,
            steps=steps,
        )
    except UserError as error:  # in the words of a config
        options = {"units": "records", "noise_multiplier": "noise"}
        raise UserError(
            re.sub(r"privacy\.(\w+)", lambda m: f"--{options.get(m[1], m[1])}", str(error))
        ) from None
    cost = plan.cost()
    facts = {
        "noise_multiplier": plan.noise_multiplier,
        "epsilon": json_number(cost.epsilon),
        "epsilon_rdp": json_number(cost.epsilon_rdp),
        "delta": plan.delta,
        "sampling_rate": plan.sampling_rate,
        "steps": plan.steps,
    }
    text = (
        f"noise multiplier {plan.noise_multiplier:.4f}: ε = {epsilon_text(cost.epsilon)} by PLD "
        f"({epsilon_text(cost.epsilon_rdp)} by RDP) at δ = {delta:g}, "
        f"for one record added or removed;\n"
        f"{steps} steps at sampling rate {plan.sampling_rate:.5g}"
    )
    answer(facts, as_json, text)


def plan(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    devices: Annotated[
        int, typer.Option(min=1, max=100_000, help="GPUs to spread the work over.")
    ] = 1,
    rates: Annotated[
        Path | None,
        typer.Option(
            help="What doctor --measure wrote, on any machine. Default: the file next to the "
            "config, if it is of this machine."
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**6, help="Mean tokens of a prompt, if public. Default: 250, assumed."
        ),
    ] = None,
    answer_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**6, help="Mean tokens of a solution, if public. Default: 350, assumed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a run would promise and cost, before anything is trained.

    The answer is public. Where the data are at hand, what stands in many of their records is
    shown next to it, at a terminal only.
    """
    from privcode.config import load_config, plan_of

    loaded = load_config(config)
    chosen = plan_of(loaded)
    from privcode.pipeline.cost import ANSWER, PROMPT
    from privcode.pipeline.planning import (  # slow, and a wrong config ends before
        Assumed,
        planned,
        shared_by_many,
    )
    from privcode.pipeline.rates import chosen_rates
    from privcode.pipeline.work import Lengths

    found, ignored = chosen_rates(config, rates)
    given = prompt_tokens or answer_tokens
    lengths = Lengths(prompt_tokens or PROMPT, answer_tokens or ANSWER) if given else None
    facts, text = planned(loaded, chosen, Assumed(found, ignored, lengths, devices))
    answer(facts, as_json, f"{text}\nnext              privcode run {config}")
    say_private(lambda: shared_by_many(loaded, chosen))


def init(
    data: Annotated[str, typer.Argument(help="File, datasets folder or hub name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The config to write.")] = Path(
        "privcode.yaml"
    ),
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts; by naming the file you state that it is public. Default: the junior "
            "writes them."
        ),
    ] = None,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="A benchmark's own file; may be repeated.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="Column that names a record's owner; default: each record.")
    ] = None,
    units: Annotated[
        int | None,
        typer.Option(
            help="Their number, published; default: that of the data rounded down to 1, 2 or 5 "
            "times a power of ten, and none below 1,000."
        ),
    ] = None,
    junior: Annotated[
        str | None,
        typer.Option(
            help="Model to tune with privacy: folder, .gguf file or hub name. Default: "
            "bundled:junior, or bundled:writer if it is to write the prompts."
        ),
    ] = None,
    premium: Annotated[
        str, typer.Option(help="Model to tune on the synthetic data, named in the same way.")
    ] = "bundled:premium",
    prompt_column: Annotated[str | None, typer.Option(help="Default: a usual name.")] = None,
    code_column: Annotated[str | None, typer.Option(help="Default: a usual name.")] = None,
    as_json: Json = False,
) -> None:
    """Look at private data and write a commented config. Figures are shown at a terminal only."""
    from privcode.config.proposal import declared, draft, proposed_plan, summary
    from privcode.data.columns import Columns
    from privcode.data.survey import look
    from privcode.files import settle, write_text

    if check_output(out).exists():
        raise UserError(f"{out}: exists already; choose another -o")
    if (prompt_column is None) != (code_column is None):
        raise UserError("--prompt-column and --code-column: give both, or let them be guessed")
    columns = Columns(prompt_column, code_column) if prompt_column and code_column else None
    found = look(data, columns, unit=unit)
    proposal = draft(
        found,
        data,
        out,
        units=units,
        prompts=prompts,
        tasks=tasks or (),
        models=(junior or ("bundled:junior" if prompts else "bundled:writer"), premium),
    )
    write_text(out, proposal)
    if not is_stdout(out):
        settle(out)
    say_private(lambda: summary(found, proposed_plan(found, units), prompts))
    open_ = ["name the prompts"] if found.guess.suffix and not prompts else []
    if declared(found, units) is None:
        open_ += ["type privacy's units, delta and batch (or let init --units N fill them in)"]
    fill = f"in {out}, {' and '.join(open_)} in place of CHANGE_ME, then " if open_ else ""
    text = f"config {out}; next: {fill}privcode plan {out}"
    answer({"config": str(out)}, as_json, text, aside=is_stdout(out))
