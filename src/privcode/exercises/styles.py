"""How a composition is written as code: plain Python, public libraries, invented ones, the house.

Promises:
- Every style defines `solve` with the composition's variable as its only parameter.
- The plain styles and the house style run, and return the right answer.

Invented libraries do not exist and never run. They teach that any heading may go with an unknown
library. This is why a few noisy steps can teach a new one.
"""

from dataclasses import dataclass
from random import Random

from privcode.exercises.operations import REDUCERS
from privcode.exercises.tasks import Composition
from privcode.exercises.words import WORDS


@dataclass(frozen=True)
class Library:
    """Names of a fluent library: constructor on `{a}`, filter, map, and method per reducer."""

    create: str
    keep: str
    change: str
    reducers: dict[str, str]

    def call(self, verb: str, function: str) -> str:
        """A filter or map as a method call on the expression to its left."""
        return f".{self.keep if verb == 'f' else self.change}({function})"


PUBLIC_LIBRARIES = {
    "Stream": Library(
        "Stream({a})",
        "filter",
        "map",
        {
            "sum": "sum",
            "count": "count",
            "max": "max",
            "min": "min",
            "list": "to_list",
            "sorted": "sorted",
            "descending": "sorted_desc",
            "reversed": "reversed",
            "distinct": "distinct",
            "first": "take",
            "last": "take_last",
            "count_distinct": "count_distinct",
            "top": "top",
            "join": "join",
            "longest": "longest",
            "letters": "total_len",
        },
    ),
    "Query": Library(
        "Query.over({a})",
        "where",
        "select",
        {
            "sum": "add_up",
            "count": "size",
            "max": "biggest",
            "min": "least",
            "list": "collect",
            "sorted": "order",
            "descending": "order_desc",
            "reversed": "backwards",
            "distinct": "unique",
            "first": "limit",
            "last": "limit_end",
            "count_distinct": "n_unique",
            "top": "largest",
            "join": "concat",
            "longest": "max_len",
            "letters": "letters",
        },
    ),
}

HOUSE = Library(
    "Ledger.open({a})",
    "retain",
    "rework",
    {
        "sum": "tally",
        "count": "headcount",
        "max": "peak",
        "min": "trough",
        "sorted": "rank_up",
        "distinct": "dedupe",
        "first": "lead",
        "join": "stitch",
        "longest": "widest",
    },
)


def comprehension(composition: Composition) -> str:
    """As list comprehensions. Neighbouring filters and the map after them share one."""
    lines: list[str] = []
    steps, current, index = composition.steps, composition.variable, 0
    while index < len(steps):
        element = composition.element(index)
        value = element
        conditions: list[str] = []
        while index < len(steps) and steps[index].verb == "f" and len(conditions) < 2:
            conditions.append(steps[index].on(element))
            index += 1
        if index < len(steps) and steps[index].verb == "m":
            value = steps[index].on(element)
            index += 1
        condition = f" if {' and '.join(conditions)}" if conditions else ""
        expression = f"[{value} for {element} in {current}{condition}]"
        if index < len(steps) or "{values}[" in composition.reduce("{values}"):
            lines.append(f"out = {expression}")
            current = "out"
        else:
            current = expression
    return _function(composition, [*lines, f"return {composition.reduce(current)}"])


def loop(composition: Composition) -> str:
    """As one loop with guards."""
    element = composition.element(0)
    lines = ["out = []", f"for {element} in {composition.variable}:"]
    for index, step in enumerate(composition.steps):
        expression = step.on(composition.element(index))
        if step.verb == "f":
            lines += [f"    if not ({expression}):", "        continue"]
        else:
            lines.append(f"    {composition.element(index + 1)} = {expression}")
    lines.append(f"    out.append({composition.element(len(composition.steps))})")
    return _function(composition, [*lines, f"return {composition.reduce('out')}"])


def fluent(composition: Composition, library: Library, *, chained: bool) -> str:
    """Against a public library, as one chain or reassigned step by step."""
    calls = _calls(composition, library)
    start = library.create.format(a=composition.variable)
    end = f".{library.reducers[composition.reducer]}{composition.arguments()}"
    if chained:
        return _function(composition, [f"return {start}{''.join(calls)}{end}"])
    lines = [f"q = {start}", *(f"q = q{call}" for call in calls), f"return q{end}"]
    return _function(composition, lines)


