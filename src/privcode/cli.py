"""The `privcode` command.

Promises: exit code 0 only on success; bad input is one line on stderr and exit code 2; a
traceback only with --debug. With --json a command prints one JSON document on stdout and
everything else on stderr.
Does not: decide anything; each command calls one function.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from privcode.console import answer, say
from privcode.errors import UserError

app = typer.Typer(
    help="Private code in, a synthetic data set and a tuned model out, under (ε, δ)-DP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["PRIVCODE_DEBUG"] = "1"


@app.command()
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
    from privcode.config import json_number
    from privcode.privacy import make_plan

    plan = make_plan(
        epsilon=epsilon,
        noise_multiplier=noise,
        delta=delta,
        units=records,
        batch=batch,
        steps=steps,
    )
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
        f"noise multiplier {plan.noise_multiplier:.4f}: ε = {cost.epsilon:.4g} by PLD "
        f"({cost.epsilon_rdp:.4g} by RDP) at δ = {delta:g}, for one record added or removed;\n"
        f"{steps} steps at sampling rate {plan.sampling_rate:.5g}"
    )
    answer(facts, as_json, text)


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    as_json: Json = False,
) -> None:
    """What a run would promise: no data is read and nothing is trained."""
    from privcode.config import json_number, load_config, plan_of

    chosen = plan_of(load_config(config))
    cost = chosen.cost()
    facts = chosen.describe() | {
        "epsilon": json_number(cost.epsilon),
        "epsilon_rdp": json_number(cost.epsilon_rdp),
    }
    whom = "record" if chosen.unit == "record" else f"owner (column {chosen.unit})"
    text = f"""\
guarantee         ε = {cost.epsilon:.4g}, δ = {chosen.delta:g} (by RDP: ε = {cost.epsilon_rdp:.4g})
protects          one {whom} added or removed, at most {chosen.max_records_per_unit} record(s) each
noise multiplier  {chosen.noise_multiplier:.4f}, {facts["noise"]}
sampling          rate {chosen.sampling_rate:.5g}: {chosen.expected_batch} of {chosen.units} units \
expected per step, {chosen.steps} steps, clip norm {chosen.clip_norm:g}
not covered       a secret that stands in the records of several units is protected less, by
                  about the number of units; the prompts are taken as public; settings chosen
                  by looking at other runs on the same data are not charged"""
    answer(facts, as_json, text)


RunFolder = Annotated[Path, typer.Argument(help="A run's directory.")]


@app.command()
def sanitize(
    config: Annotated[Path, typer.Argument(help="The run's YAML file, or its directory.")],
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.")] = None,
    as_json: Json = False,
) -> None:
    """Stage 1: tune the junior on the private records with DP-SGD."""
    from privcode.config import load_config
    from privcode.run import Run

    if config.is_dir():
        run = Run.open(config)
    else:
        run = Run(load_config(config), out or Path("runs") / config.stem)
    run.sanitize()
    answer({"run": str(run.out), "adapter": str(run.junior)}, as_json, f"run {run.out}")


@app.command()
def synthesize(run: RunFolder, as_json: Json = False) -> None:
    """Stage 2a: sample solutions of the public prompts from the DP junior."""
    from privcode.run import Run

    opened = Run.open(run)
    opened.synthesize()
    answer({"run": str(run), "samples": str(opened.raw)}, as_json, f"samples {opened.raw}")


def main() -> None:
    """Entry point: turns `UserError` into one line and exit code 2."""
    try:
        app()
    except UserError as error:
        if os.environ.get("PRIVCODE_DEBUG"):
            raise
        say(f"privcode: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
