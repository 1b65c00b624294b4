"""Topics are fixed in public, and a record's topic follows from that record alone."""

import subprocess
import sys

import pytest

from privcode.data.prompts import Lessons
from privcode.data.records import Record, Unit
from privcode.data.settings import Prompts
from privcode.data.topics import (
    ANY_KIND,
    ANY_LANGUAGE,
    KINDS,
    LIBRARIES,
    NO_LIBRARY,
    NUMBERS,
    TOPICS,
    Topic,
    about,
    kind_of,
    library_of,
    topic_of,
)


def record(prompt: str = "P", code: str = "x", language: str | None = "python") -> Record:
    return Record(prompt, code, language, Unit("owner", "u"), 1)


def test_every_record_has_one_of_the_topics_and_every_topic_other_words() -> None:
    assert len(TOPICS) == len(set(TOPICS)) == len(NUMBERS) < 2**15
    for opening in ("Write a problem.", "Aufgabe", "Go: "):
        assert len({about(opening, topic) for topic in TOPICS}) == len(TOPICS)
    for odd in (
        record("", "", None),
        record("\ud800 é" * 9, "import numpy", "brainfuck"),
        record("İ" * 99, "\0", "go"),
        record("x " * 10_000, "import " + "." * 100_000),
    ):
        assert topic_of(odd) in NUMBERS
    assert not any(" / " in part for topic in TOPICS for part in topic)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("Write an SQL query that joins two tables.", "databases"),
        ("Reverse the words of a string.", "text"),
        ("Read a CSV file from a directory.", "files"),
        ("Return the factorial of an integer.", "numbers"),
        ("Hello.", ANY_KIND),
        ("", ANY_KIND),
    ],
)
def test_the_kind_with_most_words_counts(prompt: str, kind: str) -> None:
    assert kind_of(prompt) == kind


@pytest.mark.parametrize(
    ("language", "code", "library"),
    [
        ("python", "import os\nfrom pandas.core import frame\nimport numpy", "pandas"),
        ("python", "x = 'import numpy'", NO_LIBRARY),
        ("python", "import numpyro", NO_LIBRARY),
        ("typescript", "import {a} from '@angular/core'", "Angular"),
        ("javascript", "const _ = require('lodash')", "lodash"),
        ("javascript", "import a from './react'", NO_LIBRARY),
        ("go", 'import (\n\t"fmt"\n\t"github.com/gin-gonic/gin"\n)', "Gin"),
        ("java", "import static org.junit.Assert.*;", "JUnit"),
        ("cpp", "#include <boost/array.hpp>", "Boost"),
        ("csharp", "using Newtonsoft.Json.Linq;", "Json.NET"),
        ("rust", "use serde::Serialize;", "serde"),
        ("php", "use Illuminate\\Support\\Str;", "Laravel"),
        ("swift", "import SwiftUI", "SwiftUI"),
        ("bash", "import numpy", NO_LIBRARY),
    ],
)
def test_the_first_known_library_that_is_imported_counts(
    language: str, code: str, library: str
) -> None:
    assert library_of(code, language) == library


def test_the_words_stand_before_the_marks_at_the_end() -> None:
    topic = Topic("python", "text", "pandas")
    assert about("Write a programming problem.", topic) == (
        "Write a programming problem about text, in Python, with pandas."
    )
    assert about("Problem", Topic(ANY_LANGUAGE, ANY_KIND, NO_LIBRARY)) == (
        "Problem about something else"
    )


def test_topics_are_the_same_in_another_process() -> None:
    """Sets and hashes are salted in each process; no topic may depend on them."""
    code = (
        "from privcode.data.topics import *\n"
        "words = [w for k in KINDS.values() for w in k.split()]\n"
        "print(taxonomy(), [kind_of(f'{a} {b}') for a, b in zip(words, words[7:])])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env=None
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1
    assert set(KINDS) >= {ANY_KIND}
    assert set(LIBRARIES) <= {topic.language for topic in TOPICS}


def test_with_a_histogram_the_opening_names_the_topic_but_for_made_up_records() -> None:
    section = {"source": "synthesised", "limit": 9, "opening": "Go."}
    steered = Prompts.model_validate(section | {"histogram": {"noise_multiplier": 2}})
    one = record("Reverse a string.", "import numpy")
    canary = Record("Reverse a string.", "x", "python", Unit("canary", "1"), 0)
    assert [pair.prompt for pair in Lessons([one, canary], steered)] == [
        "Go about text, in Python, with numpy.",
        "Reverse a string.",
        "Go.",
        "Reverse a string.",
    ]
    plain = Lessons([one], Prompts.model_validate(section))
    assert [pair.prompt for pair in plain] == ["Go.", "Reverse a string."]


@pytest.mark.parametrize("source", ["public", "described"])
def test_a_histogram_belongs_to_prompts_that_the_junior_writes(source: str) -> None:
    section = {"source": source, "file": "p", "limit": 9, "histogram": {"noise_multiplier": 2}}
    with pytest.raises(ValueError, match=r"histogram\.noise_multiplier: .*source is"):
        Prompts.model_validate(section)
