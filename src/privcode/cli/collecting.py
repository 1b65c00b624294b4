"""From code to records: collect."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from privcode.cli._options import Json, Workers
from privcode.console import answer, progress_bar, say_private
from privcode.outputs import is_stdout

if TYPE_CHECKING:
    from privcode.data.collect import Collected


def collect(
    paths: Annotated[list[Path], typer.Argument(help="Git repositories and plain folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The records to write (JSON Lines).")],
    style: Annotated[
        Literal["describe", "fim"],
        typer.Option(
            help="describe: a request in words, and the definition; fim: a window of a file, and "
            "the code in its gap."
        ),
    ] = "describe",
    unit: Annotated[
        Literal["author", "repository"],
        typer.Option(help="The unit of privacy, across which duplicates are found."),
    ] = "author",
    author: Annotated[
        Literal["most", "last", "only"],
        typer.Option(
            help="Of most lines, of the newest line, or only of definitions that one person wrote."
        ),
    ] = "most",
    duplicates: Annotated[
        Literal["drop", "count"], typer.Option(help="Near copies of another unit's code.")
    ] = "drop",
    secrets: Annotated[
        Literal["flag", "drop"],
        typer.Option(help="Records with a sign of a secret: flagged in a column, or out."),
    ] = "flag",
    context: Annotated[
        int,
        typer.Option(
            help="fim: most characters before the gap, in it, and behind it.", min=50, max=10**6
        ),
    ] = 2000,
    longest: Annotated[
        int,
        typer.Option(
            help="describe: most characters of prompt and completion.", min=100, max=10**6
        ),
    ] = 8000,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of paths from the root, like 'tests/*'; may be repeated."),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Make records with owners from code as it lies in repositories. What is written is private.

    The summary is shown at a terminal only, because its figures are private, too.
    """
    from privcode.data.collect import Options
    from privcode.data.collect import collect as collected

    options = Options(
        style=style,
        unit=unit,
        author=author,
        duplicates=duplicates,
        secrets=secrets,
        context=context,
        longest=longest,
        exclude=tuple(exclude or ()),
    )
    done = collected(paths, out, options, workers=workers, bar=_bar)
    prompts = " --prompts PROMPTS" if style == "fim" else ""  # public code with gaps, like this
    then = f"privcode init {shlex.quote(str(out))}{prompts} --unit {unit}"
    say_private(lambda: summary(done, unit, duplicates))
    answer(
        {"out": str(out), "next": then},
        as_json,
        f"records {out}\nnext    {then}",
        aside=is_stdout(out),
    )


def _bar(title: str, total: int) -> Any:
    return progress_bar(title, total, counted=False)


def summary(done: "Collected", unit: str, duplicates: str) -> str:
    """The figures of a collection, for its owner's terminal."""
    from privcode.config.proposal import KEEP

    def counts(values: dict[str, int]) -> str:
        ordered = sorted(values.items(), key=lambda entry: (-entry[1], entry[0]))
        return ", ".join(f"{name} {count:,}" for name, count in ordered) or "none"

    near = done.duplicates["near"]
    lines = [
        f"files       {done.files:,} with code",
        f"records     {done.records:,}",
        f"units       {counts(done.units)}",
        f"languages   {counts(done.languages)}",
        f"left out    {counts(done.skipped)}",
        f"duplicates  {done.duplicates['exact']:,} in one unit, left out; {near:,} near across "
        f"units, {'left out' if duplicates == 'drop' else 'kept'}",
        f"secrets     {counts(done.secrets)}",
    ]
    if done.no_author:
        lines.append(
            f"! {done.no_author:,} records have no author; with --unit author they are bad rows"
        )
    if unit == "author" and done.several_authors:
        lines.append(
            f"! {done.several_authors:,} records quote lines of several people, and protect only "
            "the one in the column author; --author only leaves them out"
        )
    if near and duplicates == "count":
        lines.append("! what several units hold is not protected by a guarantee for one unit")
    return "\n".join([*lines, KEEP])
