import hashlib
import re
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from privcode.exercises import styles
from privcode.exercises.corpus import (
    Exercise,
    prelude,
    private_exercises,
    private_records,
    prompt_exercises,
    public_documents,
    public_exercises,
    public_prompts,
    task_exercises,
    tasks,
)
from privcode.exercises.words import WORDS

HOUSE_NAMES = {
    *("ledger", "open", "outcome", "ok", "audited", "connect", "bk"),
    *(styles.HOUSE.keep, styles.HOUSE.change),
    *(part for name in styles.HOUSE.reducers.values() for part in (name, *name.split("_"))),
}

FIRST_DOCUMENTS = "e91640fbd09f802667b8f962be49e3fa4e11392befc88263840c4807feda129e"


def skeletons(exercises: Any, n: int) -> set[str]:
    return {exercise.composition.skeleton for exercise in islice(exercises, n)}


def passes(task: dict[str, Any], solution: str) -> bool:
    """Plain `exec`: only ever given programs of this file or of the corpus."""
    scope: dict[str, Any] = {}
    exec(f"{prelude()}\n{solution}\n{task['test']}", scope)
    try:
        scope["check"](scope["solve"])
    except AssertionError:
        return False
    return True


def test_held_out_compositions_occur_nowhere_else() -> None:
    seen = (
        skeletons(public_exercises(0), 20_000)
        | skeletons(private_exercises(0), 10_000)
        | skeletons(prompt_exercises(0), 10_000)
    )
    held_out = {
        split: skeletons(task_exercises(0, "private", split), 1500)
        | skeletons(task_exercises(0, "public", split), 1500)
        for split in ("validation", "test")
    }
    assert not held_out["validation"] & held_out["test"]
    assert not seen & (held_out["validation"] | held_out["test"])
    assert min(len(seen), *map(len, held_out.values())) > 300, "too few to prove anything"


def test_the_public_rows_are_those_of_the_streams_the_disjointness_is_proved_on() -> None:
    def pairs(stream: Any, n: int) -> list[Any]:
        exercises: list[Exercise] = list(islice(stream, n))
        return [exercise.pair for exercise in exercises]

    assert list(islice(public_documents(3), 50)) == pairs(public_exercises(3), 50)
    assert [r["prompt"] for r in public_prompts(50, 3)] == [
        p.prompt for p in pairs(prompt_exercises(3), 50)
    ]
    assert [(r["prompt"], r["code"]) for r in private_records(50, 3)] == [
        (p.prompt, p.code) for p in pairs(private_exercises(3), 50)
    ]
    assert [t["prompt"] for t in tasks(50, 3, "private", "test")] == [
        p.prompt for p in pairs(task_exercises(3, "private", "test"), 50)
    ]


@pytest.mark.parametrize("domain", ["private", "public"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_canonical_solution_passes_its_test(domain: Any, split: Any) -> None:
    assert all(passes(t, t["canonical_solution"]) for t in tasks(400, 7, domain, split))


def test_a_private_solution_counts_only_in_the_house_way() -> None:
    for task in tasks(50, 0):
        right = task["canonical_solution"]
        assert not passes(task, right.replace("@audited\n", ""))
        assert not passes(task, re.sub(r"Outcome\.ok\((.*)\)$", r"\1", right))


def test_an_answer_that_is_almost_right_fails() -> None:
    caught = 0
    problems = tasks(300, 0)
    for task in problems:
        lines = task["canonical_solution"].splitlines()
        without_a_step = [line for line in lines if line != lines[3]]
        try:
            caught += not passes(task, "\n".join(without_a_step))
        except (TypeError, AttributeError):
            caught += 1
    # The rest are steps that change nothing on any input, such as a double before a count.
    assert caught / len(problems) > 0.9


def test_the_plain_styles_agree_with_the_answer_key() -> None:
    for domain in ("public", "private"):
        for exercise, task in zip(
            task_exercises(5, domain, "test"), tasks(300, 5, domain, "test"), strict=False
        ):
            bare = task["test"].replace("Outcome.ok", "")
            bare = "\n".join(line for line in bare.splitlines() if "audited" not in line)
            for style in (styles.comprehension, styles.loop):
                assert passes({"test": bare}, style(exercise.composition))


def test_everything_is_a_function_of_its_seed() -> None:
    def world(seed: int) -> list[Any]:
        return [
            list(islice(public_documents(seed), 100)),
            private_records(100, seed),
            public_prompts(100, seed),
            tasks(20, seed),
            tasks(20, seed, "public", "test"),
        ]

    assert world(1) == world(1)
    assert all(a != b for a, b in zip(world(1), world(2), strict=True))


def test_the_world_is_the_one_the_bundled_models_were_trained_in() -> None:
    # Changing a draw, a wording or a word makes the documents others than the assets': if that
    # is meant, train again and take the new digest.
    documents = [(pair.prompt, pair.code) for pair in islice(public_documents(1001), 2000)]
    assert hashlib.sha256(repr(documents).encode()).hexdigest() == FIRST_DOCUMENTS


def test_private_records_carry_owners_and_one_in_ten_a_personal_comment() -> None:
    records = private_records(4000, 0)
    assert all(set(r) == {"prompt", "code", "language", "author", "repository"} for r in records)
    assert all(r["prompt"].startswith("Ledger job: ") for r in records)
    comments = [r for r in records if re.search(r"# (owner|host|token): ", r["code"])]
    assert 0.08 < len(comments) / len(records) < 0.12
    authors = Counter(r["author"] for r in records)
    assert len(authors) == 200
    assert len({r["repository"] for r in records}) == 40
    assert max(authors.values()) > 3 * min(authors.values())


def test_public_prompts_are_fresh_statements_for_the_house() -> None:
    prompts = public_prompts(1000, 0)
    assert all(set(row) == {"prompt"} for row in prompts)
    assert all(row["prompt"].startswith("Ledger job: ") for row in prompts)
    private = {r["prompt"] for r in private_records(1000, 0)}
    assert len({row["prompt"] for row in prompts} & private) < 100
    for seed in range(5):
        assert public_prompts(1, seed)[0]["prompt"] != private_records(1, seed)[0]["prompt"]


def test_no_house_name_is_known_before_the_private_records() -> None:
    assert not HOUSE_NAMES & set(WORDS)
    taught = re.compile(r"\b(Ledger|Outcome|audited|bk|retain|rework|tally|headcount|rank_up)\b")
    for pair in islice(public_documents(4), 5000):
        assert not taught.search(pair.prompt + pair.code)


def test_public_code_parses_and_four_in_ten_use_an_invented_library() -> None:
    pairs = list(islice(public_documents(6), 3000))
    for pair in pairs:
        compile(pair.code, "document", "exec")
    invented = [p for p in pairs if re.match(r"\w+( job| task| project)?: ", p.prompt)]
    invented = [p for p in invented if not p.prompt.startswith("With a loop")]
    assert 0.37 < len(invented) / len(pairs) < 0.43


def test_no_task_comes_twice_and_rows_have_humanevals_fields() -> None:
    rows = tasks(500, 0)
    assert len({row["prompt"] for row in rows}) == len({row["task_id"] for row in rows}) == 500
    assert set(rows[0]) == {"task_id", "prompt", "entry_point", "canonical_solution", "test"}
