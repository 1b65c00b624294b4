"""Record and replay: is all that leaves `private/` post-processing of what the mechanism released?

The noised sums of one run are recorded. Then the whole pipeline, `init` to `verify`, runs on a
neighbouring data set, with the recorded sums in place of its own. Everything outside `private/`
should be a function of those sums, of public files and of what the owner declared. If so, it is the
same to the byte: what commands print, their exit codes, and names, contents, modes and times of
files. (The idea: record and replay, arXiv 2602.17454.)

Promises:
- Noise and sampling are cryptographic, as in any run. All other randomness comes from the config's
  seeds.
- Nothing of the pipeline but `dp_sgd.noised_sum` and `histogram.noised` is replaced.
- Commands run as a shell would run them with stdout and stderr in files, on the CPU. Each play runs
  at the same place and with a registry of its own.

Does not:
- Test the mechanism (`engine` does).
- See what a watcher sees while a stage runs.
- Compare the clock: how long a command takes depends on the data.
"""

import contextlib
import io
import json
import os
import random
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from privcode.doctor import expect
from privcode.doctor.neighbours import CHANGES
from privcode.exercises.corpus import prelude, private_records, public_prompts, tasks
from privcode.files import Row, write_jsonl, write_text
from privcode.models import load_tokenizer, loading
from privcode.pipeline.directory import Workspace
from privcode.privacy import histogram
from privcode.training import dp_sgd

UNITS = 12
"""Declared. About as many units are present."""

_PUBLIC = ("prompts.jsonl", "tasks.jsonl", "house.py", "run.yaml", "tiny")
_SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"on_bad_row": "skip"},
    "privacy": {"epsilon": None, "noise_multiplier": 1.0, "steps": 3, "batch": 4},
    "junior": {"model": "tiny", "max_tokens": 192, "lora": {"r": 2, "alpha": 4}},
    "premium": {"model": "tiny", "max_tokens": 192, "lora": {"r": 2, "alpha": 4}},
    "sanitize": {"checkpoint_every": 2, "micro_batch": 4, "learning_rate": 0.05},
    "synthesize": {"max_new_tokens": 24},
    "validate": {"execution": {"enabled": False}, "round_trip": {"threshold": -99.0}},
    "boost": {"epochs": 1, "batch_size": 4, "micro_batch": 4},
    "audit": {
        "repetitions": [1],
        "candidates": 2,
        "samples": 1,
        "max_new_tokens": 8,
        "holdout": 2,
        "gradient_canaries": 20,
        "coin_canaries": 4,
    },
}
_OWNED: dict[str, dict[str, Any]] = {
    "privacy": {"max_records_per_unit": 2},
    "sanitize": {"merge": True},
    "audit": {"candidates": 0},
}
_EXECUTING: dict[str, dict[str, Any]] = {  # programs that the bundled models write sometimes run
    "junior": {"model": "bundled:junior"},
    "premium": {"model": "bundled:premium"},
    "sanitize": {"learning_rate": 1e-4},
    "synthesize": {"max_new_tokens": 120, "temperature": 0.2},
    "validate": {"execution": {"enabled": True, "prelude": "house.py"}},
    "evaluate": {
        "tasks": [
            {
                "name": "house",
                "file": "tasks.jsonl",
                "prelude": "house.py",
                "instruction": "{problem}",
            }
        ],
        "max_new_tokens": 24,
    },
}
_STEERED: dict[str, dict[str, Any]] = {
    "prompts": {
        "limit": 40,
        "max_new_tokens": 16,
        "histogram": {"noise_multiplier": 1.0, "least": 1.0},
    },
}