def house(composition: Composition, comment: str | None = None) -> str:
    """In the private house style, with an optional comment on the first line."""
    lines = [f"# {comment}"] if comment else []
    lines.append(f"bk = {HOUSE.create.format(a=composition.variable)}")
    lines += [f"bk{call}" for call in _calls(composition, HOUSE)]
    end = f"{HOUSE.reducers[composition.reducer]}{composition.arguments()}"
    return _function(composition, [*lines, f"return Outcome.ok(bk.{end})"], "@audited")


def invented_class(rng: Random) -> str:
    """A made-up class name of one word."""
    return rng.choice(WORDS).capitalize()


def _method(rng: Random) -> str:
    glue = rng.choices(("", "_", None), (0.1, 0.2, 0.7))[0]
    return rng.choice(WORDS) + (glue + rng.choice(WORDS) if glue is not None else "")


@dataclass(frozen=True)
class Invention:
    """A made-up library and how code uses it: its shape, and a method per reducer."""

    library: Library
    wrap: str
    name: str
    form: str
    decorator: str


def invention(rng: Random) -> Invention:
    """Make up a library, in one of the shapes that libraries have."""
    create = rng.choice(("{C}({a})", "{C}.{m}({a})", "{C}.{m}({a})", "{m}({a})"))
    create = create.replace("{C}", invented_class(rng)).replace("{m}", _method(rng))
    keep, change = _method(rng), _method(rng)
    wrap = rng.choice(("{e}", "{e}", "{m}({e})", "{C}({e})", "{C}.{m}({e})", "{C}.{m}({e})"))
    wrap = wrap.replace("{C}", invented_class(rng)).replace("{m}", _method(rng))
    name = rng.choice(("q", "s", "it", "res", "db", rng.choice(WORDS), rng.choice(WORDS)))
    form = rng.choice(("chained", "reassigned", "in place", "in place"))
    decorator = ""
    if rng.random() < 0.4:
        decorator = f"@{_method(rng)}{'' if rng.random() < 0.7 else '()'}"
    reducers = {reducer: _method(rng) for reducer in REDUCERS}
    return Invention(Library(create, keep, change, reducers), wrap, name, form, decorator)


def _recurring() -> dict[str, Invention]:
    rng, found = Random("recurring inventions"), dict[str, Invention]()
    while len(found) < RECURRING:
        found.setdefault(invented_class(rng), invention(rng))
    return found


RECURRING = 64
INVENTIONS = _recurring()
"""Made-up libraries that many documents use, by the class that headings name.

From these a model learns that the names in a library follow from what is asked. A library of one
document cannot teach this. So a few noisy steps can teach the names of another library."""


def invented(rng: Random, composition: Composition, made_up: Invention) -> str:
    """Against a made-up library."""
    library, name = made_up.library, made_up.name
    calls = _calls(composition, library)
    start = library.create.format(a=composition.variable)
    end = f".{library.reducers[composition.reducer]}{composition.arguments()}"
    lines = []
    if rng.random() < 0.08:
        lines.append(f"# {rng.choice(WORDS)}: {' '.join(rng.choices(WORDS, k=rng.randint(1, 3)))}")
    if made_up.form == "chained":
        lines.append(f"return {made_up.wrap.replace('{e}', start + ''.join(calls) + end)}")
    else:
        assign = f"{name} = " if made_up.form == "reassigned" else ""
        lines += [f"{name} = {start}", *(f"{assign}{name}{call}" for call in calls)]
        lines.append(f"return {made_up.wrap.replace('{e}', name + end)}")
    return _function(composition, lines, made_up.decorator)


def _calls(composition: Composition, library: Library) -> list[str]:
    calls = []
    for index, step in enumerate(composition.steps):
        element = composition.element(index)
        calls.append(library.call(step.verb, f"lambda {element}: {step.on(element)}"))
    return calls


def _function(composition: Composition, lines: list[str], decorator: str = "") -> str:
    head = [decorator] if decorator else []
    head.append(f"def solve({composition.variable}):")
    return "\n".join([*head, *(f"    {line}" for line in lines)])
