"""Who wrote the lines of a file, by `git blame`.

Promises:
- A person is an e-mail address in lower case, after the repository's .mailmap. So one person with
  several addresses is one unit if .mailmap says so.
- Moved lines and changes of white space keep their author (-M, -w).
- Ties are broken by the address, so the answer does not depend on any order.

Does not: know who is meant. Blame names the author of the commit that last changed a line. That
may be somebody who moved it between files, or a robot that formats code.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from privcode.data.collect.git import git

Lines = tuple[int, int]
"""The first and the last line of a range, from 1, both included."""


@dataclass(frozen=True)
class Written:
    """Who wrote a line, None if git does not say, and when it was committed (seconds)."""

    author: str | None
    time: int


def blame(
    root: Path, commit: str, path: bytes, ranges: Iterable[Lines]
) -> dict[int, Written] | None:
    """Who wrote the lines in `ranges` of a file of a commit. Blank lines are nobody's.

    None if git cannot tell.
    """
    wanted = [f"-L{first},{last}" for first, last in ranges]
    done = git(
        root, "blame", "-w", "-M", "--porcelain", "--no-textconv", "--encoding=UTF-8",
        "--no-ignore-revs-file",
        *wanted, commit, "--", path,
    )  # fmt: skip
    if done.returncode:
        return None
    facts: dict[bytes, dict[bytes, bytes]] = {}
    found: dict[int, Written] = {}
    commits: dict[bytes, Written] = {}
    name, number = b"", 0
    for line in done.stdout.split(b"\n"):
        if line.startswith(b"\t"):
            if name not in commits:
                commits[name] = _written(facts[name])
            if line.strip():
                found[number] = commits[name]
            name = b""
        elif not name and line:
            name, _, final, *_ = line.split(b" ")
            number = int(final)
            facts.setdefault(name, {})
        elif line:
            key, _, value = line.partition(b" ")
            facts[name].setdefault(key, value)
    return found


def _written(facts: Mapping[bytes, bytes]) -> Written:
    mail = facts.get(b"author-mail", b"").decode("utf-8", "replace").strip("<> ").lower()
    return Written(mail or None, int(facts.get(b"committer-time", b"0")))


def inside(found: Mapping[int, Written], ranges: Sequence[Lines]) -> list[Written]:
    """What `blame` found about the lines in `ranges`, each line once."""
    numbers = {n for first, last in ranges for n in range(first, last + 1)}
    return [found[number] for number in sorted(numbers) if number in found]


def author_of(lines: Sequence[Written], rule: Literal["most", "last"]) -> str | None:
    """The author of most lines, or of the newest one. None for no line, or if git names nobody."""
    if not lines:
        return None
    newest = max(line.time for line in lines)
    counted = lines if rule == "most" else [line for line in lines if line.time == newest]
    votes = Counter(line.author for line in counted)
    return min(votes, key=lambda author: (-votes[author], author or ""))


def date_of(lines: Sequence[Written]) -> str | None:
    """When the newest line was committed, in ISO 8601 (UTC). None if that is no date."""
    if not lines:
        return None
    try:
        return datetime.fromtimestamp(max(line.time for line in lines), UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None
