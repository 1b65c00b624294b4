"""What an arm synthesised: how varied it is, how far from real prompts, what it copies.

Promises:
- What is returned is computed from the run's synthetic pairs and public files alone.
- The private records are read afterwards, outside the mechanism. What is computed from them is for
  `private/` alone, unless the owner declared them public before the run began.

Does not: train or run anything.
"""

from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from privcode.config.schema import not_public
from privcode.data.prompts import read_prompts
from privcode.data.rows import is_local
from privcode.exercises.corpus import prelude
from privcode.exercises.coverage import coverage
from privcode.experiments import measures
from privcode.files import Row, write_json
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.preflight import text_of
from privcode.pipeline.private import split_records
from privcode.pipeline.results import pairs_in
from privcode.pipeline.spending import is_public
from privcode.privacy.ledger import read_ledger
from privcode.syntax.fences import code_in

Figures = dict[str, float]


def figures_of(run: RunDirectory, private: Path, declared: str | None = None) -> Figures:
    """What may be shown of the accepted pairs: `synthesised`, and `against_private` of public data.

    Args:
        run: whose pairs.
        private: the file for `against_private` of private data, for its owner's eyes.
        declared: a file of prompts that the owner declared public.
    """
    found, inside = synthesised(run, declared), against_private(run, run.private)
    if is_public(run.config, read_ledger(run.ledger)):
        return found | inside
    if inside:
        write_json(private, inside, mode=0o600)
    return found


def synthesised(run: RunDirectory, declared: str | None = None) -> Figures:
    """Figures of the accepted pairs, by name; empty if the run made none.

    "pairs"; of "prompts" and "programs": "distinct …", "distinct-1 …" to "distinct-3 …" and
    "likeness of …" (`measures`); "prompts told from public" with "… low" and "… high"
    (`measures.told_apart`) from public prompts that synthesis did not use, if there are any;
    "operations" and "wordings" in the exercise world.

    Args:
        run: whose pairs.
        declared: a file of prompts that is public, in addition to the one that the run draws from.
    """
    pairs = pairs_in(run.accepted) if run.accepted.exists() else []
    if not pairs:
        return {}
    prompts, programs = [row["prompt"] for row in pairs], _programs(run, pairs)
    found: dict[str, float | None] = {"pairs": len(pairs)}
    for name, texts in (
        ("prompts", [measures.words(prompt) for prompt in prompts]),
        ("programs", [_tokens(code, language) for code, language in programs]),
    ):
        some = measures.sample(texts)
        found[f"distinct {name}"] = measures.distinct_share(texts)
        found |= {f"distinct-{n} {name}": measures.distinct_ngrams(some, n) for n in (1, 2, 3)}
        found[f"likeness of {name}"] = measures.self_similarity(some)
    found |= _told("public", prompts, _unused(run, declared))
    if text_of(run.config.validate_.execution.prelude) == prelude():
        found |= coverage(prompts, [code for code, _ in programs])
    return _rounded(found)


def against_private(run: RunDirectory, folder: Path) -> Figures:
    """Figures of the accepted pairs against the private records: private, if these are.

    "prompts told from private", with "… low" and "… high"; "copied prompts" and "copied programs":
    the share that is a private one word for word; "copied parts of …": that has
    `measures.COPIED` tokens in a row in common with a private one. With "… of records" the same of
    some private records against the rest, which is what to compare with. Empty if the run made no
    pairs or the records are not here.

    Args:
        run: whose records and pairs.
        folder: where records may lie while they are read; see `data.records.stored`.
    """
    pairs = pairs_in(run.accepted) if run.accepted.exists() else []
    if not pairs or not is_local(run.config.data.source):
        return {}
    records, _, _, _ = split_records(run.config, folder)
    chosen = set(measures.sample(range(len(records))))
    some = [records[place] for place in sorted(chosen)]
    prompts = [row["prompt"] for row in pairs]
    found = _told("private", prompts, [record.prompt for record in some])
    for name, ours, text in (
        ("prompts", prompts, attrgetter("prompt")),
        ("programs", [row["completion"] for row in pairs], attrgetter("completion")),
    ):
        rest = (text(record) for place, record in enumerate(records) if place not in chosen)
        for of, copied in (
            ("", measures.copies(ours, map(text, records))),
            (" of records", measures.copies(list(map(text, some)), rest)),
        ):
            found |= {
                f"copied {name}{of}": copied.whole,
                f"copied parts of {name}{of}": copied.part,
            }
    return _rounded(found)


def _programs(run: RunDirectory, pairs: list[Row]) -> list[tuple[str, str]]:
    """The code of each pair and its language."""
    language = run.config.data.language
    return [
        code_in(row["completion"], language or "python", any_language=language is None)
        for row in pairs
    ]


def _tokens(code: str, language: str) -> list[str]:
    try:
        return measures.program_tokens(code, language)
    except ValueError:
        return measures.words(code)


def _unused(run: RunDirectory, declared: str | None) -> list[str]:
    """Public prompts of the config's file that synthesis does not draw from.

    A run that writes its prompts may still name a file. With `source: public` alone the owner says
    that a file is public, so it counts only if it is `declared`, and is not the private data.
    """
    section, source = run.config.prompts, run.config.data.source
    file = section.file
    if not file or not is_local(file):
        return []
    if section.source != "public" and (file != declared or not_public(file, source)):
        return []
    every = read_prompts(file, section.column, input=section.input, suffix=section.suffix)
    return every[section.limit or len(every) :]


def _told(whom: str, prompts: list[str], others: list[str]) -> dict[str, float | None]:
    found = measures.told_apart(prompts, others)
    if found is None:
        return {}
    name = f"prompts told from {whom}"
    values = asdict(found)
    return {name: values["accuracy"], f"{name} low": values["low"], f"{name} high": values["high"]}


def _rounded(found: dict[str, float | None]) -> Figures:
    return {name: round(value, 4) for name, value in found.items() if value is not None}
