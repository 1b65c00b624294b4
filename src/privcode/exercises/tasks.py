"""Compositions: a problem is some steps on a list and one reducer.

Promises: a composition's skeleton is its kind, the names of its steps in order, and its reducer.
The skeleton's hash decides whether a composition may be seen in training, or is held out for
validation or test. So the combination in a held-out task is never met in training, in whatever
wording, style or parameters.
Does not: write code (`styles` does).
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from privcode.exercises.operations import (
    FIELDS,
    NUMBER_FILTERS,
    NUMBER_MAPS,
    REDUCERS,
    VARIABLES,
    WORD_FILTERS,
    WORD_MAPS,
    Kind,
    Operation,
)

Split = Literal["train", "validation", "test"]
Data = list[Any]

SHAPES = ("f", "m", "fm", "fm", "fm", "mf", "mf", "ff", "mm", "fmm", "ffm")
_INPUT_TEXT = """
level noon Apple banana SKY tree dog cat radar stats hello Moon pasta eat night dust orange RED
mint south gate data anna pear end nest
"""
INPUT_WORDS = tuple(_INPUT_TEXT.split())


@dataclass(frozen=True)
class Step:
    """One filter ("f") or map ("m") with its parameters filled in. `{v}` is still open."""

    verb: Literal["f", "m"]
    name: str
    phrase: str
    expression: str

    def on(self, element: str) -> str:
        """The step's expression for an element of this name."""
        return self.expression.replace("{v}", element)


@dataclass(frozen=True)
class Composition:
    """A problem without wording or style. `n` and `s` are the reducer's possible parameters."""

    kind: Kind
    variable: str
    steps: tuple[Step, ...]
    reducer: str
    reducer_phrase: str
    n: int
    s: str

    @property
    def skeleton(self) -> str:
        """What makes two problems the same composition."""
        return "|".join((self.kind, *(s.verb + ":" + s.name for s in self.steps), self.reducer))

    @property
    def split(self) -> Split:
        """One skeleton in sixteen is held out for validation, and one for test."""
        digest = hashlib.sha256(self.skeleton.encode()).digest()
        return {0: "validation", 1: "test"}.get(digest[0] % 16, "train")  # type: ignore[return-value]

    def element(self, index: int) -> str:
        """Name of the element before step `index`. A record becomes a number at its map."""
        if self.kind == "rec" and any(step.verb == "m" for step in self.steps[:index]):
            return "x"
        return {"int": "x", "str": "w", "rec": "r"}[self.kind]

    def reduce(self, values: str) -> str:
        """The reducer's Python expression on a list expression."""
        return REDUCERS[self.reducer].expression.format(values=values, n=self.n, s=self.s)

    def arguments(self) -> str:
        """The reducer's list of arguments in a library's method call."""
        return REDUCERS[self.reducer].arguments.format(n=self.n, s=self.s)


def _fill(rng: Random, verb: Literal["f", "m"], name: str, operation: Operation) -> Step:
    parameters = operation.draw(rng)
    phrase = rng.choice(operation.phrases).format(**parameters)
    return Step(verb, name, phrase, operation.expression.format(v="{v}", **parameters))


def _record_steps(rng: Random) -> list[Step]:
    field = rng.choice(FIELDS)
    steps: list[Step] = []
    if rng.random() < 0.5:
        bound, other = rng.randint(2, 20), rng.choice(FIELDS)
        sign, name, phrases = rng.choice(
            [
                (
                    ">",
                    "above",
                    ("keep those with {f} above {k}", "select the ones whose {f} exceeds {k}"),
                ),
                (
                    "<",
                    "below",
                    ("keep those with {f} below {k}", "select the ones whose {f} is under {k}"),
                ),
            ]
        )
        phrase = rng.choice(phrases).format(f=other, k=bound)
        steps.append(Step("f", f"field_{name}", phrase, f"{{v}}['{other}'] {sign} {bound}"))
    if rng.random() < 0.3:
        other = rng.choice([f for f in FIELDS if f != field])
        phrase = rng.choice(
            (f"multiply the {field} by the {other} of each", f"take {field} times {other} of each")
        )
        steps.append(Step("m", "product", phrase, f"{{v}}['{field}'] * {{v}}['{other}']"))
    else:
        phrase = rng.choice((f"take the {field} of each", f"get each {field}"))
        steps.append(Step("m", "field", phrase, f"{{v}}['{field}']"))
    return steps


def draw(rng: Random) -> Composition:
    """Draw any composition, held out or not."""
    kind: Kind = rng.choice(("int", "int", "str", "rec"))
    steps = _record_steps(rng) if kind == "rec" else []
    shape = rng.choice(("", "", "f", "m")) if kind == "rec" else rng.choice(SHAPES)
    filters, maps = (WORD_FILTERS, WORD_MAPS) if kind == "str" else (NUMBER_FILTERS, NUMBER_MAPS)
    used: set[str] = set()
    for verb in shape:
        table = filters if verb == "f" else maps
        name = rng.choice([name for name in table if verb + name not in used])
        used.add(verb + name)
        steps.append(_fill(rng, "f" if verb == "f" else "m", name, table[name]))
    reducer = rng.choice([name for name, red in REDUCERS.items() if kind in red.kinds])
    n, s = rng.randint(2, 5), rng.choice("-,+/|")
    phrase = rng.choice(REDUCERS[reducer].phrases).format(n=n, s=s)
    return Composition(kind, rng.choice(VARIABLES[kind]), tuple(steps), reducer, phrase, n, s)


def draw_from(rng: Random, split: Split, reducers: Collection[str] = REDUCERS) -> Composition:
    """Draw a composition of one split that ends in one of `reducers`."""
    while True:
        composition = draw(rng)
        if composition.reducer in reducers and composition.split == split:
            return composition


def wording(rng: Random, composition: Composition, heading: str = "") -> str:
    """A problem statement in English, after an optional heading."""
    body, variable = ", ".join(s.phrase for s in composition.steps), composition.variable
    noun = {"int": "a list of integers", "str": "a list of words", "rec": "a list of dicts"}
    plain = "the records" if composition.kind == "rec" else "the list"
    given = rng.choice((f"{plain} {variable}", f"{noun[composition.kind]} {variable}", variable))
    last = composition.reducer_phrase
    return heading + rng.choice(
        (
            f"Given {given}, {body}, then {last}.",
            f"From {given}, {body} and {last}.",
            f"Take {given}. {body[0].upper()}{body[1:]}, and finally {last}.",
        )
    )


def inputs(rng: Random, kind: Kind) -> list[Data]:
    """Inputs to check a solution on. The empty list is one of them."""
    if kind == "int":
        bounds = ((-30, 40), (-5, 12), (0, 25))
        return [[rng.randint(*b) for _ in range(rng.randint(8, 14))] for b in bounds] + [[]]
    if kind == "str":
        return [[rng.choice(INPUT_WORDS) for _ in range(size)] for size in (10, 14, 16)] + [[]]
    return [[{f: rng.randint(0, 30) for f in FIELDS} for _ in range(10)] for _ in range(3)] + [[]]


def answer(composition: Composition, data: Data) -> Any:
    """The right answer, computed from the composition and not from any written solution."""
    for step in composition.steps:
        # The expressions are constants of `operations`, never text from outside.
        function = eval(f"lambda e: {step.on('e')}")
        keep = step.verb == "f"
        data = [e for e in data if function(e)] if keep else [function(e) for e in data]
    return eval(composition.reduce("data"), {"data": data})
