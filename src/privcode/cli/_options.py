"""The options that several commands have, and what they open."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privcode.outputs import check_folder

if TYPE_CHECKING:
    from privcode.pipeline.run import Run

Workers = Annotated[int | None, typer.Option(help="At a time; default: all cores.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
RunOrConfig = Annotated[Path, typer.Argument(help="The run's YAML file, or its directory.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's directory.")]
Out = Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME.")]


def opened_run(where: Path, out: Path | None) -> "Run":
    """The run of a config, or in a directory.

    Raises:
        UserError: there is none, or it has other settings.
    """
    from privcode.config import load_config
    from privcode.pipeline.run import Run

    if where.is_dir():
        return Run.open(where)
    return Run(load_config(where), check_folder(out or Path("runs") / where.stem))
