"""Where code lies: git repositories and plain folders, and the files in them.

Promises:
- Of a repository, only files of the checked-out commit are read, and only if the work tree holds
  them unchanged. What was deleted or edited since is left out and counted: a line that is not
  committed has no author.
- No symbolic link below a named folder is followed. Devices, pipes and sockets are not opened.
- A repository inside a plain folder is read as a repository. One inside another repository (a
  submodule, or untracked) is not read.
- The order is fixed: repositories by name, files by path.

Does not: read two names for the same folder, or a folder and one inside it.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from privcode.data.collect import git, licences, skipping
from privcode.data.collect.grammars import language_of_name
from privcode.errors import UserError, why
from privcode.plain import read_plain, shown


@dataclass(frozen=True)
class Source:
    """A repository or a plain folder.

    Attributes:
        root: its folder.
        name: what the column `repository` calls it.
        commit: the checked-out commit, or None for a plain folder.
        under: for a part of a repository, the path of the part with a slash behind it.
        licence: see `licences.licence_of`.
        whole: whether git knows all older commits. Otherwise it names wrong authors.
    """

    root: Path
    name: str
    commit: str | None = None
    under: bytes = b""
    licence: str = licences.UNKNOWN
    whole: bool = True

    def place(self, path: bytes) -> Path:
        """Where the file with this path from the root lies."""
        return Path(os.fsdecode(os.path.join(os.fsencode(self.root), path)))


@dataclass(frozen=True)
class File:
    """A file that may hold code: its path from the root, and git's identifier of its content."""

    source: Source
    path: bytes
    identifier: str | None = None

    @property
    def name(self) -> str:
        """The path in printable form."""
        return shown(Path(os.fsdecode(self.path)))


def find(paths: Sequence[Path]) -> list[Source]:
    """The repositories and folders that are named, and the repositories inside the folders.

    Raises:
        UserError: a path is no folder, a bare, broken or empty repository, or inside another.
    """
    roots: list[Path] = []
    for path in paths:
        roots.append(_folder(path))
    for one in roots:
        for other in roots:
            if one is not other and one.is_relative_to(other):
                raise UserError(f"{shown(one)}: lies in {shown(other)}; name only one of the two")
    found = [source for root in roots for source in _sources(root)]
    return sorted(_distinct(found), key=lambda source: (source.name, source.root))


def _folder(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
        mode = root.stat().st_mode
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(path)}: cannot be read ({why(error)}); name a folder") from None
    if not stat.S_ISDIR(mode):
        raise UserError(f"{shown(path)}: is not a folder; name a git repository or a folder")
    if git.is_bare(root):
        raise UserError(
            f"{shown(path)}: is a repository without a work tree; clone it and name the clone"
        )
    return root


def _sources(root: Path) -> Iterator[Source]:
    """The repository that `root` is (a part of), or the folder and the repositories in it."""
    top = next((at for at in (root, *root.parents) if os.path.lexists(at / ".git")), None)
    if top == root:
        yield _repository(root)
        return
    if top is not None:
        under = os.fsencode(root.relative_to(top)) + b"/"
        part = replace(_repository(top), under=under)
        if any(True for _ in _tracked(part)):
            yield part
            return
    yield Source(root, root.name or "/")
    for folder, entries in _walk(root, Counter()):
        if any(entry.name == b".git" for entry in entries):
            yield _repository(Path(os.fsdecode(folder)))


def _repository(root: Path) -> Source:
    return Source(root, root.name or "/", git.head(root), whole=not git.is_shallow(root))


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """The sources with longer names where two have the same: with their parents in front."""
    names = [source.name for source in sources]
    for depth in range(2, 64):
        twins = {name for name, times in Counter(names).items() if times > 1}
        if not twins:
            break
        names = [
            "/".join(source.root.parts[-depth:]).lstrip("/") if name in twins else name
            for name, source in zip(names, sources, strict=True)
        ]
    return [
        replace(source, name=shown(Path(name))) for name, source in zip(names, sources, strict=True)
    ]


