"""`privcode collect`: from named folders to a file of records.

Promises:
- The same commits and folders give the same bytes, whatever the order of the names and the number
  of processes.
- The file appears whole or not at all, and only its owner may read it.
- One file of code is in memory at a time for each process, and in addition what `duplicates` keeps.

Does not: show anything. What is returned is private: it was computed from private code without the
mechanism.
"""

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import IO, Any

from privcode.data.collect import skipping, sources
from privcode.data.collect.authors import Lines, author_of, blame, date_of, inside
from privcode.data.collect.duplicates import Duplicates, digest, sketch
from privcode.data.collect.grammars import language_of_text
from privcode.data.collect.options import Options
from privcode.data.collect.pieces import Piece, pieces
from privcode.data.collect.sources import File, Source
from privcode.data.masking import detected, signs
from privcode.errors import UserError
from privcode.files import Row, jsonl_line, write_with
from privcode.machine import cores
from privcode.outputs import check_output, is_stdout

_ALONE = 64
"""Fewer files than this are read without other processes, which take a second to start."""
_AHEAD = 4
"""Files for each process that are read before they are needed."""
_ASSIGNED = ("private key", "secret assigned")
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class Collected:
    """What a collection did. Every figure is private.

    Attributes:
        files: how many files may hold code.
        records: how many were written.
        units: distinct values by column.
        languages: records by language.
        skipped: what was left out, by reason.
        duplicates: exact: left out. near: left out, or counted only.
        secrets: records with a sign of a secret, by kind, also of those left out for it.
        several_authors: records that quote lines of several people.
        no_author: records without an author.
    """

    files: int = 0
    records: int = 0
    units: dict[str, int] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    secrets: Counter[str] = field(default_factory=Counter)
    several_authors: int = 0
    no_author: int = 0


@dataclass(frozen=True)
class _Candidate:
    """A record of one file, before it is compared with those of other files."""

    row: Row
    identity: bytes
    sketch: Any
    several: bool


def collect(
    paths: Sequence[Path],
    out: Path,
    options: Options | None = None,
    *,
    workers: int | None = None,
    bar: Bar | None = None,
) -> Collected:
    """Write the records of git repositories and plain folders as JSON Lines.

    Args:
        paths: the folders.
        out: a file that does not exist, or "-" for standard output.
        options: see `Options`.
        workers: processes; default: one for each core.
        bar: makes a progress bar from a title and a total.

    Raises:
        UserError: a path or `out` cannot be used, no record is left, or the extra `collect` is not
            installed.
    """
    options = options or Options()
    _need_extra()
    target = check_output(out)
    if not is_stdout(out) and os.path.lexists(target):
        raise UserError(f"{out}: exists already; choose another -o")
    done = Collected()
    found = sources.find(paths)
    for source in found:
        if sources.tracks(source, target):
            raise UserError(f"{out}: is a file of the repository {source.name}; choose another -o")
        if not source.whole and options.unit == "author":
            raise UserError(
                f"{source.root}: is a shallow clone, whose older lines have no author; run git "
                "fetch --unshallow in it, or give --unit repository"
            )
    found = [sources.with_licence(source) for source in found]
    listed = [file for one in found for file in sources.files(one, options.exclude, done.skipped)]
    done.files = len(listed)

    def write(file: IO[bytes]) -> None:
        with (bar or _no_bar)("collect", len(listed)) as progress:
            for row in _rows(listed, options, done, workers, progress):
                file.write(jsonl_line(row).encode())
        if not done.records:
            raise UserError(
                f"{out}: would hold no record, because no definition is left; name other folders, "
                "or see --style, --author and --exclude"
            )

    write_with(out, write, mode=0o600)
    return done


def _no_bar(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda number: None)


def _need_extra() -> None:
    try:
        import datasketch  # noqa: F401
        import detect_secrets  # noqa: F401
    except ImportError:
        raise UserError(
            "collect looks for duplicates and secrets with packages that are not installed; "
            "pip install 'privcode[collect]'"
        ) from None


