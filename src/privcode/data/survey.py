"""The look at a private data set behind `privcode init DATA` and `privcode plan CONFIG`.

Promises:
- It returns counts and column names only, never the text of a record.
- Every figure is exact or says that it comes from a sample.
- Most rows decide which columns there are, so one row more or less does not.

The figures are themselves private, because they were computed without the mechanism. Show them at
the owner's terminal and nowhere else.

Does not: find every secret or every near duplicate. It looks for cheap, common signs, so that the
owner knows what to ask before training.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from statistics import median_low
from typing import Literal

from tree_sitter import Node

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
from privcode.data.records import SEVERAL_OWNERS, owner
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
class Repeats:
    """What stands in more than one record. Every figure is private.

    `exact` and `near` count records whose code an earlier record also has. Exact means up to white
    space. Near means up to white space, literals and consistently renamed words. `widest_code` is
    the number of units that share the most common code, exact or near. `widest_secret` gives, by
    kind, the number of units whose prompt or code has the most common sign of a secret. The texts
    themselves are not kept.
    """

    exact: int
    near: int
    widest_code: int
    widest_secret: Mapping[str, int]


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
_TOKEN = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|[^\W\d]\w*|\d[\w.]*|[^\w\s]")


def _lengths(texts: Sequence[str]) -> Lengths:
    lengths = sorted(map(len, texts)) or [0]
    return Lengths(median_low(lengths), lengths[(len(lengths) - 1) * 9 // 10], lengths[-1])


def _digest(parts: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _renamed(code: str) -> list[str]:
    """The tokens of code, each word replaced by the order of its first use, each literal by 0."""
    order: dict[str, int] = {}
    return [
        f"w{order.setdefault(token, len(order))}"
        if token[0].isalpha() or token[0] == "_"
        else "0"
        if token[0] in "\"'" or token[0].isdigit()
        else token
        for token in _TOKEN.findall(code)
    ]


def repeats(records: Iterable[tuple[Hashable, str, str]]) -> Repeats:
    """Look for what several records share, given (unit, prompt, code) of each."""
    seen: set[bytes] = set()
    codes: defaultdict[bytes, set[Hashable]] = defaultdict(set)
    secrets: defaultdict[tuple[str, bytes], set[Hashable]] = defaultdict(set)
    exact = near = 0
    for unit, prompt, code in records:
        digest, renamed = _digest(code.split()), _digest(_renamed(code))
        if digest in seen:
            exact += 1
        elif renamed in codes:
            near += 1
        seen.add(digest)
        codes[renamed].add(unit)
        text = f"{prompt}\n{code}"
        for kind, start, end in signs(text):
            secrets[kind, _digest(text[start:end].casefold().split())].add(unit)
    widest: Counter[str] = Counter()
    for (kind, _), units in secrets.items():
        widest[kind] = max(widest[kind], len(units))
    return Repeats(exact, near, max(map(len, codes.values()), default=0), dict(widest))


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


def _unit_columns(
    rows: Sequence[Row], names: Sequence[str], unit: str | None
) -> tuple[UnitColumn, ...]:
    """The columns that may be the unit: those with the name of an owner, and the chosen one."""
    candidates = []
    for name in dict.fromkeys([*names, *filter(None, [unit])]):
        if name != unit and not _UNIT_WORDS.search(name.lower().replace("_", " ")):
            continue
        counts: Counter[str] = Counter()
        several = 0
        for row in rows:
            try:
                counts[owner(row, name)] += 1
            except BadField as bad:
                several += bad.reason == SEVERAL_OWNERS
        if 2 * (counts.total() + several) >= len(rows) or (name == unit and counts):
            most = max(counts.values(), default=0)
            candidates.append(UnitColumn(name, len(counts), most, several))
    return tuple(candidates)


def _with_text(rows: Sequence[Row], names: Sequence[str], *, blank: bool) -> list[str]:
    """The columns with text in at least half of the rows. With `blank`, blank text is enough."""

    def is_text(value: object) -> bool:
        if isinstance(value, str):
            return blank or bool(value.strip())
        return blank and value is None

    return [name for name in names if 2 * sum(is_text(row.get(name)) for row in rows) >= len(rows)]


def unused_columns(rows: Sequence[Row], columns: Columns | None = None) -> tuple[str, ...]:
    """The columns with text in at least half of the rows that are not read.

    Args:
        rows: all rows.
        columns: the columns that are read. Default: guessed from the names.
    """
    names = _columns(rows)
    chosen = columns or guess_columns(names, _with_text(rows, names, blank=True))
    named = [name for name in asdict(chosen).values() if name] if chosen else []
    used = {*named, *(name.partition(".")[0] for name in named)}
    return tuple(name for name in _with_text(rows, names, blank=False) if name not in used)


def alike(prompts: Sequence[str], unused: Sequence[str]) -> str:
    """What the owner should know if many prompts are the same. It is private."""
    same = len(prompts) - len(set(prompts))
    if not unused or 2 * same < len(prompts):
        return ""
    return (
        f"{same:,} of {len(prompts):,} prompts are the same as an earlier one, and columns with "
        f"text are not read ({', '.join(unused)}): if one belongs to the prompt, name it in the "
        "columns' input"
    )


def _refuse_absent(source: str, rows: Sequence[Row], names: Iterable[str]) -> None:
    """Refuse a column that somebody typed and no row has."""
    for name in names:
        try:
            for row in rows:
                with suppress(BadField):
                    value_of(row, name)
                    break
            else:
                value_of(rows[0], name)
        except BadField as bad:
            raise UserError(f"{source}: no row has the column {name}; {bad.mend}") from None


def _columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns that at least half of the rows have, sorted."""
    having = Counter(str(name) for row in rows for name in row)
    return tuple(sorted(name for name, count in having.items() if 2 * count >= len(rows)))


