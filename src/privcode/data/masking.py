"""Masking of personal data and secrets in prompts and code, for the baseline `jft`.

What it finds, by kind, and the word that replaces it:
- EMAIL: addresses, by their form.
- IP_ADDRESS: IPv4 and IPv6 that `ipaddress` accepts. Loopback and netmasks are excluded, and so are
  short forms of IPv6 with fewer than three colons, which slices of Python look like.
- NAME: a first and a last name that Faker knows, in any of its languages. Also capitalised words
  after "author:", "written by" and the like.
- SECRET: keys, tokens and passwords that detect-secrets finds or that have a telling name.
- USERNAME: by their place only: `username = "…"`, home directories, `@author …`, `TODO(…)`.

Promises:
- Nothing is downloaded or sent: what detect-secrets finds is not verified.
- The words are valid in strings, comments and as identifiers. What a guess replaces is inside one
  string, so code that parses still parses.
- Ordinary code is left alone.

Does not: find what has no form, place or known name. Of the audit's canaries, it finds every e-mail
address, IPv6 address and password. It finds no person name and no username, because those are
made-up syllables. Of common names, it finds 98 % in English, less than half in most other
languages. Figures: docs/log/2026-11.md.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from ipaddress import ip_address
from operator import itemgetter
from pkgutil import iter_modules
from typing import Any, NamedTuple

from privcode.errors import UserError

WORDS = {
    "e-mail address": "EMAIL",
    "IPv4 address": "IP_ADDRESS",
    "IPv6 address": "IP_ADDRESS",
    "access key": "SECRET",
    "private key": "SECRET",
    "secret assigned": "SECRET",
    "username": "USERNAME",
    "person name": "NAME",
}
"""Kind of sign -> the word that replaces it."""


class Sign(NamedTuple):
    """A sign of personal data or of a secret: its kind, and where it is, in characters."""

    kind: str
    start: int
    end: int


# Bounded repeats and look-behinds keep these linear on long lines without white space.
_ESCAPE = r"(?<=\\[nrt])"  # in "\nann@example.org" the name is not nann
_BETWEEN = r"(\s|\\[nr]|[\"'+,#*/])"  # the lines of a key: in one string, in several, commented out
_SIGNS = {
    "e-mail address": re.compile(
        rf"((?<![\w.+%\\-])|{_ESCAPE})(?!git@)[\w.+-]{{1,64}}@(?!\dx\.)([\w-]{{1,63}}\.){{1,8}}"
        r"[A-Za-z][\w-]{1,62}"
    ),
    "IPv4 address": re.compile(rf"((?<![\w.])|{_ESCAPE})(\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.])"),
    "IPv6 address": re.compile(
        rf"((?<![\w:.])|{_ESCAPE})[\da-fA-F]{{0,4}}(:[\da-fA-F]{{0,4}}){{3,7}}(?![\w:])"
    ),
    "access key": re.compile(
        r"\b((AKIA|ASIA)[0-9A-Z]{16}|gh[opsur]_\w{36,255}|gl[a-z]{2,5}-[\w-]{20,64}|AIza[\w-]{35}"
        r"|sk-[\w-]{20,200}|xox[abprs]-[\w-]{10,200})"
    ),
    "private key": re.compile(
        rf"-----BEGIN [A-Z ]{{0,30}}PRIVATE KEY-----({_BETWEEN}{{1,40}}[\w+/=]{{16,5000}}){{0,200}}"
        rf"({_BETWEEN}{{0,40}}[\w+/=]{{0,80}}{_BETWEEN}{{0,40}}-----END [A-Z ]{{0,30}}KEY-----)?"
    ),
}
# What has no quotes, or is called a token (token = "<eos>"), must have digits to count as a secret.
_ASSIGNED = re.compile(
    r"(?P<name>passw(or)?d|passwd|pwd|secret|token|api_?key)\w{0,20}(?P<key>[\"'])?\s{0,5}(:|=|=>)"
    r"\s{0,5}([\"'](?P<string>(?![{<$%])[^\"'\s]{6,})[\"']"
    r"|(?(key)(?!))(?P<bare>[\w+/-]{8,100}={0,2})(?![\w+/.(\[=-]))",
    re.IGNORECASE,
)
_STRING = re.compile(  # a ' after two letters is an apostrophe
    r"\"{3}|'{3}|\"((?:[^\"\\\n]|\\.)*)\"|(?<![^\W\d_]{2})'((?:[^'\\\n]|\\.)*)'"
)
_MIXED = re.compile(r"(?=.*[^\W\d_]).*\d.*\d")


def signs(text: str) -> Iterator[Sign]:
    """Cheap, common signs of addresses and secrets, without any detector of the extra `pii`."""
    for kind, sign in _SIGNS.items():
        for match in sign.finditer(text):
            if not kind.startswith("IP") or _is_host(match[0]):
                yield Sign(kind, *match.span())
    strings = _strings(text)
    for match in _ASSIGNED.finditer(text):
        part = "bare" if match["bare"] else "string"
        if (part == "bare" or match["name"].lower() == "token") and not _MIXED.match(match[part]):
            continue
        if part == "bare" or _within(match.span(part), strings):
            yield Sign("secret assigned", *match.span(part))


def _strings(text: str) -> list[tuple[int, int]]:
    """Where the insides of string literals are, line by line, in most languages."""
    return [match.span(match.lastindex) for match in _STRING.finditer(text) if match.lastindex]


def _within(span: tuple[int, int], strings: list[tuple[int, int]]) -> bool:
    """Whether `span` is (in) one string: `,x,` of ("password:",x,"…") is between two."""
    before = bisect_right(strings, span[0], key=itemgetter(0))
    return before > 0 and span[1] <= strings[before - 1][1]


def _is_host(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or text.startswith("255."))


def mask(text: str) -> str:
    """`text` with a word of `WORDS` in place of every sign of personal data or of a secret.

    Raises:
        UserError: the extra `pii` is not installed.
    """
    need_detectors()
    places: list[Sign] = []
    for sign in sorted(_everything(text), key=lambda sign: sign.start):
        if places and sign.start < places[-1].end:  # two signs that overlap are one
            places[-1] = places[-1]._replace(end=max(sign.end, places[-1].end))
        else:
            places.append(sign)
    for sign in reversed(places):
        text = text[: sign.start] + WORDS[sign.kind] + text[sign.end :]
    return text


def need_detectors() -> None:
    """Check that the detectors that `mask` is built on are installed.

    Raises:
        UserError: they are not.
    """
    try:
        _plugins()
        _known_names()
    except ImportError:
        raise UserError(
            "method jft masks the private records with detectors that are not installed; "
            "pip install 'privcode[pii]'"
        ) from None


def _everything(text: str) -> Iterator[Sign]:
    yield from (sign._replace(kind="access key") for sign in detected(text))
    yield from signs(text)
    yield from _usernames(text)
    yield from _names(text)


# detect-secrets takes time quadratic in the line: long lines are cut, and a secret at a cut is
# missed.
_LINE = re.compile(r"[^\n]{1,1000}")
_TOKEN = re.compile(r"[^\s\"'`=:]{8,}")


@cache
def _plugins() -> tuple[Any, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    kinds = get_mapping_from_secret_type_to_class().values()
    return tuple(kind() for kind in kinds if kind.__name__ != "IPPublicDetector")


def detected(text: str) -> Iterator[Sign]:
    """What the plugins of detect-secrets find in each line, without verification, by their kinds.

    Raises:
        ImportError: detect-secrets is not installed.
    """
    strings = _strings(text)
    for line in _LINE.finditer(text):
        for plugin in _plugins():
            limit = getattr(plugin, "entropy_limit", None)
            whole = limit is not None or type(plugin).__name__ == "KeywordDetector"
            for secret in set(plugin.analyze_string(line[0])):
                if limit is not None and plugin.calculate_shannon_entropy(secret) <= limit:
                    continue
                token = secret if whole else "".join(_TOKEN.findall(secret)[:1])
                if token and _is_likely(token):
                    for found in re.finditer(re.escape(token), line[0]):
                        place = line.start() + found.start(), line.start() + found.end()
                        if not whole or _within(place, strings):
                            yield Sign(plugin.secret_type.lower(), *place)


def _is_likely(secret: str) -> bool:
    """Whether the filters of detect-secrets let a string pass, and it is one word."""
    from detect_secrets.filters import heuristic

    return len(secret.split()) == 1 and not (
        heuristic.is_sequential_string(secret)
        or heuristic.is_templated_secret(secret)
        or heuristic.is_prefixed_with_dollar_sign(secret)
        or heuristic.is_not_alphanumeric_string(secret)
    )


_USERNAME = re.compile(
    r"\b(?:user_?name|login|user|author|maintainer)[\"']?\s{0,5}(?::|=|=>|\bis\b)\s{0,5}"
    r"[\"']([\w.-]{3,40})[\"']"
    r"|(?:/home/|/Users/|[A-Z]:\\{1,2}Users\\{1,2})([\w.-]{2,40})"
    r"|@author:?\s{1,5}([a-z_][\w.-]{2,40})\b(?!@)"
    r"|\b(?:TODO|FIXME|XXX|HACK)\(([a-z][\w.-]{1,40})\)"
)
_NOBODY = {"user", "root", "admin", "guest", "test", "author", "maintainer"}
_NOBODY |= {word.lower() for word in WORDS.values()}


def _usernames(text: str) -> Iterator[Sign]:
    for match in _USERNAME.finditer(text):
        group = match.lastindex or 0
        if match[group].lower() not in _NOBODY:
            yield Sign("username", *match.span(group))


_PART = r"[A-ZÀ-ÖØ-Þ](?:['’][A-Z])?[^\W\d_A-Z][^\W\d_]*"
_NAME = rf"{_PART}(?:-{_PART})?"
_BETWEEN_NAMES = rf"{_NAME}|[A-Z]\.|de|la|del|dos|da|van|von|der|den|bin|al"
_NAMES = rf"{_NAME}(?: (?:{_BETWEEN_NAMES})){{0,8}} {_NAME}(?!\w)"
_CAPITALISED = re.compile(rf"(?:(?<![\w.\\])|{_ESCAPE}){_NAMES}")
_CREDITED = re.compile(
    r"(?i:\b(?:__)?(?:author|maintainer|signed-off-by)s?_{0,2}[\"']?\s{0,3}[:=]|@author"
    r"|\b(?:written|created|modified|maintained|contributed) by)"
    rf"\s{{0,5}}[\"'(\[]{{0,2}}({_NAMES})"
)


def _names(text: str) -> Iterator[Sign]:
    first, last = _known_names()
    for credited in _CREDITED.finditer(text):
        yield Sign("person name", *credited.span(1))
    for capitalised in _CAPITALISED.finditer(text):
        words = list(re.finditer(rf"({_PART})(-{_PART})?", capitalised[0]))
        plain = [_plain(word[1]) for word in words]
        for i, given in enumerate(plain):
            for j in range(min(i + 3, len(words) - 1), i, -1) if given in first else ():
                if plain[j] in last and plain[j] != given:
                    start = capitalised.start()
                    yield Sign("person name", start + words[i].start(), start + words[j].end())
                    break


@cache
def _known_names() -> tuple[frozenset[str], frozenset[str]]:
    """First and last names in the Latin alphabet, of all languages that Faker has."""
    from faker.providers import person

    known: dict[str, set[str]] = {"first": set(), "last": set()}
    for language in iter_modules(person.__path__):
        provider = import_module(f"{person.__name__}.{language.name}").Provider
        for attribute in dir(provider):
            values = getattr(provider, attribute)
            for part, names in known.items():
                if f"{part}_" in attribute and isinstance(values, (tuple, list, dict)):
                    names |= {_plain(name) for name in values if re.fullmatch(_PART, str(name))}
    return frozenset(known["first"]), frozenset(known["last"])


def _plain(name: str) -> str:
    """`name` without accents and capitals."""
    letters = unicodedata.normalize("NFKD", name)
    return "".join(c for c in letters if not unicodedata.combining(c)).casefold()
