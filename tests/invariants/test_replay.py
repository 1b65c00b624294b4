"""All that leaves `private/` is post-processing: a neighbour's run, with the noised sums of the
first put in place of its own, leaves the same bytes; and whatever leaks turns that red.

The seeds are fixed: `random.Random(f"{change} {seed}")` makes a neighbour, and a failure names it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from privcode.config import proposal
from privcode.console import say
from privcode.data import reading
from privcode.doctor.neighbours import CHANGES
from privcode.doctor.replay import UNITS, Seen, World, neighbour, play, replay, world
from privcode.errors import UserError
from privcode.files import write_text
from privcode.pipeline import directory, run, topics
from privcode.pipeline.stages import audit, sanitize
from privcode.privacy import PrivacyPlan
from privcode.privacy.clipping import Clipper
from privcode.training import dp_sgd, examples
from tests.helpers.sandboxed import sandboxed


def same(here: World, cases: list[tuple[str, int]]) -> None:
    """Replay the neighbours (change, seed) of a world's data."""
    seen, sums = play(here, here.rows)
    codes = {name: said[0] for name, said in seen.places.items() if name.startswith("privcode ")}
    assert set(codes.values()) == {0}, codes
    assert {"run/release/privacy.json", "run/evaluation/audit.json", "run/private"} <= {
        *seen.places
    }
    for change, seed in cases:
        other, _ = play(here, neighbour(here, change, seed), sums)
        assert seen.differences(other) == [], f"one unit {change}, seed {seed}"


def test_a_unit_removed_or_broken_shows_nowhere_outside_private(tmp_path: Path) -> None:
    same(world(tmp_path), [("removed", 0), ("made broken", 0)])


def test_a_unit_of_a_steered_run_shows_in_its_noised_histogram_alone(tmp_path: Path) -> None:
    same(world(tmp_path, steered=True), [("removed", 0), ("put into another language", 1)])


def test_counts_without_noise_are_seen_in_a_steered_run(tmp_path: Path) -> None:
    """What the histogram file says must come out of the mechanism."""

    def without_noise(path: Path, value: Any) -> None:
        real_write(path, value | {"counts": dict.fromkeys(value["counts"], float(sums[-1]))})

    def counted(*arguments: Any) -> Any:
        found = real_counted(*arguments)
        sums.append(found.sum())
        return found

    sums: list[Any] = []
    real_write, real_counted = vars(topics)["write_json"], topics.counted
    here = shortened(world(tmp_path, steered=True), "sanitize")
    with (
        patch.object(topics, "write_json", without_noise),
        patch.object(topics, "counted", counted),
    ):
        seen, released = play(here, here.rows)
        others = (neighbour(here, "removed", seed) for seed in range(4))
        assert any(seen.differences(play(here, rows, released)[0]) for rows in others)


@pytest.mark.slow
@pytest.mark.parametrize("owner", [None, "author"])
def test_neighbours_of_a_steered_run_leave_the_same_bytes(
    owner: str | None, tmp_path: Path
) -> None:
    same(world(tmp_path, owner, steered=True), [(change, 200) for change in CHANGES])


CHUNKS = [(owner, chunk) for owner in (None, "author") for chunk in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "chunk"), CHUNKS)
def test_two_hundred_neighbours_leave_the_same_bytes(
    owner: str | None, chunk: int, tmp_path: Path
) -> None:
    """Three of each change in each chunk: 9 × 3 × 8 = 216."""
    seeds = range(3 * chunk, 3 * chunk + 3)
    same(world(tmp_path, owner), [(change, seed) for change in CHANGES for seed in seeds])


@pytest.mark.parametrize(
    ("size", "owner", "seeds"),
    [
        (60, None, 2),
        (60, "author", 2),
        pytest.param(1_500, None, 5, marks=pytest.mark.slow),  # a number is taken, rounded down
    ],
)
def test_init_without_a_number_of_units_writes_the_same_config_for_neighbours(
    size: int, owner: str | None, seeds: int, tmp_path: Path
) -> None:
    here = world(tmp_path, owner)
    command = [word for word in here.commands[0] if word not in ("--units", str(UNITS))]
    here = replace(here, commands=[command], size=size)
    seen, _ = play(here, here.rows)
    assert next(iter(seen.places.values()))[0] == 0
    for change in CHANGES:
        for seed in range(seeds):
            other, _ = play(here, neighbour(here, change, seed))
            assert seen.differences(other) == [], f"one unit {change}, seed {seed}"


