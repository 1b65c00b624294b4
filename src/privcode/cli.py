"""The `privcode` command.

Promises: exit code 0 only on success; bad input is one line on stderr and exit code 2; a
traceback only with --debug. With --json a command prints one JSON document on stdout and
everything else on stderr.
Does not: decide anything; each command calls one function.
"""

import logging
import os
import re
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from privcode import launcher
from privcode.console import answer, epsilon_text, open_streams, progress_bar, say, say_private
from privcode.errors import UserError, why
from privcode.outputs import check_folder, check_output, is_stdout

if TYPE_CHECKING:
    from privcode.pipeline.run import Run

app = typer.Typer(
    help="Private code in, a synthetic data set and a tuned model out, under (ε, δ)-DP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Workers = Annotated[int | None, typer.Option(help="At a time; default: all cores.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    if launcher.launched() > 1 and context.invoked_subcommand != "sanitize":
        from privcode.distributed import alone

        alone(f"privcode {context.invoked_subcommand}")
    if debug:
        os.environ["PRIVCODE_DEBUG"] = "1"
        return
    # Libraries talk about their own affairs, some of it in the middle of a progress bar.
    warnings.simplefilter("ignore")
    for name in ("absl", "transformers", "peft", "trl", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


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


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    as_json: Json = False,
) -> None:
    """What a run would promise, before anything is trained.

    The answer is public. Where the data are at hand, what stands in many of their records is
    shown next to it, at a terminal only.
    """
    from privcode.config import load_config, plan_of

    loaded = load_config(config)
    chosen = plan_of(loaded)
    from privcode.pipeline.planning import (  # slow, and a wrong config ends before
        planned,
        shared_by_many,
    )

    facts, text = planned(loaded, chosen)
    answer(facts, as_json, f"{text}\nnext              privcode run {config}")
    say_private(lambda: shared_by_many(loaded, chosen))


@app.command()
def init(
    data: Annotated[str, typer.Argument(help="File, datasets folder or hub name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The config to write.")] = Path(
        "privcode.yaml"
    ),
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts; by naming the file you state that it is public.")
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
    prompt_column: Annotated[str | None, typer.Option(help="Default: a usual name.")] = None,
    code_column: Annotated[str | None, typer.Option(help="Default: a usual name.")] = None,
    as_json: Json = False,
) -> None:
    """Look at private data and write a commented config. Figures are shown at a terminal only."""
    from privcode.config.proposal import declared, draft, proposed_plan, summary
    from privcode.data.records import Columns
    from privcode.data.survey import look
    from privcode.files import settle, write_text

    if check_output(out).exists():
        raise UserError(f"{out}: exists already; choose another -o")
    if (prompt_column is None) != (code_column is None):
        raise UserError("--prompt-column and --code-column: give both, or let them be guessed")
    columns = Columns(prompt_column, code_column) if prompt_column and code_column else None
    found = look(data, columns, unit=unit)
    write_text(out, draft(found, data, out, units=units, prompts=prompts, tasks=tasks or ()))
    if not is_stdout(out):
        settle(out)
    say_private(lambda: summary(found, proposed_plan(found, units)))
    open_ = [] if prompts else ["name the prompts"]
    if declared(found, units) is None:
        open_ += ["type privacy's units, delta and batch (or let init --units N fill them in)"]
    fill = f"in {out}, {' and '.join(open_)} in place of CHANGE_ME, then " if open_ else ""
    text = f"config {out}; next: {fill}privcode plan {out}"
    answer({"config": str(out)}, as_json, text, aside=is_stdout(out))


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Instead: can this model be clipped per record here?")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of that model's weights.")] = "float32",
    micro_batch: Annotated[int, typer.Option(min=1, help="sanitize.micro_batch.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="junior.max_tokens.")] = 1024,
    as_json: Json = False,
) -> None:
    """Self-test of this machine, in under two minutes: is the guarantee kept, would faults show?"""
    from privcode.doctor import Check, checks, line, report

    done: list[Check] = []
    wanted = checks()
    if model is not None:
        from typing import get_args

        from privcode.doctor.model import model_checks
        from privcode.models import Dtype

        if dtype not in get_args(Dtype):
            raise UserError(f"--dtype {dtype}: choose of {', '.join(get_args(Dtype))}")
        wanted = model_checks(model, cast(Dtype, dtype), micro_batch, max_tokens)
    for check in wanted:
        if not done or done[-1].group != check.group:
            say(f"\n{check.group}")
        done.append(check)
        say(line(check))
    facts = report(done)
    answer(facts, as_json, "ready" if facts["ok"] else "not ready")
    raise typer.Exit(0 if facts["ok"] else 1)


@app.command()
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


@app.command()
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
    lines = [
        f"{rates} of {facts['tasks']} tasks, {facts['samples']} samples",
        f"tasks   {facts['conditions']['format']}; of their own solutions "
        f"{truth['passed']} of {truth['checked']} pass here",
        f"errors  {errors or 'none'}",
        f"results {facts['results'][0]}",
        f"        {facts['results'][1]} (as evalplus writes them)",
    ]
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


RunOrConfig = Annotated[Path, typer.Argument(help="The run's YAML file, or its directory.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's directory.")]
Out = Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.")]


def _opened(where: Path, out: Path | None) -> "Run":
    from privcode.config import load_config
    from privcode.pipeline.run import Run

    if where.is_dir():
        return Run.open(where)
    return Run(load_config(where), check_folder(out or Path("runs") / where.stem))


def _summary(run: "Run", as_json: bool) -> None:
    from privcode.pipeline.results import summary

    facts = summary(run)
    answer(facts, as_json, _summary_text(facts))


def _summary_text(facts: dict[str, Any]) -> str:
    lines = [f"run        {facts['run']}"]
    if facts["epsilon"] is not None:
        epsilon = epsilon_text(float(facts["epsilon"]))
        lines.append(f"guarantee  ε = {epsilon}, δ = {facts['delta']:g}")
        if facts["warning"]:
            lines.append(facts["warning"])
    if facts["samples"]:
        lines.append(
            f"samples    {facts['samples']['accepted']} of {facts['samples']['samples']} accepted"
        )
    lines += [
        f"{task:<10} {model}: pass@1 {figures['pass@1']:.3f} of {figures['tasks']} tasks"
        for task, models in facts["evaluation"].items()
        for model, figures in models.items()
    ]
    for place, found in facts["one_run"].items():
        bounds = [b for b in (found["epsilon"], found["epsilon_same_shape"]) if b is not None]
        lines.append(f"audit      ε is at least {max(bounds):.3g}, by {place}")
    if facts["leaks"]:
        found = facts["leaks"]["places"]["anywhere"]
        lines.append(f"canaries   {found['leaked']} of {found['planted']} came out")
    return "\n".join(lines)


@app.command()
def run(config: RunOrConfig, out: Out = None, as_json: Json = False) -> None:
    """All stages; called again, it goes on where it was."""
    opened = _opened(config, out)
    opened.all()
    say(f"run: {opened.report()}; next: privcode release {opened.out}")
    _summary(opened, as_json)


def _stage(name: str, help: str) -> None:
    def command(run: RunOrConfig, out: Out = None, as_json: Json = False) -> None:
        opened = _opened(run, out)
        opened.do(name)
        _summary(opened, as_json)

    app.command(name=name, help=help)(command)


_stage("sanitize", "Stage 1: tune the junior on the private records with DP-SGD.")
_stage("synthesize", "Stage 2a: sample solutions of the public prompts from the DP junior.")
_stage("validate", "Stage 2b: keep samples that run and that say what the prompt asked.")
_stage("boost", "Stage 2c: tune the premium model on the accepted samples.")
_stage("evaluate", "pass@k of the untuned and the tuned model on the config's task files.")
_stage("audit", "Attack the tuned models: planted canaries, membership inference.")


@app.command()
def report(run: RunFolder, as_json: Json = False) -> None:
    """One page about a run: the guarantee, what survived, what the models reach, what leaked."""
    from privcode.pipeline.run import Run

    opened = Run.open(run)
    page = opened.report()
    answer({"report": str(page)}, as_json, f"report {page}")


@app.command()
def release(
    run: RunFolder,
    push_to_hub: Annotated[str | None, typer.Option(help="Also upload as this data set.")] = None,
    allow_reproducible_noise: Annotated[
        bool, typer.Option(help="Release although the noise can be drawn again from its seed.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Of the synthetic data, as the card names it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a run and bundle what may leave the building."""
    from privcode.files import read_sealed
    from privcode.pipeline.run import Run
    from privcode.release.bundle import FACTS
    from privcode.release.page import loud

    opened = Run.open(run)
    stated = opened.bundle / FACTS
    before = read_sealed(stated)["digest"] if stated.exists() else None
    facts = opened.release(allow_reproducible_noise=allow_reproducible_noise, license=license)
    if push_to_hub:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(push_to_hub, repo_type="dataset", private=True, exist_ok=True)
        # The hub adds a .gitattributes, which a recipient's verify would call foreign.
        api.upload_folder(
            repo_id=push_to_hub,
            repo_type="dataset",
            folder_path=str(opened.bundle),
            delete_patterns=".gitattributes",
        )
    text = (
        f"release {opened.bundle}: ε = {epsilon_text(facts['epsilon'])}, δ = {facts['delta']:g}\n"
    )
    if words := loud(facts):
        text += f"{words}\n"
    text += f"digest  {facts['digest']} (publish it by another way than the bundle)\n"
    if before not in (None, facts["digest"]):
        text += f"        in place of {before}: tell whoever has that one\n"
    text += f"next    privcode verify {opened.bundle}"
    answer({"release": str(opened.bundle)} | facts, as_json, text)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A run's directory, or a release bundle.")],
    digest: Annotated[
        str | None, typer.Option(help="The bundle's, as its maker published it elsewhere.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute ε and every hash of a run or a release bundle; fails on any byte changed."""
    from privcode.pipeline.directory import versions

    if (folder / "privacy.json").exists():
        from privcode.release.page import loud
        from privcode.release.verify import attested, verify_bundle

        facts = verify_bundle(folder)
        facts |= attested(folder, facts)
        words = loud(facts)
    else:
        from privcode.pipeline import results
        from privcode.pipeline.run import Run

        if not (folder / "config.yaml").exists():
            raise UserError(
                f"{folder}: is neither a release bundle (no privacy.json) nor a run; give one"
            )
        facts = results.verify(Run.open(folder, look=True))
        words = facts.get("warning")
    if digest and facts.get("digest") != digest.lower():
        raise UserError(
            f"{folder}: its digest is {facts.get('digest') or 'not there: it is no bundle'}, not "
            f"{digest}; this is not what its maker published: get the bundle again"
        )
    here = versions()
    other = {n: v for n, v in facts["versions"].items() if here.get(n) != v}
    facts |= {"verified_with": here}
    epsilon = "–" if facts["epsilon"] is None else epsilon_text(float(facts["epsilon"]))
    text = f"{folder}: unchanged; ε = {epsilon}, δ = {facts['delta']:g}, recomputed"
    if facts["noise"] == "reproducible":
        text += "; the noise was reproducible: this holds while nobody knows the seed"
    if words:
        text += f"\n{words}"
    for title, lines in (
        ("recomputed", facts.get("recomputed", [])),
        ("the maker's word, which nobody can recompute", facts.get("stated_by_the_maker", [])),
    ):
        text += "".join([f"\n{title}", *(f"\n  - {line}" for line in lines)]) if lines else ""
    if other:
        stated = ", ".join(f"{name} {made} (here {here.get(name)})" for name, made in other.items())
        text += f"\nmade with other versions than these: {stated}"
    if "digest" in facts and not digest:
        text += "\ndigest    " + facts["digest"]
        text += "\n          compare it with the one its maker published, or give --digest: who can"
        text += "\n          write the bundle can seal it again"
    answer(facts, as_json, text)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A YAML file; see its section compare.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The methods side by side: every arm a whole run, then a table, pictures and a page."""
    from privcode.config import load_config
    from privcode.experiments.compare import compare
    from privcode.experiments.page import text

    folder = check_folder(out or Path("runs") / f"{config.stem}-compare")
    loaded = load_config(config)
    facts = compare(loaded, folder)
    report = folder / "report.html"
    shown = f"""{text(facts, loaded.compare.published)}

report   {report}
figures  {folder / "results.json"}; in Markdown {folder / "table.md"}
next     privcode release {folder / "ARM"}, for an arm whose data or model may leave"""
    answer(facts | {"report": str(report)}, as_json, shown)


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="A YAML file; see its section sweep.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Try settings and keep the best run, charged as privacy.selection says."""
    from privcode.config import load_config
    from privcode.experiments.sweep import sweep

    folder = check_folder(out or Path("runs") / f"{config.stem}-sweep")
    facts = sweep(load_config(config), folder)
    settings = ", ".join(f"{field} {value}" for field, value in facts["settings"].items())
    text = f"{_summary_text(facts)}\nbest       {settings}: pass@1 {facts['score']:.3f}\n"
    answer(facts, as_json, f"{text}next       privcode release {facts['run']}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where its files go.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """The whole method on the bundled models and made-up records: offline, two cores, minutes."""
    from privcode.experiments.compare import compare
    from privcode.experiments.demo import prepare
    from privcode.experiments.page import text
    from privcode.pipeline.run import Run

    check_folder(out)
    say("demo: untuned, PrivCode and non-private tuning side by side; five to ten minutes")
    facts = compare(prepare(out), out)
    opened = Run.open(out / "privcode-eps4")
    opened.release()
    page = opened.bundle / "report.html"
    comparison = out / "report.html"
    shown = f"""{text(facts)}
house: held-out tasks for a made-up in-house library, which only the private records show.

report   {comparison}; of the release {page}
data     {opened.bundle / "data"}
next     privcode verify {opened.bundle}
yours    privcode init YOUR_DATA.jsonl --prompts PUBLIC_PROMPTS.jsonl -o privcode.yaml"""
    paths = {"comparison": comparison, "report": page, "release": opened.bundle}
    answer(facts | {name: str(path) for name, path in paths.items()}, as_json, shown)


def main() -> None:
    """Entry point: every error is one line, and the exit code 2 where the user can fix it."""
    open_streams()
    for name in ("COLUMNS", "TERMINAL_WIDTH"):  # typer and rich fail on other words
        if not os.environ.get(name, "80").isdecimal() or int(os.environ.get(name, "80")) < 20:
            del os.environ[name]
    before = signal.signal(signal.SIGTERM, _terminated)
    code = 0
    try:
        _refuse_lost_folder()
        code = app(standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if os.environ.get("PRIVCODE_DEBUG"):
            raise
        code, line = _ending(error)
        say(f"privcode: {line}")
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == 130:
        say("privcode: interrupted; run the same command again to go on")
    sys.exit(code)


def _refuse_lost_folder() -> None:
    """Refuse to start in a folder that was deleted: torch's libraries end the process there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError(
            "the current folder no longer exists; change to one that does (cd)"
        ) from None


def _ending(error: Exception) -> tuple[int, str]:
    """The exit code, and the line to print."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, OSError):  # full disk, missing rights: what was not met where it arose
        where = f"{error.filename}: " if error.filename else ""
        return 2, str(UserError(f"{where}{why(error)}; free space or correct the path"))
    if hasattr(error, "format_message"):  # typer's own, whose classes its versions have elsewhere
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "privcode"
        return 2, str(UserError(f"{error.format_message().rstrip('.')}; see {command} --help"))
    # Its message may quote private text; where it arose says enough to those who fix it.
    at = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(at.filename).name}, line {at.lineno}"
    return 1, f"failed unexpectedly ({type(error).__name__} in {place}); --debug shows more"


def _terminated(*_: object) -> NoReturn:
    """Told to stop: as an error, so that what is half-written is removed."""
    raise SystemExit(143)


if __name__ == "__main__":
    main()