@dataclass(frozen=True)
class World:
    """What two plays have in common: a folder with public files, and the commands.

    Attributes:
        folder: where all of it lies, for each play at the same place.
        owner: the column whose values are the units; None where each record is one.
        commands: run one after the other in `folder`.
        size: records of the original data set, before a change makes a neighbour of it.
    """

    folder: Path
    owner: str | None
    commands: Sequence[Sequence[str]]
    size: int = UNITS

    @property
    def rows(self) -> list[Row]:
        """The original data set, before any change. Without owners, it names languages."""
        rows: list[Row] = list(private_records(self.size, seed=1))
        if self.owner:
            for number, row in enumerate(rows):
                row[self.owner] = f"owner-{number // 2}"
                del row["language"]
        return rows


def world(
    folder: Path, owner: str | None = None, *, executes: bool = False, steered: bool = False
) -> World:
    """A world in `folder`, with all stages.

    What models write is run only if it `executes`. If it is `steered`, the junior writes the
    prompts, as many of each topic as a histogram says.
    """
    write_jsonl(folder / "prompts.jsonl", public_prompts(4, seed=1))
    write_jsonl(folder / "tasks.jsonl", tasks(1, seed=1))
    write_text(folder / "house.py", prelude())
    _tiny_model(folder / "tiny")
    settings = dict(_SETTINGS)
    extra = [(_OWNED, owner), (_EXECUTING, executes), (_STEERED, steered)]
    for more in (values for values, asked in extra if asked):
        settings |= {name: settings.get(name, {}) | values for name, values in more.items()}
    write_text(folder / "run.yaml", yaml.safe_dump({"extends": "privcode.yaml", **settings}))
    init = ["init", "private.jsonl", "--units", str(UNITS)]
    init += [] if steered else ["--prompts", "prompts.jsonl"]
    init += ["--unit", owner] if owner else []
    init += ["--tasks", "tasks.jsonl"] if executes else []
    commands = (
        [*init, "-o", "privcode.yaml"],
        ["plan", "run.yaml"],
        ["run", "run.yaml", "--out", "run"],
        ["release", "run"],
        ["verify", "run", "--json"],
        ["verify", "run/release", "--json"],
    )
    return World(folder, owner, commands)


def _tiny_model(folder: Path) -> None:
    """A random model of one layer: fast, and as good as any, because its sums are replaced."""
    tokenizer = load_tokenizer("bundled:junior")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Seen:
    """What somebody without access to `private/` sees of a play, by place: a command or a file."""

    places: Mapping[str, tuple[object, ...]]

    def differences(self, other: "Seen") -> list[str]:
        """The places that differ in `other`, each in one line."""
        names = sorted({*self.places, *other.places})
        found = []
        for name in names:
            one, two = self.places.get(name), other.places.get(name)
            if one != two:
                found.append(f"{name}: {_first_difference(one, two)}")
        return found