def _rows(
    files: Sequence[File],
    options: Options,
    done: Collected,
    workers: int | None,
    progress: Callable[[int], None],
) -> Iterator[Row]:
    """The rows in order, as the files are read. Counts what happens in `done`."""
    seen = Duplicates()
    values: dict[str, set[str]] = {"author": set(), "repository": set()}
    for candidates, skipped in _in_order(files, options, workers):
        progress(1)
        done.skipped.update(skipped)
        for one in candidates:
            row = one.row
            done.secrets.update(row["secrets"])
            if row["secrets"] and options.secrets == "drop":
                done.skipped["definition with a sign of a secret"] += 1
                continue
            repeated = seen.judge(row[options.unit], one.identity, one.sketch)
            done.duplicates.update([repeated] if repeated else [])
            if repeated == "exact" or (repeated and options.duplicates == "drop"):
                continue
            for column, names in values.items():
                names.update([row[column]] if row[column] else [])
            done.records += 1
            done.languages[row["language"]] += 1
            done.several_authors += one.several
            done.no_author += row["author"] is None
            yield row
    done.units = {column: len(names) for column, names in values.items()}


def _in_order(
    files: Sequence[File], options: Options, workers: int | None
) -> Iterator[tuple[list[_Candidate], Counter[str]]]:
    """What `_candidates` says about each file, in order, by several processes if it is worth it."""
    workers = workers or cores()
    work = partial(_candidates, options=options)
    if workers == 1 or len(files) < _ALONE:
        yield from map(work, files)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent)
    try:
        waiting: deque[Any] = deque()
        for file in files:
            waiting.append(pool.submit(work, file))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even if that was killed."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _candidates(file: File, options: Options) -> tuple[list[_Candidate], Counter[str]]:
    """The records of one file, and what was left out by reason. Depends on that file alone."""
    skipped: Counter[str] = Counter()
    text, unread = sources.read(file)
    language = language_of_text(file.name.rpartition("/")[2], text)
    reason = unread or skipping.by_text(text)
    if reason or not language:
        skipped[reason or skipping.ANOTHER] += 1
        return [], skipped
    found = list(pieces(text, language, options, skipped))
    history, signed = _history(file, found), _secrets(text, found)
    kept = []
    for piece in found:
        lines = inside(history, [piece.lines])
        authors = {line.author for line in inside(history, piece.quoted)}
        if options.author == "only" and len(authors) != 1:
            skipped["definition of several authors, or of none"] += 1
            continue
        rule = "most" if options.author == "only" else options.author
        row = {
            "prompt": piece.prompt,
            "completion": piece.completion,
            "repository": file.source.name,
            "path": file.name,
            "author": author_of(lines, rule),
            "language": language,
            "licence": file.source.licence,
            "date": date_of(lines),
            "secrets": sorted(
                {
                    kind
                    for start, end, kind in signed
                    if any(start <= last and first <= end for first, last in piece.quoted)
                }
            ),
        }
        kept.append(_Candidate(row, digest(piece.code), sketch(piece.code), len(authors) > 1))
    return kept, skipped


def _history(file: File, found: Sequence[Piece]) -> dict[int, Any]:
    """Who wrote each line that the pieces quote. Empty outside git."""
    source: Source = file.source
    if not found or source.commit is None or not source.whole:
        return {}
    ranges = _united(lines for piece in found for lines in piece.quoted)
    return blame(source.root, source.commit, file.path, ranges) or {}


def _secrets(text: str, found: Sequence[Piece]) -> list[tuple[int, int, str]]:
    """Where the lines that pieces quote have a sign of a secret: first line, last line and kind.

    Each line is looked at once, however many pieces quote it. Nothing is sent anywhere.
    """
    lines = text.split("\n")
    signed = []
    for first, last in _united(lines for piece in found for lines in piece.quoted):
        block = "\n".join(lines[first - 1 : last])
        assigned = (sign for sign in signs(block) if sign.kind in _ASSIGNED)
        for sign in (*detected(block), *assigned):
            start = first + block.count("\n", 0, sign.start)
            signed.append((start, start + block.count("\n", sign.start, sign.end), sign.kind))
    return signed


def _united(ranges: Iterable[Lines]) -> list[Lines]:
    """The lines in `ranges` as ranges that neither overlap nor touch, sorted."""
    united: list[Lines] = []
    for first, last in sorted(ranges):
        if united and first <= united[-1][1] + 1:
            united[-1] = (united[-1][0], max(last, united[-1][1]))
        else:
            united.append((first, last))
    return united
