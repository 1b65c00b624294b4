"""The sandbox and the scorer by themselves: execute, score."""

from pathlib import Path
from typing import Annotated, Any

import typer

from privcode.cli._options import Json, Workers
from privcode.console import answer, progress_bar
from privcode.outputs import is_stdout


def execute(
    programs: Annotated[Path, typer.Argument(help="Rows {id, language, code, stdin?, files?}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The same rows, with what happened.")],
    sandbox: Annotated[str, typer.Option(help="auto, or one that doctor lists.")] = "auto",
    cpu_seconds: Annotated[
        float, typer.Option(help="Processor time of each.", min=0.01, max=1e6)
    ] = 5.0,
    memory_mb: Annotated[
        int, typer.Option(help="Memory of each, all processes.", min=1, max=10**8)
    ] = 1024,
    preload: Annotated[list[str] | None, typer.Option(help="Module; may be repeated.")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Run every program of a file in the sandbox, in eleven languages where their tools are."""
    from privcode.execution import Limits, execute_file

    modules = tuple(preload or ())
    limits = Limits(cpu_seconds=cpu_seconds, memory_mb=memory_mb, preload=modules)
    facts = execute_file(
        programs, out, limits=limits, sandbox=sandbox, workers=workers, bar=progress_bar
    )
    counts = ", ".join(f"{name} {count}" for name, count in facts["status"].items())
    errors = "".join(
        f"\n{count / facts['programs']:6.1%}  {error}"
        for error, count in list(facts["errors"].items())[:8]
    )
    text = f"{facts['programs']} programs: {counts}{errors}\nresults {out}"
    answer(facts, as_json, text, aside=is_stdout(out))


def score(
    tasks: Annotated[str, typer.Argument(help="A benchmark's own file, or OWNER/NAME:SPLIT.")],
    samples: Annotated[
        Path,
        typer.Argument(help="Rows {task_id, completion or solution}; or evalplus's results."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Results; default: SAMPLES with _results.jsonl behind it."
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the tasks; default: by their fields.")
    ] = None,
    stdlib_only: Annotated[
        bool, typer.Option(help="Leave out tasks that need more than the standard library.")
    ] = False,
    k: Annotated[list[int] | None, typer.Option(help="pass@k; may be repeated.")] = None,
    prelude: Annotated[Path | None, typer.Option(help="Code before each program.")] = None,
    clean: Annotated[
        bool, typer.Option(help="Score the code in Markdown fences, and none behind end tokens.")
    ] = False,
    sandbox: Annotated[str, typer.Option(help="auto, or one that doctor lists.")] = "auto",
    cpu_seconds: Annotated[
        float | None,
        typer.Option(help="Processor time of each; default: the format's.", min=0.01, max=1e6),
    ] = None,
    memory_mb: Annotated[
        int | None,
        typer.Option(
            help="Memory of each, all processes; default: the format's.", min=1, max=10**8
        ),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """pass@k by itself: HumanEval, MBPP, their + sets, BigCodeBench, MultiPL-E."""
    from privcode.files import CODE, read_text
    from privcode.scoring.score import score_files

    facts = score_files(
        tasks,
        samples,
        out,
        format=format,
        stdlib_only=stdlib_only,
        k=k or (1,),
        prelude=read_text(prelude, CODE) if prelude else "",
        clean=clean,
        cpu_seconds=cpu_seconds,
        memory_mb=memory_mb,
        sandbox=sandbox,
        workers=workers,
        bar=progress_bar,
    )
    answer(facts, as_json, _score_text(facts), aside=out is not None and is_stdout(out))


def _score_text(facts: dict[str, Any]) -> str:
    rates = ", ".join(f"{n} {v:.4f}" for n, v in facts.items() if "pass@" in n)
    errors = ", ".join(f"{name} {count}" for name, count in facts["errors"].items())
    truth = facts["conditions"]["ground_truth"]
    own = f"of their own solutions {truth['passed']} of {truth['checked']} pass here"
    lines = [
        f"{rates} of {facts['tasks']} tasks, {facts['samples']} samples",
        f"tasks   {facts['conditions']['format']}; "
        f"{own if truth['checked'] else 'they have no solutions of their own to check'}",
        f"errors  {errors or 'none'}",
        f"results {facts['results'][0]}",
        f"        {facts['results'][1]} (as evalplus writes them)",
    ]
    if unclean := facts["unclean"]:
        lines.append(
            f"fences  {unclean} samples that failed hold Markdown fences or the text of an end "
            "token: --clean scores the code in them"
        )
    if missing := facts["missing"]:
        lines.append(f"missing {len(missing)} tasks have no sample: {', '.join(missing[:5])} …")
    if found := facts.get("agreement"):
        lines.append(f"agree   {found['same']} of {found['of']} verdicts with those in the samples")
        lines += [
            f"        {row['sample']}: {row['theirs']}, here {row['ours']}"
            for row in found["differ"]
        ]
    lines.append(f"next    jq -r 'select(.passed|not)|.task_id,.error' {facts['results'][0]}")
    return "\n".join(lines)
