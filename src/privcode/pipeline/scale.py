"""What the stages do through the engine of their config: sample, describe, run programs.

Promises:
- What the run made travels: adapters, and models that were tuned as a whole. What the config names
  (models, caches of the hub) must be on every machine under the same name.
- With no engine named, it is what one process does.

Does not: send a private record, or a file of `private/` but jft's first adapter, which exists only
for public data.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from privcode.cluster import Engine, Here, Workers, check_nodes
from privcode.config import Config
from privcode.execution import Limits, Outcome, Program, choose_sandbox, execute
from privcode.generation import Generator, Weights
from privcode.generation.backends import backend_of
from privcode.generation.settings import Sampled, Synthesize
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import asking_describer, describer, weights_of
from privcode.pipeline.preflight import refuse_machine
from privcode.plain import files_below
from privcode.scoring.settings import Evaluate
from privcode.validation.round_trip import Scorer, scorer

STAGES = ("synthesize", "validate", "evaluate")
"""The stages that use an engine."""

_KEPT: list[TemporaryDirectory[str]] = []  # what came with `_Sent`, as long as this process lives


def check(config: Config, todo: Sequence[str]) -> None:
    """Refuse a cluster that cannot be reached, or a machine of it on which a stage would fail.

    Raises:
        UserError: names the machine and what is wrong there.
    """
    if stages := [name for name in todo if name in STAGES]:
        check_nodes(config.scale, partial(refuse_machine, config, stages))


def generators(
    engine: Engine, run: RunDirectory, label: str, section: Synthesize | Evaluate, field: str
) -> AbstractContextManager[Workers[Generator]]:
    """Workers that sample from the model called `label`, with the backend that `section` names."""
    backend_of(section, field)
    weights, engine = weights_of(run, label), _for(section, engine)
    sent = weights if isinstance(engine, Here) else _Sent.of(weights, run.out)
    return engine.workers(partial(_generator, sent, section, field, run.answers))


def describers(
    engine: Engine, config: Config, answers: Path
) -> AbstractContextManager[Workers[Scorer]]:
    """Workers that score by the round trip of the config, which must have one."""
    trip = config.validate_.round_trip
    return _for(trip, engine).workers(partial(_scorer, config, answers))


def describing(
    engine: Engine, config: Config, answers: Path
) -> AbstractContextManager[Workers[Generator]]:
    """Workers that sample from the describer of the config, which must have one."""
    trip = config.validate_.round_trip
    return _for(trip, engine).workers(partial(describer, config, answers))


def _for(section: Sampled, engine: Engine) -> Engine:
    """The engine that holds a section's models. A server has them already: this process asks it."""
    return Here() if section.backend == "endpoint" else engine


def executing(engine: Engine) -> Callable[..., Iterator[Outcome]]:
    """`execute`, by the engine."""

    def run(
        programs: Iterable[Program],
        limits: Limits | None = None,
        *,
        sandbox: str = "auto",
        workers: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Outcome]:
        chosen = choose_sandbox(sandbox).name  # the same on every machine
        for outcome in engine.spread(partial(_executed, limits, chosen, workers), programs):
            if progress is not None:
                progress(1)
            yield outcome

    return run


def _executed(
    limits: Limits | None,
    sandbox: str,
    workers: int | None,
    programs: Iterable[Program],
    at_once: int | None,
) -> Iterator[Outcome]:
    return execute(programs, limits, sandbox=sandbox, workers=at_once or workers)


def _generator(
    sent: "Weights | _Sent", section: Synthesize | Evaluate, field: str, answers: Path
) -> Generator:
    weights = sent.unpacked() if isinstance(sent, _Sent) else sent
    return backend_of(section, field, answers)(weights, section.batch_size)


def _scorer(config: Config, answers: Path) -> Scorer:
    trip = config.validate_.round_trip
    return scorer(trip, describer(config, answers), asking_describer(config))


@dataclass(frozen=True)
class _Sent:
    """`Weights` with the content of the folders that the run made: folder -> file -> bytes."""

    weights: Weights
    folders: dict[str, dict[str, bytes]]

    @classmethod
    def of(cls, weights: Weights, out: Path) -> "_Sent":
        own = [path for path in (Path(weights.model), *weights.adapters) if _below(path, out)]
        return cls(
            weights,
            {str(at): {name: (at / name).read_bytes() for name in files_below(at)} for at in own},
        )

    def unpacked(self) -> Weights:
        """The weights, with these folders on this machine."""
        _KEPT.append(TemporaryDirectory(prefix="privcode-"))
        places: dict[str, Path] = {}
        for number, (folder, files) in enumerate(self.folders.items()):
            places[folder] = Path(_KEPT[-1].name) / str(number)
            for name, content in files.items():
                path = places[folder] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        model = self.weights.model
        return replace(
            self.weights,
            model=str(places.get(model, model)),
            adapters=tuple(places.get(str(path), path) for path in self.weights.adapters),
        )


def _below(path: Path, out: Path) -> bool:
    return path.is_dir() and path.resolve().is_relative_to(out.resolve())
