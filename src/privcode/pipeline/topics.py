"""The histogram of what a run's records are about: counted, released once, and followed.

Promises:
- The records are counted before anything is spent. The noise is drawn after the ledger says so,
  once, by the first process. A run that goes on uses the noised counts that its ledger holds.
- `openings` reads the released file alone, which holds noised counts and public names.

Does not: add noise or account for it (`privacy.plan`), or decide what a record is about
(`data.topics`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from privcode.console import progress_bar, say
from privcode.data.records import Record, unit_numbers
from privcode.data.topics import (
    ANY_LANGUAGE,
    NO_LIBRARY,
    NUMBERS,
    TOPICS,
    Topic,
    about,
    taxonomy,
    topic_of,
)
from privcode.distributed import from_first
from privcode.errors import UserError
from privcode.files import Row, read_json, write_json
from privcode.languages import LANGUAGES, canonical_language
from privcode.pipeline.layout import RunDirectory
from privcode.privacy import histogram
from privcode.privacy.ledger import Ledger, noised_in, read_ledger

_SEPARATOR = " / "


def counted(run: RunDirectory, records: Sequence[Record]) -> np.ndarray | None:
    """[topics] how many units each has, see `privacy.histogram.counted`. Private.

    None if the plan has no histogram, or if it was released. Every process counts for itself, so
    that none waits for another.

    Args:
        run: the run.
        records: the bounded private records, without made-up ones.
    """
    if run.plan.histogram_noise_multiplier is None:
        return None
    if from_first(lambda: noised_in(read_ledger(run.ledger)) is not None):
        return None
    with progress_bar("topics", len(records), counted=False) as progress:

        def number(record: Record) -> int:
            progress(1)
            return NUMBERS[topic_of(record)]

        bins = np.fromiter(map(number, records), np.int16, len(records))
    return histogram.counted(bins, unit_numbers(records), len(TOPICS))


def release(run: RunDirectory, counts: np.ndarray | None) -> None:
    """Draw the noise of the histogram, unless it was drawn, and note what is released.

    Raises:
        UserError: the ledger holds the counts of another taxonomy, or cannot be written.
    """
    if run.plan.histogram_noise_multiplier is None:
        return
    ledger = Ledger(run.ledger)
    if counts is not None and ledger.histogram():
        noise = run.plan.histogram_noise(len(TOPICS), run.plan.randomness())
        values = histogram.noised(counts, noise).tolist()
        ledger.noised(dict(zip(map(_SEPARATOR.join, TOPICS), values, strict=True)), taxonomy())
    noted = noised_in(ledger.entries)
    if noted and noted["taxonomy"] != taxonomy():
        raise UserError(
            f"{run.ledger}: counts other topics than this privcode knows; go on with the version "
            "that began the run"
        )


def write(run: RunDirectory) -> None:
    """Write what was released, if the plan has a histogram."""
    if run.plan.histogram_noise_multiplier is not None:
        write_json(run.histogram, released(run, read_ledger(run.ledger)))


def released(run: RunDirectory, entries: list[Row]) -> dict[str, Any]:
    """What the file of the histogram holds: the noised counts in units, by topic.

    No counts if a crash lost them.
    """
    noted = noised_in(entries)
    counts: dict[str, int] = noted["counts"] if noted else {}
    return {
        "noise_multiplier": run.plan.histogram_noise_multiplier,
        "counts": {name: round(count * histogram.GRID, 3) for name, count in counts.items()},
    }


def openings(run: RunDirectory) -> list[str]:
    """The openings after which the junior writes its prompts, one for each prompt.

    With a histogram, each topic has its share of them. If none stands out of the noise, all kinds
    of tasks have equal shares.
    """
    chosen = run.config.prompts
    number = chosen.limit or 0
    if chosen.histogram.noise_multiplier is None:
        return [chosen.opening] * number
    weights = _weights(run)
    if not weights:
        say("synthesize: no topic stands out of the noise; all kinds of tasks get equal shares")
        weights = dict.fromkeys(_any_topic(run), 1.0)
    given = histogram.apportioned(list(weights.values()), number)
    shares = zip(weights, given, strict=True)
    return [about(chosen.opening, topic) for topic, count in shares for _ in range(count)]


def _weights(run: RunDirectory) -> dict[Topic, float]:
    """The noised counts that are large enough. Empty if there is no histogram of a DP junior."""
    if not run.histogram.exists():
        return {}
    found = read_json(run.histogram)
    least = run.config.prompts.histogram.least * found["noise_multiplier"] * histogram.SENSITIVITY
    counts = {Topic(*name.split(_SEPARATOR)): count for name, count in found["counts"].items()}
    return {topic: count for topic, count in counts.items() if count >= least and count > 0}


def _any_topic(run: RunDirectory) -> list[Topic]:
    """The topics without a library in the languages that the config names, or in all."""
    data = run.config.data
    named = data.languages or ([data.language] if data.language else [])
    wanted = {name if (name := canonical_language(n)) in LANGUAGES else ANY_LANGUAGE for n in named}
    return [
        topic
        for topic in TOPICS
        if topic.library == NO_LIBRARY and (not named or topic.language in wanted)
    ]
