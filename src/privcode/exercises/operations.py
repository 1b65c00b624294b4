"""The vocabulary of the exercise world: what a step or a reducer says and does.

Promises:
- Each operation has its wordings, its Python expression and a function that draws its parameters.
- Expressions are trusted constants of this file. `{v}` stands for the element and `{values}` for
  the list.

Does not: combine operations (`tasks` does).
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Kind = Literal["int", "str", "rec"]
Parameters = dict[str, object]

VARIABLES: dict[Kind, tuple[str, ...]] = {
    "int": ("xs", "nums", "values", "data"),
    "str": ("words", "names", "tags", "labels"),
    "rec": ("rows", "orders", "items", "records"),
}
FIELDS = ("price", "qty", "score", "age", "cost", "size")


@dataclass(frozen=True)
class Operation:
    """One filter or map: two or more wordings, an expression in `{v}`, a parameter draw."""

    phrases: tuple[str, ...]
    expression: str
    draw: Callable[[Random], Parameters] = lambda _: {}


@dataclass(frozen=True)
class Reducer:
    """What happens to the list at the end. `arguments` is its call in any fluent library."""

    phrases: tuple[str, ...]
    expression: str
    kinds: tuple[Kind, ...] = ("int", "str", "rec")
    arguments: str = "()"


def _number(low: int = 2, high: int = 20) -> Callable[[Random], Parameters]:
    return lambda rng: {"k": rng.randint(low, high)}


def _letter(letters: str) -> Callable[[Random], Parameters]:
    return lambda rng: {"c": rng.choice(letters)}


def _interval(rng: Random) -> Parameters:
    low = rng.randint(0, 9)
    return {"a": low, "b": low + rng.randint(3, 15)}


def _swap(rng: Random) -> Parameters:
    old = rng.choice("aeiou")
    return {"a": old, "b": rng.choice([c for c in "aeioxyz" if c != old])}


NUMBER_FILTERS = {
    "even": Operation(
        ("keep only the even numbers", "drop the odd numbers", "select the even ones"),
        "{v} % 2 == 0",
    ),
    "odd": Operation(
        ("keep only the odd numbers", "drop the even numbers", "select the odd ones"),
        "{v} % 2 == 1",
    ),
    "positive": Operation(
        ("keep only the positive numbers", "select the positive ones"), "{v} > 0"
    ),
    "negative": Operation(
        ("keep only the negative numbers", "select the negative ones"), "{v} < 0"
    ),
    "above": Operation(
        ("keep the numbers greater than {k}", "select those above {k}"), "{v} > {k}", _number()
    ),
    "below": Operation(
        ("keep the numbers less than {k}", "select those below {k}"), "{v} < {k}", _number()
    ),
    "at_least": Operation(
        ("keep the numbers that are at least {k}", "drop the numbers below {k}"),
        "{v} >= {k}",
        _number(),
    ),
    "multiple": Operation(
        ("keep the multiples of {k}", "select those divisible by {k}"),
        "{v} % {k} == 0",
        _number(3, 9),
    ),
    "not_multiple": Operation(
        ("drop the multiples of {k}", "keep those not divisible by {k}"),
        "{v} % {k} != 0",
        _number(3, 9),
    ),
    "differs": Operation(
        ("drop every {k}", "remove the numbers equal to {k}"), "{v} != {k}", _number()
    ),
    "between": Operation(
        ("keep the numbers between {a} and {b}", "select those from {a} to {b}"),
        "{a} <= {v} <= {b}",
        _interval,
    ),
    "last_digit": Operation(
        ("keep the numbers ending in {k}", "select those whose last digit is {k}"),
        "abs({v}) % 10 == {k}",
        _number(0, 9),
    ),
    "magnitude": Operation(
        (
            "keep those with absolute value over {k}",
            "select the numbers whose magnitude exceeds {k}",
        ),
        "abs({v}) > {k}",
        _number(),
    ),
}

NUMBER_MAPS = {
    "square": Operation(("square each one", "replace each by its square"), "{v} ** 2"),
    "cube": Operation(("cube each one", "replace each by its cube"), "{v} ** 3"),
    "double": Operation(("double each one", "multiply each by two"), "{v} * 2"),
    "times": Operation(("multiply each by {k}", "scale each by {k}"), "{v} * {k}", _number(3, 12)),
    "plus": Operation(("add {k} to each", "increase each by {k}"), "{v} + {k}", _number()),
    "minus": Operation(("subtract {k} from each", "decrease each by {k}"), "{v} - {k}", _number()),
    "negate": Operation(("negate each one", "flip the sign of each"), "-{v}"),
    "absolute": Operation(
        ("take the absolute value of each", "make each one non-negative"), "abs({v})"
    ),
    "modulo": Operation(
        ("take each modulo {k}", "replace each by its remainder mod {k}"),
        "{v} % {k}",
        _number(3, 12),
    ),
    "floor_divide": Operation(
        ("divide each by {k} rounding down", "floor divide each by {k}"),
        "{v} // {k}",
        _number(2, 9),
    ),
    "cap": Operation(("cap each at {k}", "limit each to at most {k}"), "min({v}, {k})", _number()),
    "floor": Operation(
        ("raise each to at least {k}", "make each no less than {k}"), "max({v}, {k})", _number()
    ),
}

WORD_FILTERS = {
    "longer": Operation(
        (
            "keep the words longer than {k} letters",
            "select those with more than {k} characters",
        ),
        "len({v}) > {k}",
        _number(2, 7),
    ),
    "shorter": Operation(
        (
            "keep the words shorter than {k} letters",
            "select those with fewer than {k} characters",
        ),
        "len({v}) < {k}",
        _number(3, 8),
    ),
    "length": Operation(
        ("keep the words of exactly {k} letters", "select those with {k} characters"),
        "len({v}) == {k}",
        _number(3, 7),
    ),
    "starts": Operation(
        ("keep the words starting with '{c}'", "select those that begin with '{c}'"),
        "{v}.startswith('{c}')",
        _letter("abcdefghmnpst"),
    ),
    "ends": Operation(
        ("keep the words ending with '{c}'", "select those that end in '{c}'"),
        "{v}.endswith('{c}')",
        _letter("aedgnrsty"),
    ),
    "contains": Operation(
        ("keep the words containing '{c}'", "select those that include '{c}'"),
        "'{c}' in {v}",
        _letter("aeiounrst"),
    ),
    "lacks": Operation(
        ("drop the words containing '{c}'", "keep those without '{c}'"),
        "'{c}' not in {v}",
        _letter("aeiounrst"),
    ),
    "is_upper": Operation(
        ("keep the uppercase words", "select those in capitals"), "{v}.isupper()"
    ),
    "palindrome": Operation(
        ("keep the palindromes", "select those that read the same backwards"),
        "{v} == {v}[::-1]",
    ),
    "is_lower": Operation(
        ("keep the lowercase words", "drop words with capitals"), "{v}.islower()"
    ),
}

WORD_MAPS = {
    "upper": Operation(("uppercase each one", "convert each to upper case"), "{v}.upper()"),
    "lower": Operation(("lowercase each one", "convert each to lower case"), "{v}.lower()"),
    "reverse": Operation(("reverse each one", "spell each backwards"), "{v}[::-1]"),
    "head": Operation(
        ("take the first {k} letters of each", "cut each to {k} letters"),
        "{v}[:{k}]",
        _number(1, 4),
    ),
    "tail": Operation(
        ("take the last {k} letters of each", "keep the final {k} letters of each"),
        "{v}[-{k}:]",
        _number(1, 4),
    ),
    "capitalize": Operation(("capitalize each one", "put each in title form"), "{v}.capitalize()"),
    "repeat": Operation(
        ("repeat each {k} times", "duplicate each {k} times"), "{v} * {k}", _number(2, 4)
    ),
    "suffix": Operation(
        ("append '{c}' to each", "add '{c}' at the end of each"),
        "{v} + '{c}'",
        _letter("!?.-_"),
    ),
    "swap": Operation(
        ("replace '{a}' by '{b}' in each", "swap each '{a}' for '{b}'"),
        "{v}.replace('{a}', '{b}')",
        _swap,
    ),
}

REDUCERS = {
    "sum": Reducer(("return the sum", "return the total"), "sum({values})", ("int", "rec")),
    "count": Reducer(("return how many there are", "return the count"), "len({values})"),
    "max": Reducer(
        ("return the largest, or None if empty", "return the maximum, or None if empty"),
        "max({values}, default=None)",
        ("int", "rec"),
    ),
    "min": Reducer(
        ("return the smallest, or None if empty", "return the minimum, or None if empty"),
        "min({values}, default=None)",
        ("int", "rec"),
    ),
    "list": Reducer(("return the resulting list", "return them as a list"), "{values}"),
    "sorted": Reducer(("return them sorted", "return them in ascending order"), "sorted({values})"),
    "descending": Reducer(
        ("return them in descending order", "return them sorted from high to low"),
        "sorted({values}, reverse=True)",
    ),
    "reversed": Reducer(("return them in reverse order", "return them reversed"), "{values}[::-1]"),
    "distinct": Reducer(
        ("return the distinct ones in order", "return them without duplicates"),
        "list(dict.fromkeys({values}))",
    ),
    "first": Reducer(
        ("return the first {n}", "return the first {n} of them"),
        "{values}[:{n}]",
        arguments="({n})",
    ),
    "last": Reducer(
        ("return the last {n}", "return the last {n} of them"),
        "{values}[-{n}:]",
        arguments="({n})",
    ),
    "count_distinct": Reducer(
        ("return how many distinct ones there are", "return the number of distinct ones"),
        "len(set({values}))",
    ),
    "top": Reducer(
        ("return the {n} largest", "return the top {n}"),
        "sorted({values}, reverse=True)[:{n}]",
        ("int", "rec"),
        arguments="({n})",
    ),
    "join": Reducer(
        ("return them joined with '{s}'", "return one string separated by '{s}'"),
        "'{s}'.join({values})",
        ("str",),
        arguments="('{s}')",
    ),
    "longest": Reducer(
        ("return the longest, or None if empty", "return the longest one or None"),
        "max({values}, key=len, default=None)",
        ("str",),
    ),
    "letters": Reducer(
        ("return the total number of letters", "return their combined length"),
        "len(''.join({values}))",
        ("str",),
    ),
}
