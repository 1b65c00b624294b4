"""The look at a private data set behind `privcode init DATA` and `privcode plan CONFIG`.

Promises:
- It returns counts and column names only, never the text of a record.
- Every figure is exact or says that it comes from a sample. Texts are compared by their hashes.
- Memory holds no row, only a few numbers for each.
- Most rows decide which columns there are, so one row more or less does not.

The figures are themselves private, because they were computed without the mechanism. Show them at
the owner's terminal and nowhere else.

Does not: find every secret or every near duplicate. It looks for cheap, common signs, so that the
owner knows what to ask before training.
"""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from tree_sitter import Node

from privcode.console import progress_bar
from privcode.data.columns import (
    BadField,
    Columns,
    completion_text,
    guess_columns,
    prompt_text,
    text_field,
    value_of,
    with_guesses,
)
from privcode.data.masking import signs
from privcode.data.reading import SEVERAL_OWNERS, owner
from privcode.data.repeats import Repeated, Repeats, distinct_of
from privcode.data.rows import read_rows
from privcode.errors import UserError
from privcode.files import Row
from privcode.languages import canonical_language, languages
from privcode.syntax.spans import code_blocks, parse

SAMPLE = 200
"""Rows parsed to guess the language where no column names it."""


@dataclass(frozen=True)
class Lengths:
    """Lengths in characters."""

    median: int
    p90: int
    max: int


@dataclass(frozen=True)
class UnitColumn:
    """A column that names an owner in at least half of the rows, and so could be the unit.

    `distinct` counts the owners, `max_rows` the rows of the most frequent one.
    `several` counts rows with several owners. They belong to no unit and are counted nowhere else.
    """

    name: str
    distinct: int
    max_rows: int
    several: int = 0


@dataclass(frozen=True)
class Findings:
    """What `look` saw. Every figure is private.

    `columns` are the columns that at least half of the rows have, sorted. `unusable` counts rows
    by "FIELD: REASON". `languages` counts usable rows: all of them where `languages_from` is
    "column", a sample of at most `SAMPLE` where it is "sample". "unknown" is what no parser read.
    `repeats` is about usable rows, by the unit in `guess`. `secrets` counts rows with at least one
    sign of each kind in what is trained on. `unused` are the columns with text in at least half of
    the rows that `guess` does not name. `alike` says in words if many prompts are the same.
    """

    rows: int
    columns: tuple[str, ...]
    guess: Columns
    unusable: Mapping[str, int]
    languages: Mapping[str, int]
    languages_from: Literal["column", "sample"]
    prompt_chars: Lengths
    code_chars: Lengths
    repeats: Repeats
    secrets: Mapping[str, int]
    unit_columns: tuple[UnitColumn, ...]
    unused: tuple[str, ...] = ()
    alike: str = ""

    @property
    def usable(self) -> int:
        """Rows that can be used."""
        return self.rows - sum(self.unusable.values())


_UNIT_WORDS = re.compile(
    r"(?<![a-z])(author|user|username|owner|repo|repositor(y|ie)|project|e-?mail|committer|developer"
    r"|contributor|organi[sz]ation|org|team|customer|client|tenant)s?(?![a-z])"
)


