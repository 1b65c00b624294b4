"""What can happen to one unit of a data set: the changes that the replay test plays."""

import random
from collections.abc import Callable, Sequence

from privcode.exercises.corpus import private_records
from privcode.files import Row

Change = Callable[[list[Row], random.Random, str | None], None]


def _place(rows: Sequence[Row], rng: random.Random) -> int:
    return rng.randrange(len(rows))


def _add(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    new = dict(rng.choice(private_records(40, seed=2)))
    if owner:
        new[owner] = "somebody else"
        del new["language"]
    rows.insert(rng.randint(0, len(rows)), new)


def _remove(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    gone = rows[_place(rows, rng)]
    rows[:] = [r for r in rows if r is not gone and not (owner and r[owner] == gone[owner])]


def _lengthen(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    row, field = rows[_place(rows, rng)], rng.choice(("prompt", "code"))
    row[field] = f"{row[field]}\n" * rng.choice((3, 30, 300))


_BAD = (None, 7, "", " ", ["a"], {"a": 1}, "\ud800", "a\udfffb")


def _break(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    row = rows[_place(rows, rng)]
    field = rng.choice(["prompt", "code", owner or "language"])
    if rng.random() < 0.2:
        del row[field]
    else:
        row[field] = rng.choice(_BAD)


def _duplicate(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    rows[_place(rows, rng)] = dict(rows[_place(rows, rng)])


def _give_away(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    names = [row.get(owner or "author") for row in rows]
    rows[_place(rows, rng)][owner or "author"] = rng.choice(
        (rng.choice(names), "somebody else", [names[0], names[-1]], "[ann, bob]")
    )


def _move(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    row = rows.pop(_place(rows, rng))
    rows.insert(rng.randint(0, len(rows)), row)


def _translate(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    row = rows[_place(rows, rng)]
    row["code"] = "func f(x int) int { return x }"
    row["language"] = rng.choice(("cobol", "go", "Python", "\x1b[2J"))


def _add_fields(rows: list[Row], rng: random.Random, owner: str | None) -> None:
    odd = dict.fromkeys(("lang", "input", "team", "problem", "solution"), "python")
    at = _place(rows, rng)
    rows[at] = {**odd, **rows[at]}


CHANGES: dict[str, Change] = {
    "added": _add,
    "removed": _remove,
    "made long": _lengthen,
    "made broken": _break,
    "made a duplicate": _duplicate,
    "given another owner": _give_away,
    "moved": _move,
    "put into another language": _translate,
    "given more fields": _add_fields,
}
"""What can happen to one unit, by name. Each changes a list of rows in place, at random."""
