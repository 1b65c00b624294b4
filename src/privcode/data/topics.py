"""What a record is about, by a small public taxonomy: language × kind of task × library.

Promises:
- The topics are fixed here. They depend on no data and no machine.
- A record's topic depends on its own prompt, code and language alone, and is always one of these.
- The words for a topic are public, and different for each topic.

Does not: understand a text. It counts public keywords in the prompt, and reads the imports of the
code. A wrong topic costs quality and no privacy.
"""

import hashlib
import re
from functools import cache
from typing import NamedTuple

from privcode.data.records import Record
from privcode.languages import LANGUAGES

ANY_LANGUAGE, ANY_KIND, NO_LIBRARY = "other", "something else", "none"

KINDS = {
    "tests": "test unittest assert assertion mock fixture coverage stub",
    "databases": "sql database query table schema row column insert join transaction orm "
    "postgresql postgres mysql sqlite mongodb redis migration",
    "dates and times": "date datetime time timestamp timezone day month year week hour minute "
    "second calendar clock duration schedule",
    "networks": "http https url request response socket server client endpoint api download upload "
    "email smtp tcp udp websocket header cookie proxy rest",
    "files": "file filename directory folder path csv json xml yaml zip archive disk pdf "
    "spreadsheet excel backup",
    "security": "password hash encrypt decrypt encryption cipher certificate signature login "
    "authentication authorization permission secret oauth jwt csrf",
    "threads and processes": "thread async await lock mutex parallel concurrent concurrency "
    "process coroutine channel worker semaphore goroutine pool",
    "data analysis and machine learning": "dataframe dataset plot chart model train training "
    "classifier regression neural tensor feature layer epoch prediction cluster histogram",
    "web pages and user interfaces": "html css button page component widget window form render dom "
    "click menu browser layout view template react screen",
    "classes and interfaces": "class object method interface inherit inheritance constructor "
    "attribute property subclass instance enum generic trait singleton abstract",
    "commands and systems": "command shell environment argument log logging config configuration "
    "deploy docker container script cli terminal kernel linux cron",
    "lists and other data structures": "list array dictionary dict set tuple stack queue tree "
    "graph heap map node linked element item key collection vector hashmap matrix",
    "algorithms": "algorithm sort search shortest recursive recursion dynamic binary traversal "
    "optimal permutation combination subsequence greedy backtracking maximum minimum",
    "text": "string text word letter character substring regex parse parser format palindrome "
    "vowel sentence lowercase uppercase unicode encode decode token line whitespace",
    "numbers": "number integer sum prime factorial fibonacci divisor average mean digit equation "
    "geometry angle probability multiply divide square root percent float decimal even odd",
    ANY_KIND: "",
}
"""Kinds of tasks and the words that speak for them. Of kinds with equally many, the first wins."""

LIBRARIES: dict[str, dict[str, str]] = {
    "python": {
        "numpy": "numpy",
        "pandas": "pandas",
        "matplotlib": "matplotlib seaborn",
        "scikit-learn": "sklearn",
        "PyTorch": "torch",
        "TensorFlow": "tensorflow keras",
        "requests": "requests httpx aiohttp",
        "Flask": "flask",
        "Django": "django rest_framework",
        "FastAPI": "fastapi pydantic",
        "SQLAlchemy": "sqlalchemy",
        "pytest": "pytest",
    },
    "java": {
        "Spring": "org.springframework",
        "JUnit": "org.junit junit",
        "Jackson": "com.fasterxml.jackson",
        "Guava": "com.google.common",
        "Apache Commons": "org.apache.commons",
        "Hibernate": "org.hibernate javax.persistence jakarta.persistence",
        "Android": "android androidx",
    },
    "javascript": {
        "React": "react react-dom",
        "Vue": "vue",
        "Angular": "@angular angular",
        "Express": "express",
        "Next.js": "next",
        "axios": "axios",
        "lodash": "lodash",
        "Jest": "jest @jest @testing-library",
    },
    "cpp": {
        "Boost": "boost",
        "Eigen": "Eigen",
        "OpenCV": "opencv2 opencv",
        "Qt": "QtCore QtGui QtWidgets QObject QString QWidget QApplication",
        "GoogleTest": "gtest gmock",
    },
    "csharp": {
        "ASP.NET Core": "Microsoft.AspNetCore",
        "Entity Framework": "Microsoft.EntityFrameworkCore System.Data.Entity",
        "Json.NET": "Newtonsoft.Json",
        "xUnit": "Xunit",
        "NUnit": "NUnit",
        "Unity": "UnityEngine UnityEditor",
    },
    "rust": {
        "serde": "serde serde_json",
        "tokio": "tokio",
        "reqwest": "reqwest hyper",
        "clap": "clap structopt",
        "actix or axum": "actix_web axum",
        "rayon": "rayon",
    },
    "php": {
        "Laravel": "Illuminate",
        "Symfony": "Symfony",
        "Doctrine": "Doctrine",
        "PHPUnit": "PHPUnit",
        "Guzzle": "GuzzleHttp",
    },
    "go": {
        "Gin": "github.com/gin-gonic/gin",
        "GORM": "gorm.io/gorm github.com/jinzhu/gorm",
        "Cobra": "github.com/spf13/cobra",
        "Testify": "github.com/stretchr/testify",
        "gRPC": "google.golang.org/grpc",
        "Gorilla": "github.com/gorilla",
        "Kubernetes": "k8s.io",
    },
    "swift": {
        "SwiftUI": "SwiftUI",
        "UIKit": "UIKit",
        "Combine": "Combine",
        "Vapor": "Vapor",
        "Alamofire": "Alamofire",
        "XCTest": "XCTest",
    },
}
LIBRARIES["typescript"] = LIBRARIES["javascript"]
"""By language, the best-known libraries, and the names from which code imports them."""

