"""What one user's runs over private data were planned to spend, wherever the runs lie or lay.

Promises:
- A run is noted here, on disk, before its ledger begins, with all the steps it may take. So a run
  that was moved still counts, and so does one that was deleted after somebody looked at its model.
  A crash in between counts one run too many, never one too few.
- The file is hash-chained like a ledger, and only its owner can read it.
- Next to it lie a secret, and sketches of the data that were read, made with that secret.

Does not:
- See runs of other users or machines.
- See the second spending of a run that was restored from a backup in the same place and resumed.
- Go into a release: it holds private facts (fingerprints, file names).
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from privcode.errors import UserError
from privcode.files import Row, private_folder, sync_folder, write_bytes
from privcode.privacy.accounting import Spent
from privcode.privacy.ledger import Ledger, read_ledger
from privcode.privacy.sketch import Sketch, from_bytes


def registry() -> Path:
    """The file: in $PRIVCODE_STATE, $XDG_STATE_HOME/privcode or ~/.local/state/privcode.

    Raises:
        UserError: none of these places is known.
    """
    if chosen := os.environ.get("PRIVCODE_STATE"):
        return Path(chosen) / "spent.jsonl"
    try:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise UserError(
            "PRIVCODE_STATE: is not set and there is no home directory; set it to a "
            "permanent directory, where privcode notes what is spent on private data"
        ) from None
    return Path(home) / "privcode" / "spent.jsonl"


_OURS = {"spent.jsonl", ".lock", "key", "sketches"}


@contextmanager
def _open() -> Iterator[Ledger]:
    path = registry()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if {entry.name for entry in path.parent.iterdir()} <= _OURS:
            private_folder(path.parent.resolve())  # not a folder with other uses, too
        lock = os.open(path.with_name(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
            sync_folder(path.parent)
            yield Ledger(path)
        finally:
            os.close(lock)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); privcode notes there what is spent "
            "on private data: set PRIVCODE_STATE to a permanent directory"
        ) from error


def check() -> None:
    """Refuse early what `register` would refuse.

    Raises:
        UserError: the file cannot be written, or was altered.
    """
    with _open():
        pass


def register(
    run: str,
    *,
    data: str,
    source: str,
    spent: Spent,
    ledger: Path | None,
    sweep: str | None = None,
    sketch: str | None = None,
) -> None:
    """Note, once for each place, that `run` may spend `spent`.

    Args:
        run: identity of the run's ledger.
        data: fingerprint of the private data.
        source: where the data lie; see `place`.
        spent: all that is planned.
        ledger: path of the run's ledger; None for a sweep as such.
        sweep: identity of the sweep, if the run is one of its trials.
        sketch: the name that `keep` gave to the sketch of the data.

    Raises:
        UserError: the file cannot be written, or was altered.
    """
    at = None if ledger is None else str(ledger.resolve())
    with _open() as known:
        if all((entry["run"], entry["ledger"]) != (run, at) for entry in known.entries):
            known.append(
                kind="run",
                run=run,
                data=data,
                source=source,
                spent=spent.facts(),
                ledger=at,
                sweep=sweep,
                sketch=sketch,
            )


def select(sweep: str, run: str) -> str:
    """The trial of `sweep` that may be released: `run`, unless another was noted before.

    Raises:
        UserError: the file cannot be written, or was altered.
    """
    with _open() as known:
        if (noted := _selected(known.entries, sweep)) is None:
            known.append(kind="selected", sweep=sweep, run=run)
    return noted or run


def selected(sweep: str) -> str | None:
    """The run that `select` noted, if it noted one.

    Raises:
        UserError: the file cannot be read, or was altered.
    """
    return _selected(_entries(), sweep)


def _selected(entries: list[Row], sweep: str) -> str | None:
    of = (e["run"] for e in entries if e["kind"] == "selected" and e["sweep"] == sweep)
    return next(of, None)


def registered() -> list[Row]:
    """What `register` noted.

    Raises:
        UserError: the file cannot be read, or was altered.
    """
    return [entry for entry in _entries() if entry["kind"] == "run"]


def _entries() -> list[Row]:
    """All entries.

    Raises:
        UserError: the file cannot be read, or was altered.
    """
    path = registry()
    try:
        return read_ledger(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); it says what was spent on private "
            "data: fix its permissions"
        ) from error


def secret() -> bytes:
    """The user's 32 random bytes that sketches are made with, drawn once.

    Raises:
        UserError: the file cannot be written or read, or holds something else.
    """
    path = registry().with_name("key")
    with _open():  # only one of several processes draws it
        if not os.path.lexists(path):
            write_bytes(path, secrets.token_bytes(32), mode=0o600)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        found = path.read_bytes()
    if len(found) != 32:
        raise UserError(
            f"{path}: is not the key of the sketches of private data; restore it from a backup, or "
            "remove it: then all runs known so far count, whatever they read"
        )
    return found


def keep(made: Sketch) -> str:
    """Put a sketch into the registry's folder, and return its name there.

    Raises:
        UserError: the sketch cannot be written.
    """
    data = made.to_bytes()
    name = hashlib.sha256(data).hexdigest()
    folder = registry().with_name("sketches")
    private_folder(folder)
    if _load(folder / name) is None:
        write_bytes(folder / name, data, mode=0o600)
        sync_folder(folder.parent)
    return name


def kept(name: str) -> Sketch | None:
    """The sketch that `keep` gave this name. None where it is gone or was altered."""
    return _load(registry().with_name("sketches") / name)


def _load(path: Path) -> Sketch | None:
    try:
        return _loaded(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=8)
def _loaded(path: Path, changed: int) -> Sketch:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != path.name:
        raise ValueError("altered")
    return from_bytes(data)


def place(source: str) -> str:
    """`source` in a form that is the same from everywhere: files absolute, links followed."""
    folder, _, split = source.partition(":")
    if Path(folder).is_dir():
        return f"{Path(folder).resolve()}:{split or 'train'}"
    return str(Path(source).resolve()) if Path(source).exists() else source