def files(source: Source, exclude: tuple[str, ...], skipped: Counter[str]) -> Iterator[File]:
    """The files of a source that may hold code, sorted by path. The others are counted.

    Raises:
        UserError: a folder or the commit cannot be read.
    """
    listed = _listed(source, skipped) if source.commit else _found(source, skipped)
    for file in sorted(listed, key=lambda file: file.path):
        reason = skipping.by_name(file.name, exclude)
        other = language_of_name(file.name.rpartition("/")[2]) is None
        if other and reason != skipping.LOCK:
            reason = skipping.ANOTHER
        if reason:
            skipped[reason] += 1
        else:
            yield file


def tracks(source: Source, path: Path) -> bool:
    """Whether `path` is a file of the source's commit."""
    if source.commit is None or not path.is_relative_to(source.root):
        return False
    name = os.fsencode(path.relative_to(source.root))
    return any(entry.path == name for entry in _tracked(replace(source, under=b"")))


def with_licence(source: Source) -> Source:
    """`source` with the licence that the file at its root names."""
    if source.commit:
        names = [entry.path for entry in _tracked(replace(source, under=b""))]
    else:
        names = os.listdir(os.fsencode(source.root))
    for path in sorted(names):
        name = shown(Path(os.fsdecode(path)))
        if b"/" not in path and licences.is_licence(name):
            content = _content(source.place(path))
            if content is not None:
                text = content.decode("utf-8", "replace")
                return replace(source, licence=licences.licence_of(name, text))
    return source


def read(file: File) -> tuple[str, str]:
    """The text of a file, with line feeds, or "" and why it is left out."""
    path = file.source.place(file.path)
    content = _content(path)
    if content is None:
        if os.path.lexists(path) and os.lstat(path).st_size > skipping.LARGEST:
            return "", "file over 1 MB"
        return "", "file that is not there, or may not be read"
    if file.identifier and not _is(content, file.identifier):
        content = content.replace(b"\r\n", b"\n")
        if not _is(content, file.identifier):
            return "", "file changed since the commit"
    if b"\0" in content:
        return "", "file that is not text"
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n"), ""
    except UnicodeDecodeError:
        return "", "file that is not UTF-8"


def _is(content: bytes, identifier: str) -> bool:
    """Whether git's identifier is that of `content`."""
    kind = hashlib.sha256 if len(identifier) == 64 else hashlib.sha1
    made = kind(b"blob %d\0" % len(content), usedforsecurity=False)
    made.update(content)
    return made.hexdigest() == identifier


def _content(path: Path) -> bytes | None:
    """The bytes of a plain file of at most `LARGEST`. None if there is none."""
    try:
        return read_plain(path, skipping.LARGEST)
    except UserError:
        return None


def _tracked(source: Source) -> Iterator[git.Tracked]:
    assert source.commit
    for entry in git.tracked(source.root, source.commit):
        if entry.path.startswith(source.under):
            yield entry


def _listed(source: Source, skipped: Counter[str]) -> Iterator[File]:
    for entry in _tracked(source):
        if entry.mode == "160000":
            skipped["submodule"] += 1
        elif entry.mode == "120000":
            skipped["symbolic link"] += 1
        else:
            yield File(source, entry.path, entry.identifier)


def _found(source: Source, skipped: Counter[str]) -> Iterator[File]:
    root = os.fsencode(source.root)
    for _, entries in _walk(source.root, skipped):
        if any(entry.name == b".git" for entry in entries):
            continue
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield File(source, os.path.relpath(entry.path, root))
            elif entry.is_symlink():
                skipped["symbolic link"] += 1


def _walk(root: Path, skipped: Counter[str]) -> Iterator[tuple[bytes, list[os.DirEntry[bytes]]]]:
    """The folders below `root` and their entries. Hidden folders, and what is in a repository
    below, are not entered."""
    pending = [os.fsencode(root)]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as inside:
                entries = sorted(inside, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{shown(Path(os.fsdecode(folder)))}: cannot be read ({why(error)}); make it "
                "readable, or name other folders"
            ) from None
        yield folder, entries
        if any(entry.name == b".git" for entry in entries):
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name.startswith(b"."):
                    skipped["hidden folder"] += 1
                else:
                    pending.append(entry.path)
