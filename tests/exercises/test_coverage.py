"""What prompts and programs of the exercise world cover is read off them exactly."""

from itertools import islice

from privcode.exercises.corpus import private_exercises
from privcode.exercises.coverage import (
    coverage,
    operations,
    operations_in,
    wordings,
    wordings_in,
)

EXERCISES = list(islice(private_exercises(seed=5), 2000))


def test_a_program_has_the_operations_that_it_was_written_from() -> None:
    for exercise in EXERCISES:
        composition = exercise.composition
        steps = {
            f"{composition.element(index)}:{step.name.removeprefix('field_')}"
            for index, step in enumerate(composition.steps)
        }
        assert operations_in(exercise.pair.code) == steps | {f"reducer:{composition.reducer}"}


def test_a_prompt_has_one_sentence_and_a_phrase_for_each_step() -> None:
    for exercise in EXERCISES:
        found = wordings_in(exercise.pair.prompt)
        assert len([one for one in found if one.startswith("(?:^|: )")]) == 1
        if exercise.composition.kind != "rec":  # what is done to a record has no fixed phrase
            assert len(found) >= 2 + len({s.phrase for s in exercise.composition.steps})


def test_coverage_is_all_of_a_large_sample_and_little_of_one_pair() -> None:
    prompts, programs = ([getattr(e.pair, name) for e in EXERCISES] for name in ("prompt", "code"))
    assert coverage(prompts, programs) == {"operations": 1, "wordings": 1}
    few = coverage(prompts[:1], programs[:1])
    assert 0 < few["operations"] <= 4 / len(operations())
    assert 0 < few["wordings"] <= 7 / len(wordings())
    assert coverage(["Sort the list."], ["not python ("]) == {"operations": 0, "wordings": 0}