def look(
    source: str,
    columns: Columns | None = None,
    *,
    unit: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Look at a data set without training on it.

    Args:
        source: see `rows.read_rows`; all rows are held in memory.
        columns: its columns, if the guess from their names would be wrong.
        unit: the column that names each record's owner; without it each record is a unit.
        progress: called with numbers of rows as they are examined.

    Raises:
        UserError: the source cannot be read, no guess of its columns fits, no row has a column
            that was named, or no row is usable.
    """
    rows = [row for _, row in read_rows(source)]
    names = _columns(rows)
    if columns:
        _refuse_absent(source, rows, (columns.prompt, columns.code))
    _refuse_absent(source, rows, filter(None, [unit]))
    texts = _with_text(rows, names, blank=True)
    guess = with_guesses(columns, names, texts) if columns else guess_columns(names, texts)
    if guess is None:
        raise UserError(
            f"{source}: its {len(names)} columns have no usual pair of names for prompt and code; "
            "name them with --prompt-column and --code-column (a.b for a field b of a nested "
            "column a), or add a header where there is none"
        )
    if unit:
        guess = replace(guess, unit=unit)
    prompts: list[str] = []
    codes: list[str] = []
    units: list[str] = []
    languages: Counter[str] = Counter()
    unusable: Counter[str] = Counter()
    remedies: dict[str, str] = {}
    secrets: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        if progress:
            progress(1)
        try:
            prompt, code = prompt_text(row, guess), completion_text(row, guess)
            whose = owner(row, guess.unit) if guess.unit else f"row-{number}"
            named = text_field(row, guess.language) if guess.language else None
        except BadField as bad:
            unusable[f"{bad.field}: {bad.reason}"] += 1
            remedies[f"{bad.field}: {bad.reason}"] = bad.mend
            continue
        prompts.append(prompt)
        codes.append(code)
        units.append(whose)
        if named:
            languages[canonical_language(named) or named] += 1
        secrets.update({sign.kind for text in (prompt, code) for sign in signs(text)})
    if not prompts:
        most, _ = unusable.most_common(1)[0]
        raise UserError(f"{source}: no row is usable; {most}; {remedies[most]}")
    if not guess.language:
        step = max(-(-len(codes) // SAMPLE), 1)
        languages.update(guess_language(code) or "unknown" for code in codes[::step])
    return Findings(
        rows=len(rows),
        columns=names,
        guess=guess,
        unusable=dict(unusable),
        languages=dict(languages.most_common()),
        languages_from="column" if guess.language else "sample",
        prompt_chars=_lengths(prompts),
        code_chars=_lengths(codes),
        repeats=repeats(zip(units, prompts, codes, strict=True)),
        secrets=dict(secrets),
        unit_columns=_unit_columns(rows, names, guess.unit),
        unused=unused_columns(rows, guess),
        alike=alike(prompts, unused_columns(rows, guess)),
    )