_SCRIPT = r"""(?:\bfrom|\bimport|\brequire\()[ \t]*['"]([^'"\n]+)['"]"""
_IMPORTS = {
    "python": r"^[ \t]*(?:from|import)[ \t]+([\w.]+)",
    "java": r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+)",
    "javascript": _SCRIPT,
    "typescript": _SCRIPT,
    "cpp": r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]',
    "csharp": r"^[ \t]*(?:global[ \t]+)?using[ \t]+(?:static[ \t]+)?([\w.]+)",
    "rust": r"^[ \t]*(?:pub[ \t]+)?(?:use|extern[ \t]+crate)[ \t]+(\w+)",
    "php": r"^[ \t]*use[ \t]+\\?([\w\\]+)",
    "go": r'^[ \t]*(?:import[ \t]+)?(?:[\w.]+[ \t]+)?"([\w./-]+)"',
    "swift": r"^[ \t]*(?:@testable[ \t]+)?import[ \t]+(\w+)",
}
"""By language, what finds the names that code imports."""


class Topic(NamedTuple):
    """One bin of the histogram."""

    language: str
    kind: str
    library: str


TOPICS = tuple(
    Topic(language, kind, library)
    for language in (*LANGUAGES, ANY_LANGUAGE)
    for kind in KINDS
    for library in (*LIBRARIES.get(language, ()), NO_LIBRARY)
)
NUMBERS = {topic: number for number, topic in enumerate(TOPICS)}

_KIND_OF = {
    form: kind
    for kind, words in reversed(KINDS.items())  # the first kind that has a word keeps it
    for word in words.split()
    for form in (word, f"{word}s")
}
_WORD = re.compile(r"[a-z]+")
_MARK = re.compile(r"[./\\]")
_LONGEST = 200  # characters of an imported name that are looked at
_FOUND = {language: re.compile(found, re.MULTILINE) for language, found in _IMPORTS.items()}
_LIBRARY_OF = {
    language: {name: library for library, names in known.items() for name in names.split()}
    for language, known in LIBRARIES.items()
}
_ENDS = re.compile(r"[.:!?]*\s*\Z")


def topic_of(record: Record) -> Topic:
    """What a record is about."""
    language = record.language if record.language in LANGUAGES else ANY_LANGUAGE
    assert language is not None
    return Topic(language, kind_of(record.prompt), library_of(record.completion, language))


def kind_of(prompt: str) -> str:
    """The kind of task with the most different words in a prompt."""
    speaking = [_KIND_OF[word] for word in set(_WORD.findall(prompt.lower())) if word in _KIND_OF]
    return max(KINDS, key=speaking.count) if speaking else ANY_KIND


def library_of(code: str, language: str) -> str:
    """The first well-known library that code imports."""
    if language not in _FOUND:
        return NO_LIBRARY
    known = _LIBRARY_OF[language]
    for found in _FOUND[language].finditer(code):
        name = found[1][:_LONGEST]
        for end in (len(name), *(mark.start() for mark in reversed([*_MARK.finditer(name)]))):
            if library := known.get(name[:end]):
                return library
    return NO_LIBRARY


def about(opening: str, topic: Topic) -> str:
    """A public opening that names a topic, before the marks that it ends with."""
    said = f" about {topic.kind}"
    if topic.language != ANY_LANGUAGE:
        said += f", in {LANGUAGES[topic.language].title}"
    if topic.library != NO_LIBRARY:
        said += f", with {topic.library}"
    end = _ENDS.search(opening)
    assert end is not None  # the pattern fits an empty end
    return opening[: end.start()] + said + opening[end.start() :]


@cache
def taxonomy() -> str:
    """A name of the topics and of how records are sorted into them; another one for any change."""
    said = repr((TOPICS, KINDS, LIBRARIES, _IMPORTS))
    return hashlib.sha256(said.encode()).hexdigest()[:32]