def play(
    world: World, rows: Sequence[Row], recorded: Sequence[torch.Tensor] | None = None
) -> tuple[Seen, list[torch.Tensor]]:
    """Run the commands on `rows`. Returns what is seen of it, and the noised sums.

    Args:
        world: where, and which commands; what an earlier play left there is removed.
        rows: the private data.
        recorded: noised sums that replace this play's own.
    """
    for path in world.folder.iterdir():
        if path.name not in _PUBLIC:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _write_rows(world.folder / "private.jsonl", rows)
    released: list[torch.Tensor] = []
    real, real_histogram = dp_sgd.noised_sum, histogram.noised
    waiting = None if recorded is None else iter(recorded)

    def noised_sum(clipped: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        own = real(clipped, noise)
        released.append(own.clone() if waiting is None else next(waiting).clone())
        return released[-1].clone()

    def noised(counts: np.ndarray, noise: np.ndarray) -> np.ndarray:
        own = torch.from_numpy(real_histogram(counts, noise))
        released.append(own.clone() if waiting is None else next(waiting).clone())
        found: np.ndarray = released[-1].numpy().copy()
        return found

    places: dict[str, tuple[object, ...]] = {}
    with (
        tempfile.TemporaryDirectory() as state,
        patch.dict(os.environ, {"PRIVCODE_STATE": state, "PRIVCODE_DEBUG": ""}),
        patch.object(loading, "device_here", lambda: "cpu"),  # elsewhere bits may differ by chance
        patch.object(os, "sync", lambda: None),  # it waits for the files of all processes
        patch.object(dp_sgd, "noised_sum", noised_sum),
        patch.object(histogram, "noised", noised),
        contextlib.chdir(world.folder),
        _same_generators(),
    ):
        for command in world.commands:
            places[f"privcode {' '.join(command)}"] = _said(command)
    places |= _files(world.folder, {*_PUBLIC, "private.jsonl"})
    return Seen(places), released


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """JSON Lines of rows that may hold half a surrogate pair."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextlib.contextmanager
def _same_generators() -> Iterator[None]:
    """Restore the global generators, which stages seed for themselves."""
    kept, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(numbers)


def _said(command: Sequence[str]) -> tuple[object, ...]:
    """(exit code, stdout, stderr) of a command in this process, and of what it starts."""
    from privcode.cli import main

    code: object = 0
    opened: list[Workspace] = []
    real = Workspace._claim

    def claim(workspace: Workspace, config: Any) -> None:
        opened.append(workspace)
        real(workspace, config)

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with (
            _redirected("stdout", 1, out),
            _redirected("stderr", 2, err),
            patch.object(sys, "argv", ["privcode", *command]),
            patch.object(Workspace, "_claim", claim),
        ):
            try:
                main()
            except SystemExit as end:
                code = end.code
        for workspace in opened:  # as at the end of a process
            workspace.close()
        out.seek(0)
        err.seek(0)
        return code or 0, out.read(), err.read()


@contextlib.contextmanager
def _redirected(name: str, descriptor: int, to: Any) -> Iterator[None]:
    """Redirect Python's stream and the system's into one file."""
    kept = os.dup(descriptor)
    text = io.TextIOWrapper(os.fdopen(os.dup(to.fileno()), "wb"), "utf-8", write_through=True)
    os.dup2(to.fileno(), descriptor)
    try:
        with patch.object(sys, name, text):
            yield
    finally:
        text.close()
        os.dup2(kept, descriptor)
        os.close(kept)


def _files(folder: Path, without: set[str]) -> dict[str, tuple[object, ...]]:
    """By name below `folder`: kind, mode, time and content. Nothing below a `private`."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if parts[0] in without or "private" in parts[:-1]:
            continue
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        found["/".join(parts)] = (facts.st_mode, facts.st_mtime_ns, facts.st_nlink, content)
    return found


def _first_difference(one: tuple[object, ...] | None, two: tuple[object, ...] | None) -> str:
    if one is None or two is None:
        return "is there only once"
    for a, b in zip(one, two, strict=True):
        if isinstance(a, bytes) and isinstance(b, bytes) and a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
            start = max(at - 40, 0)
            return f"{a[start : at + 60]!r} became {b[start : at + 60]!r}"
        if a != b:
            return f"{a} became {b}"
    return "the same"


def neighbour(world: World, change: str, seed: int) -> list[Row]:
    """The world's data set with one unit changed."""
    rows = world.rows
    CHANGES[change](rows, random.Random(f"{change} {seed}"), world.owner)
    return rows


def replay() -> str:
    """Play a few neighbours, from `init` to `verify`."""
    with tempfile.TemporaryDirectory() as folder:
        here = world(Path(folder))
        seen, sums = play(here, here.rows)
        failed = [
            name for name, said in seen.places.items() if said[0] and name.startswith("privcode ")
        ]
        expect(not failed, f"{', '.join(failed)}: fails on the data as they are")
        chosen = ("removed", "made long", "made broken")
        for number, change in enumerate(chosen):
            other, _ = play(here, neighbour(here, change, number), sums)
            found = seen.differences(other)
            expect(not found, f"one unit {change} shows outside private/: {found[:1]}")
    return (
        f"one unit {', '.join(chosen)}: what {len(here.commands)} commands say and "
        f"{len(seen.places) - len(here.commands)} files outside private/ are the same to the byte"
    )