@sandboxed
@pytest.mark.slow
def test_neighbours_leave_the_same_bytes_where_what_models_write_is_run(tmp_path: Path) -> None:
    """By the bundled models: with validation's programs and an evaluation in the sandbox."""
    same(world(tmp_path, executes=True), [(change, 100) for change in CHANGES])


@dataclass(frozen=True)
class Leak:
    """A leak to plant, a change of one unit that shows it, and the commands that it takes."""

    plant: Callable[[], Any]
    change: str = "removed"
    commands: str = "sanitize"


def _told(tell: Callable[[int], object]) -> Callable[[], Any]:
    """The number of records goes to `tell`."""

    def counting(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        tell(len(found[0]))
        return found

    real = vars(sanitize)["private_records"]
    return lambda: patch.object(sanitize, "private_records", counting)


def _stated(value: Callable[[], Any]) -> Any:
    """One more value among the versions, in every manifest."""
    real = directory.versions
    return patch.object(directory, "versions", lambda: real() | {"more": str(value())})


@contextmanager
def _number_in_the_manifest() -> Iterator[None]:
    seen: list[int] = []
    with _told(seen.append)(), _stated(lambda: seen):
        yield


def _copied(name: str, module: Any, writer: str, to: str) -> Callable[[], Any]:
    """What goes to the file `name` in `private/` goes to the public file `to` as well."""
    real = getattr(module, writer)

    def write(path: Path, value: Any, *more: Any, **options: Any) -> None:
        real(path, value, *more, **options)
        if path.name == name:
            real(path.parent.parent / to, value)

    return lambda: patch.object(module, writer, write)


def _drafted(change: Callable[[str, Any], str]) -> Callable[[], Any]:
    """The config that `init` writes, changed by what was seen in the data."""
    real = proposal.draft

    def draft(findings: Any, *arguments: Any, **options: Any) -> str:
        return change(real(findings, *arguments, **options), findings)

    return lambda: patch.object(proposal, "draft", draft)


def _on_truncation(act: Callable[[], object]) -> Callable[[], Any]:
    real = examples.encode

    def encode(*arguments: Any, **options: Any) -> Any:
        example, cut = real(*arguments, **options)
        if cut:
            act()
        return example, cut

    return lambda: patch.object(examples, "encode", encode)


def _end_with_three() -> None:
    raise SystemExit(3)


def _as_many_steps_as_units() -> Any:
    real = dp_sgd.sanitize

    def train(learner: Any, examples: Any, units: Any, plan: Any, *more: Any) -> Any:
        return real(learner, examples, units, replace(plan, steps=len(units)), *more)

    return patch.object(dp_sgd, "sanitize", train)


@contextmanager
def _real_units_in_the_divisor() -> Iterator[None]:
    ratio = 1.0
    sample, set_gradients = PrivacyPlan.sample, Clipper.set_gradients

    def counting(plan: PrivacyPlan, present: int, *more: Any) -> Any:
        nonlocal ratio
        ratio = plan.units / present
        return sample(plan, present, *more)

    def scaled(clipper: Clipper, flat: torch.Tensor) -> None:
        set_gradients(clipper, flat * ratio)

    with (
        patch.object(PrivacyPlan, "sample", counting),
        patch.object(Clipper, "set_gradients", scaled),
    ):
        yield


def _totals_in_the_log() -> Any:
    real = vars(sanitize)["progress_bar"]

    def bar(title: str, total: int, **options: Any) -> Any:
        say(f"{title} {total}/{total}")
        return real(title, total, **options)

    return patch.object(sanitize, "progress_bar", bar)


@contextmanager
def _times_as_they_come() -> Iterator[None]:
    with ExitStack() as stack:
        for module in (run, directory, sanitize):
            stack.enter_context(patch.object(module, "settle", lambda _: None))
        yield


def _rows_named() -> Any:
    real = reading.BadField.__init__

    def told(bad: Any, field: str, reason: str, mend: str) -> None:
        say(f"a row was left out: {reason}")
        real(bad, field, reason, mend)

    return patch.object(reading.BadField, "__init__", told)


def _number_in_a_hidden_file() -> Any:
    return _told(lambda number: write_text(Path("run", ".log"), str(number)))()


def _number_as_a_mode() -> Any:
    return _told(lambda number: Path("run", "config.yaml").chmod(0o600 + number % 8))()


def _number_as_a_folder() -> Any:
    return _told(lambda number: Path(f"run/{number}").mkdir())()


LEAKS = {
    "the number of records printed": Leak(_told(lambda number: say(f"{number} records"))),
    "the number of records in the manifest": Leak(_number_in_the_manifest),
    "the number of records in a hidden file": Leak(_number_in_a_hidden_file, "added"),
    "the number of records as a mode": Leak(_number_as_a_mode),
    "the number of records as an empty folder's name": Leak(_number_as_a_folder, "added"),
    "the training curve copied": Leak(
        _copied("curve.jsonl", sanitize, "write_jsonl", "curve.jsonl")
    ),
    "the counts of reading copied": Leak(
        _copied("data.json", sanitize, "write_json", "models/data.json"), "made broken"
    ),
    "membership inference copied": Leak(
        _copied("membership.json", audit, "write_json", "evaluation/membership.json"),
        "made long",
        "all",
    ),
    "the context from the longest record": Leak(
        _drafted(lambda text, seen: text.replace("1024", str(seen.code_chars.max))),
        "made long",
        "init",
    ),
    "languages set because of one record": Leak(
        _drafted(lambda text, seen: text + "#" * len(seen.languages)),
        "put into another language",
        "init",
    ),
    "a column because of one record": Leak(
        _drafted(lambda text, seen: text + "#" * seen.rows), "added", "init"
    ),
    "a time in a public file": Leak(lambda: _stated(time.time_ns)),
    "times of files as they come": Leak(_times_as_they_come),
    "an exit code for a truncated record": Leak(_on_truncation(_end_with_three), "made long"),
    "a warning about a truncated record": Leak(
        _on_truncation(lambda: say("a record is longer than max_tokens")), "made long"
    ),
    "a warning about a row left out": Leak(_rows_named, "made broken"),
    "as many steps as there are units": Leak(_as_many_steps_as_units),
    "the real number of units in the divisor": Leak(_real_units_in_the_divisor),
    "totals of progress in the log": Leak(_totals_in_the_log),
}


def shortened(here: World, commands: str) -> World:
    """The world with those of its commands that a leak needs."""
    first = here.commands[0]
    short = {
        "init": (first,),
        "sanitize": (first, ["sanitize", "run.yaml", "--out", "run"]),
        "all": here.commands,
    }
    return replace(here, commands=short[commands])


def leaking(here: World, leak: Leak) -> list[str]:
    """What shows of a leak's change, with the leak planted for both data sets.

    Another neighbour is tried where one shows nothing: its unit may be one that is held out.
    """
    with leak.plant():
        seen, sums = play(here, here.rows)
        for seed in range(4):
            other, _ = play(here, neighbour(here, leak.change, seed), sums)
            if found := seen.differences(other):
                return found
    return []


FAST = (
    "the number of records printed",
    "the number of records in the manifest",
    "the training curve copied",
    "the context from the longest record",
    "languages set because of one record",
    "a time in a public file",
    "times of files as they come",
    "an exit code for a truncated record",
    "as many steps as there are units",
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in LEAKS]
)
def test_each_planted_leak_is_seen_and_nothing_without_it(name: str, tmp_path: Path) -> None:
    leak = LEAKS[name]
    here = shortened(world(tmp_path), leak.commands)
    assert leaking(here, leak) != []
    seen, sums = play(here, here.rows)  # the leak is gone
    other, _ = play(here, neighbour(here, leak.change, 1), sums)
    assert seen.differences(other) == []


@pytest.mark.slow
def test_the_doctor_replays_neighbours_and_fails_where_something_leaks() -> None:
    assert "the same to the byte" in replay()
    with LEAKS["a time in a public file"].plant(), pytest.raises(UserError, match=r"more.*became"):
        replay()


def test_a_difference_is_told_by_place_and_first_byte() -> None:
    one = Seen({"a": (0, b"same"), "b": (0, b"x" * 90 + b"1"), "c": (1, b"")})
    two = Seen({"a": (0, b"same"), "b": (0, b"x" * 90 + b"2"), "d": (1, b"")})
    b, c, d = one.differences(two)
    assert b.startswith("b: b'xxx")
    assert b.endswith("2'")
    assert (c, d) == ("c: is there only once", "d: is there only once")
    assert one.differences(Seen(dict(one.places))) == []