def _lengths(lengths: Sequence[int]) -> Lengths:
    found = np.sort(lengths)
    low, most = (int(found[(len(found) - 1) * tenths // 10]) for tenths in (5, 9))
    return Lengths(low, most, int(found[-1]))


def _errors(root: Node) -> int:
    """Characters that a grammar could not read, and one for each token that it had to invent."""
    count, pending = 0, [root]
    while pending:
        node = pending.pop()
        if node.is_error:
            count += node.end_byte - node.start_byte
        elif node.is_missing:
            count += 1
        elif node.has_error:
            pending.extend(node.children)
    return count


def guess_language(completion: str) -> str | None:
    """The language of a completion: what a fence names, otherwise the grammar that reads most.

    A fence of bash often holds how to install or run the code, so any other language comes first.

    Ties go to the earlier of `languages`, so a short C# method may be called Java. Bash comes last,
    because it reads nearly anything as commands. None if every grammar fails on more than a fifth
    of the characters.
    """
    blocks = code_blocks(completion, None)
    if named := [name for _, _, name in blocks if name]:
        return next((name for name in named if name != "bash"), named[0])
    start, end, _ = blocks[0]
    code = completion[start:end]
    order = sorted(languages(), key=lambda language: language == "bash")
    errors = {language: _errors(parse(code, language).root_node) for language in order}
    best = min(order, key=errors.__getitem__)
    return best if errors[best] * 5 <= len(code.encode("utf-8", "surrogatepass")) else None


class _Owners:
    """Whom a column names, row by row."""

    def __init__(self, column: str) -> None:
        self._column, self._names, self._several = column, array("q"), 0

    def add(self, row: Row) -> None:
        """One more row."""
        try:
            self._names.append(hash(owner(row, self._column)))
        except BadField as bad:
            self._several += bad.reason == SEVERAL_OWNERS

    def counted(self, rows: int, chosen: bool) -> UnitColumn | None:
        """The column, if it may be the unit of so many rows, or is `chosen` and names somebody."""
        _, counts = np.unique(np.asarray(self._names), return_counts=True)
        if 2 * (len(self._names) + self._several) >= rows or (chosen and self._names):
            most = int(counts.max(initial=0))
            return UnitColumn(self._column, len(counts), most, self._several)
        return None


class _Seen:
    """Which columns rows have, and which of them hold text."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = 0
        self._having: Counter[str] = Counter()
        self._text: Counter[str] = Counter()
        self._other: Counter[str] = Counter()  # neither text nor nothing
        for row in rows:
            self.rows += 1
            for name, value in row.items():
                self._having[str(name)] += 1
                if isinstance(value, str):
                    self._text[str(name)] += bool(value.strip())
                elif value is not None:
                    self._other[str(name)] += 1

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that at least half of the rows have, sorted."""
        return tuple(sorted(n for n, count in self._having.items() if 2 * count >= self.rows))

    def with_text(self, *, blank: bool) -> list[str]:
        """The columns with text in at least half of the rows. With `blank`, no text is enough."""
        counts = {
            name: self.rows - self._other[name] if blank else self._text[name]
            for name in self.columns
        }
        return [name for name, count in counts.items() if 2 * count >= self.rows]

    def unused(self, columns: Columns | None) -> tuple[str, ...]:
        """See `unused_columns`."""
        chosen = columns or guess_columns(self.columns, self.with_text(blank=True))
        named = [name for name in asdict(chosen).values() if name] if chosen else []
        used = {*named, *(name.partition(".")[0] for name in named)}
        return tuple(name for name in self.with_text(blank=False) if name not in used)


def unused_columns(rows: Iterable[Row], columns: Columns | None = None) -> tuple[str, ...]:
    """The columns with text in at least half of the rows that are not read.

    Args:
        rows: all rows.
        columns: the columns that are read. Default: guessed from the names.
    """
    return _Seen(rows).unused(columns)


def alike(prompts: Iterable[str], unused: Sequence[str]) -> str:
    """What the owner should know if many prompts are the same. It is private."""
    return _alike(array("q", map(hash, prompts)), unused)


def _alike(hashes: Sequence[int], unused: Sequence[str]) -> str:
    same = len(hashes) - distinct_of(hashes)
    if not unused or 2 * same < len(hashes):
        return ""
    return (
        f"{same:,} of {len(hashes):,} prompts are the same as an earlier one, and columns with "
        f"text are not read ({', '.join(unused)}): if one belongs to the prompt, name it in the "
        "columns' input"
    )


def _refuse_absent(source: str, names: Iterable[str]) -> None:
    """Refuse a column that somebody typed and no row has."""
    for name in names:
        missing: BadField | None = None
        for _, row in read_rows(source):
            try:
                value_of(row, name)
                break
            except BadField as bad:
                missing = missing or bad
        else:
            assert missing  # a source holds a row
            raise UserError(f"{source}: no row has the column {name}; {missing.mend}") from None


def _with_a_bar(source: str, number: int) -> Iterator[Row]:
    with progress_bar("look", number, counted=False) as progress:
        for _, row in read_rows(source):
            yield row
            progress(1)


class _Sample:
    """Every so many of the texts that are added, at most `SAMPLE`."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._step, self._number = 1, 0

    def add(self, text: str) -> None:
        """One more text."""
        if self._number % self._step == 0:
            self.texts.append(text)
        self._number += 1
        if len(self.texts) > SAMPLE:
            self.texts, self._step = self.texts[::2], 2 * self._step


def look(
    source: str,
    columns: Columns | None = None,
    *,
    unit: str | None = None,
) -> Findings:
    """Look at a data set without training on it. Its rows are read twice.

    Args:
        source: see `rows.read_rows`.
        columns: its columns, if the guess from their names would be wrong.
        unit: the column that names each record's owner; without it each record is a unit.

    Raises:
        UserError: the source cannot be read, no guess of its columns fits, no row has a column
            that was named, or no row is usable.
    """
    seen = _Seen(row for _, row in read_rows(source))
    names = seen.columns
    typed = [columns.prompt, columns.code] if columns else []
    _refuse_absent(source, [*typed, *filter(None, [unit])])
    texts = seen.with_text(blank=True)
    guess = with_guesses(columns, names, texts) if columns else guess_columns(names, texts)
    if guess is None:
        raise UserError(
            f"{source}: its {len(names)} columns have no usual pair of names for prompt and code; "
            "name them with --prompt-column and --code-column (a.b for a field b of a nested "
            "column a), or add a header where there is none"
        )
    if unit:
        guess = replace(guess, unit=unit)
    owners = {
        name: _Owners(name)
        for name in dict.fromkeys([*names, *filter(None, [guess.unit])])
        if name == guess.unit or _UNIT_WORDS.search(name.lower().replace("_", " "))
    }
    prompts, prompt_chars, code_chars = array("q"), array("q"), array("q")
    shared, sample = Repeated(), _Sample()
    languages: Counter[str] = Counter()
    unusable: Counter[str] = Counter()
    remedies: dict[str, str] = {}
    secrets: Counter[str] = Counter()
    for number, row in enumerate(_with_a_bar(source, seen.rows), start=1):
        for column in owners.values():
            column.add(row)
        try:
            prompt, code = prompt_text(row, guess), completion_text(row, guess)
            whose = owner(row, guess.unit) if guess.unit else f"row-{number}"
            named = text_field(row, guess.language) if guess.language else None
        except BadField as bad:
            unusable[f"{bad.field}: {bad.reason}"] += 1
            remedies[f"{bad.field}: {bad.reason}"] = bad.mend
            continue
        prompts.append(hash(prompt))
        prompt_chars.append(len(prompt))
        code_chars.append(len(code))
        shared.add(whose, prompt, code)
        sample.add(code)
        if named:
            languages[canonical_language(named) or named] += 1
        secrets.update({sign.kind for text in (prompt, code) for sign in signs(text)})
    if not prompts:
        most, _ = unusable.most_common(1)[0]
        raise UserError(f"{source}: no row is usable; {most}; {remedies[most]}")
    if not guess.language:
        languages.update(guess_language(code) or "unknown" for code in sample.texts)
    unused = seen.unused(guess)
    counted = [c.counted(seen.rows, name == guess.unit) for name, c in owners.items()]
    return Findings(
        rows=seen.rows,
        columns=names,
        guess=guess,
        unusable=dict(unusable),
        languages=dict(languages.most_common()),
        languages_from="column" if guess.language else "sample",
        prompt_chars=_lengths(prompt_chars),
        code_chars=_lengths(code_chars),
        repeats=shared.counted(),
        secrets=dict(secrets),
        unit_columns=tuple(column for column in counted if column),
        unused=unused,
        alike=_alike(prompts, unused),
    )
