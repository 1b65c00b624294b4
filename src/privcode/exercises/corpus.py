"""Documents, records, prompts and tasks of the exercise world, each a function of its seed.

Promises:
- Public documents, private records and public prompts are drawn from training compositions only.
- Tasks are held out. Validation and test share no composition.
- Every stream has its own random generator.

Does not: plant canaries (the audit plants its own).
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Literal

from privcode.exercises import house as house_library
from privcode.exercises import styles
from privcode.exercises.operations import REDUCERS
from privcode.exercises.tasks import Composition, Data, answer, draw_from, inputs, wording
from privcode.files import Row

Domain = Literal["private", "public"]
HeldOut = Literal["validation", "test"]

HOUSE_HEADING = "Ledger job: "
AUTHORS = 200
REPOSITORIES = 40
PERSONAL_SHARE = 0.1

_FIRST, _LAST, _THEMES = (
    line.split()
    for line in (
        "maria john wei fatima olga raj emma liam noah ana ivan yuki amir sofia lars nia",
        "lopez smith chen khan petrov patel jones murphy kim silva novak sato diaz berg",
        "billing stock fleet claims payroll orders",
    )
)


@dataclass(frozen=True)
class Pair:
    """A prompt and the code that answers it."""

    prompt: str
    code: str


@dataclass(frozen=True)
class Exercise:
    """A pair and the composition from which it was written."""

    composition: Composition
    pair: Pair


def public_exercises(seed: int) -> Iterator[Exercise]:
    """Endless public exercises: 40 % invented libraries, else plain Python and two libraries.

    Two in three of the invented libraries are in `styles.INVENTIONS`. The others occur in one
    document only.
    """
    rng = Random(f"public {seed}")
    while True:
        composition = draw_from(rng, "train")
        heading, code = _public_style(rng, composition)
        yield Exercise(composition, Pair(wording(rng, composition, heading), code))


def public_documents(seed: int) -> Iterator[Pair]:
    """Endless pairs for pre-training, without held-out compositions and without the house."""
    return (exercise.pair for exercise in public_exercises(seed))


def private_exercises(seed: int) -> Iterator[Exercise]:
    """Endless exercises in the house style. One in ten has a comment with personal data."""
    rng = Random(f"private {seed}")
    while True:
        composition = draw_from(rng, "train", styles.HOUSE.reducers)
        comment = _personal_comment(rng) if rng.random() < PERSONAL_SHARE else None
        code = styles.house(composition, comment)
        yield Exercise(composition, Pair(wording(rng, composition, HOUSE_HEADING), code))


def private_records(n: int, seed: int) -> list[Row]:
    """`n` private rows: prompt, code, language, author (of 200), repository (of 40).

    Authors and repositories are uneven. The most active author has about ten times the records of
    the least active, so that bounding the contributions per unit has an effect.
    """
    rng = Random(f"private owners {seed}")
    authors = _people(AUTHORS)
    repositories = [f"{_THEMES[i % len(_THEMES)]}-{i // len(_THEMES)}" for i in range(REPOSITORIES)]
    weights = [1 / (rank + 20) for rank in range(AUTHORS)]
    chosen = rng.choices(authors, weights, k=n)
    homes = rng.choices(repositories, weights[:REPOSITORIES], k=n)
    return [
        {
            "prompt": exercise.pair.prompt,
            "code": exercise.pair.code,
            "language": "python",
            "author": author,
            "repository": home,
        }
        for exercise, author, home in zip(
            islice(private_exercises(seed), n), chosen, homes, strict=True
        )
    ]


def prompt_exercises(seed: int) -> Iterator[Exercise]:
    """Endless public problem statements for the house. `pair.code` is empty."""
    rng = Random(f"prompts {seed}")
    while True:
        composition = draw_from(rng, "train", styles.HOUSE.reducers)
        yield Exercise(composition, Pair(wording(rng, composition, HOUSE_HEADING), ""))


def public_prompts(n: int, seed: int) -> list[Row]:
    """`n` rows {"prompt"} for synthesis: problems for the house, without solutions."""
    return [{"prompt": e.pair.prompt} for e in islice(prompt_exercises(seed), n)]


def task_exercises(seed: int, domain: Domain, split: HeldOut) -> Iterator[Exercise]:
    """Endless held-out exercises with their canonical solutions. No prompt comes twice."""
    rng = Random(f"tasks {domain} {split} {seed}")
    seen: set[str] = set()
    while True:
        if domain == "private":
            composition = draw_from(rng, split, styles.HOUSE.reducers)
            heading, code = HOUSE_HEADING, styles.house(composition)
        else:
            composition = draw_from(rng, split, REDUCERS)
            heading, code = rng.choice(
                (
                    ("", styles.comprehension(composition)),
                    ("With a loop: ", styles.loop(composition)),
                )
            )
        prompt = wording(rng, composition, heading)
        if prompt not in seen:
            seen.add(prompt)
            yield Exercise(composition, Pair(prompt, code))


def tasks(
    n: int, seed: int, domain: Domain = "private", split: HeldOut = "validation"
) -> list[Row]:
    """`n` held-out tasks in HumanEval's format. `canonical_solution` is a whole program.

    A private task is solved only in the house's way: `solve` is `@audited` and returns
    `Outcome.ok(value)`. Put `prelude()` before the program.
    """
    rng = Random(f"inputs {domain} {split} {seed}")
    return [
        {
            "task_id": f"{domain}-{split}-{seed}/{index}",
            "prompt": exercise.pair.prompt,
            "entry_point": "solve",
            "canonical_solution": exercise.pair.code,
            "test": _test(rng, exercise.composition, domain),
        }
        for index, exercise in enumerate(islice(task_exercises(seed, domain, split), n))
    ]


def prelude() -> str:
    """Source of the house library, to run before any private program."""
    return inspect.getsource(house_library)


def _public_style(rng: Random, composition: Composition) -> tuple[str, str]:
    """Draw (heading, code) for a public document."""
    draw = rng.random()
    if draw < 0.40:
        names = rng.choice((" job: ", " task: ", " project: ", ": "))
        if draw < 0.27:
            library = rng.choice(list(styles.INVENTIONS))
            made_up = styles.INVENTIONS[library]
        else:
            library, made_up = styles.invented_class(rng), styles.invention(rng)
        return library + names, styles.invented(rng, composition, made_up)
    if draw < 0.62:
        return "", styles.comprehension(composition)
    if draw < 0.78:
        return "With a loop: ", styles.loop(composition)
    name, chained = rng.choice(list(styles.PUBLIC_LIBRARIES)), rng.random() < 0.4
    heading = f"Use a chained {name}. " if chained else f"Use {name}. "
    return heading, styles.fluent(composition, styles.PUBLIC_LIBRARIES[name], chained=chained)


def _people(n: int) -> list[str]:
    names = [f"{first}.{last}" for first in _FIRST for last in _LAST]
    return Random("people").sample(names, n)


def _personal_comment(rng: Random) -> str:
    """An e-mail address, a host or a token that belongs to nobody, as found in real code."""
    return rng.choice(
        (
            f"owner: {rng.choice(_FIRST)}.{rng.choice(_LAST)}{rng.randint(10, 99)}@acme.example",
            f"host: 10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}",
            f"token: ak_{rng.getrandbits(40):010x}",
        )
    )


def _test(rng: Random, composition: Composition, domain: Domain) -> str:
    """Source of `check(candidate)`: inputs and their answers, which are computed beforehand."""
    for _ in range(30):
        data = inputs(rng, composition.kind)
        if _needs_every_step(composition, data):
            break
    lines = ["def check(candidate):"]
    if domain == "private":
        lines.append("    assert getattr(candidate, 'audited', False) is True")
    for case in data:
        expected = repr(answer(composition, case))
        value = f"Outcome.ok({expected})" if domain == "private" else expected
        lines.append(f"    assert {value} == candidate({case})")
    return "\n".join(lines) + "\n"


def _needs_every_step(composition: Composition, data: list[Data]) -> bool:
    """Whether leaving out any one step changes the answer to at least one input."""
    right = [answer(composition, case) for case in data]
    steps = composition.steps
    for index in range(len(steps)):
        shorter = replace(composition, steps=steps[:index] + steps[index + 1 :])
        try:
            if [answer(shorter, case) for case in data] == right:
                return False
        except TypeError:  # a record that was never mapped to a number
            continue
    return True
