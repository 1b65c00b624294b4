"""The commands together, and how every one of them ends.

Promises: exit code 0 only on success; bad input is one line on stderr and exit code 2; a
traceback only with --debug. With --json a command prints one JSON document on stdout and
everything else on stderr.
Does not: decide anything; each command calls one function.
"""

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from privcode import launcher
from privcode.cli import checks, collecting, experiments, planning, programs, runs
from privcode.console import answer, open_streams, say
from privcode.errors import UserError, why

_LOST = (
    "another process of this run ended, or its launcher was stopped; what was spent is in the "
    "ledger; start the same command again to go on"
)

app = typer.Typer(
    help="Private code in, a synthetic data set and a tuned model out, under (ε, δ)-DP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        import privcode

        answer({}, False, f"privcode {privcode.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    if launcher.launched() > 1 and context.invoked_subcommand not in ("sanitize", "boost"):
        from privcode.distributed import alone

        alone(f"privcode {context.invoked_subcommand}")
    if debug:
        os.environ["PRIVCODE_DEBUG"] = "1"
        return
    # Libraries talk about their own affairs, some of it in the middle of a progress bar.
    warnings.simplefilter("ignore")
    for name in ("absl", "accelerate", "bitsandbytes", "transformers", "peft", "trl", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


_FIRST: tuple[Callable[..., None], ...] = (
    planning.account,
    planning.plan,
    collecting.collect,
    planning.init,
    checks.doctor,
    programs.execute,
    programs.score,
    runs.run,
)
_LAST: tuple[Callable[..., None], ...] = (
    runs.report,
    runs.release,
    checks.verify,
    experiments.compare,
    experiments.sweep,
    experiments.demo,
)
for _command in _FIRST:
    app.command()(_command)
for _name, _help in runs.STAGES.items():
    app.command(name=_name, help=_help)(runs.stage(_name))
for _command in _LAST:
    app.command()(_command)


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
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher must not cut the last line off
        code, line = _ending(error)
        _tell(f"privcode: {line}")
    except SystemExit as stop:  # told to stop, by a launcher if another of its processes ended
        if _several() and stop.code:
            _tell(f"privcode: {_LOST}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == 130:
        say("privcode: interrupted; run the same command again to go on")
    sys.exit(code)


def _several() -> bool:
    """Whether a launcher started several processes, as far as its environment can be read."""
    try:
        return launcher.launched() > 1
    except UserError:
        return False


def _tell(line: str) -> None:
    """Print the line that a run ends with. Of several processes, the first that gets here does."""
    if not _several():
        return say(line)
    from privcode.distributed import first_to_tell

    if first_to_tell():
        say(line, from_any=True)


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
        return error.exit_code, str(error)
    if isinstance(error, OSError):  # full disk, missing rights: what was not met where it arose
        where = f"{error.filename}: " if error.filename else ""
        return 2, str(UserError(f"{where}{why(error)}; free space or correct the path"))
    if hasattr(error, "format_message"):  # typer's own, whose classes its versions have elsewhere
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "privcode"
        return 2, str(UserError(f"{error.format_message().rstrip('.')}; see {command} --help"))
    if _several():
        from privcode.distributed import is_lost

        if is_lost(error):
            return 1, _LOST
    # Its message may quote private text; where it arose says enough to those who fix it.
    at = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(at.filename).name}, line {at.lineno}"
    return 1, f"failed unexpectedly ({type(error).__name__} in {place}); --debug shows more"


def _terminated(*_: object) -> NoReturn:
    """Told to stop: as an error, so that what is half-written is removed. Once is enough."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)
