"""git, as far as reading needs it, on a repository that nobody vouches for.

Promises:
- No program that the repository names is run. No hook, file-system monitor, text conversion,
  filter, pager or remote helper is, whatever its config and attributes say. What could run one is
  not called, or is switched off by an option that wins over the config.
- Nothing is fetched. Objects that a partial clone lacks are an error.
- Nothing is written: no index is refreshed, no lock is taken.
- The person's own git settings change nothing, so that the same commit gives the same records.

Does not: trust paths. Who reads a file in the work tree looks at what it is.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privcode.errors import UserError
from privcode.plain import shown

_OPTIONS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.attributesFile": os.devnull,
    "core.pager": "cat",
    "log.showSignature": "false",
    "advice.graftFileDeprecated": "false",
    "mailmap.file": "",
    "mailmap.blob": "",
    "safe.directory": "*",
}
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",  # older versions of git do not know it
    "GIT_ALLOW_PROTOCOL": "none",  # wins over protocol.ext.allow in the repository's config
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "LC_ALL": "C",
}


@dataclass(frozen=True)
class Tracked:
    """A file of a commit: its path from the root, its mode, and the identifier of its content."""

    path: bytes
    mode: str
    identifier: str


def is_bare(folder: Path) -> bool:
    """Whether a folder is a repository without a work tree, or the inside of one."""
    return (
        (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()
    )


def git(root: Path, *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Run a reading command of git on the repository whose work tree is `root`.

    Raises:
        UserError: git is not installed.
    """
    program = shutil.which("git")
    if program is None:
        raise UserError(f"{shown(root)}: is a git repository, and git is missing; apt install git")
    settings = [word for name in _OPTIONS for word in ("-c", f"{name}={_OPTIONS[name]}")]
    places = [f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        [program, "--no-pager", "--literal-pathspecs", *places, *settings, *arguments],
        cwd=root,
        env=kept | _ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def head(root: Path) -> str:
    """The identifier of the checked-out commit.

    Raises:
        UserError: git cannot read the repository, or it has no commit.
    """
    done = git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if done.returncode == 0:
        return done.stdout.decode().strip()
    readable = git(root, "rev-parse", "--git-dir").returncode == 0
    if readable and git(root, "rev-parse", "--verify", "--quiet", "HEAD").returncode:
        raise UserError(f"{shown(root)}: is a git repository without a commit; commit first")
    raise UserError(
        f"{shown(root)}: is a git repository that git cannot read; see git fsck, or clone it anew"
    )


def is_shallow(root: Path) -> bool:
    """Whether the repository lacks older commits, so that blame names the wrong people."""
    return git(root, "rev-parse", "--is-shallow-repository").stdout.strip() != b"false"


def tracked(root: Path, commit: str) -> Iterator[Tracked]:
    """The files of a commit, in the order of their paths.

    Raises:
        UserError: git cannot read the commit.
    """
    done = git(root, "ls-tree", "-r", "-z", "--full-tree", commit)
    if done.returncode:
        raise UserError(f"{shown(root)}: git cannot list its files; see git fsck, or clone it anew")
    for entry in done.stdout.split(b"\0")[:-1]:
        facts, _, path = entry.partition(b"\t")
        mode, _, identifier = facts.decode().split()
        yield Tracked(path, mode, identifier)
