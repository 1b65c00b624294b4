"""Many runs: compare, sweep, demo."""

from pathlib import Path
from typing import Annotated

import typer

from privcode.cli._options import Json, Out
from privcode.cli.runs import summary_text
from privcode.console import answer, say
from privcode.outputs import check_folder


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
    text = f"{summary_text(facts)}\nbest       {settings}: pass@1 {facts['score']:.3f}\n"
    answer(facts, as_json, f"{text}next       privcode release {facts['run']}")


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
    with Run.open(out / "privcode-eps4") as opened:
        opened.release()
    page = opened.bundle / "report.html"
    comparison = out / "report.html"
    shown = f"""{text(facts)}
house: held-out tasks for a made-up in-house library, which only the private records show.

report   {comparison}; of the release {page}
data     {opened.bundle / "data"}
next     privcode verify {opened.bundle}
yours    privcode init YOUR_DATA.jsonl -o privcode.yaml"""
    paths = {"comparison": comparison, "report": page, "release": opened.bundle}
    answer(facts | {name: str(path) for name, path in paths.items()}, as_json, shown)
