"""Repositories for the tests, made with git in a folder of the test."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ANN, BOB = "Ann <ann@example.org>", "Bob <Bob@Example.ORG>"


def git(root: Path, *arguments: str | bytes, **environment: str) -> str:
    """Run git as a person with no settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    fixed = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", *arguments],
        cwd=root,
        env=kept | fixed | environment,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


def commit(
    root: Path, files: Mapping[str, str | bytes | None], who: str = ANN, at: int = 1_000_000_000
) -> None:
    """Commit these contents as a person, at a time in seconds. None removes a file."""
    if not (root / ".git").exists():
        root.mkdir(parents=True, exist_ok=True)
        git(root, "init", "-q")
    for name, content in files.items():
        path = root / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    git(root, "add", "-A")
    record(root, who, at)


def record(root: Path, who: str = ANN, at: int = 1_000_000_000, *more: str) -> None:
    """Commit what is in the index."""
    name, _, mail = who.rstrip(">").partition(" <")
    people = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", name), ("EMAIL", mail), ("DATE", f"{at} +0000"))
    }
    git(root, "commit", "-q", "--allow-empty", "-m", "change", *more, **people)


def function(name: str, words: str = "Words about it.", lines: int = 3) -> str:
    """A documented Python function that is like no other of another name."""
    body = "".join(f"    {name}_{n} = {name}_{n + 1}({n}, {name!r})\n" for n in range(lines))
    return f'def {name}(x):\n    """{words}"""\n{body}    return {name}_0\n'
