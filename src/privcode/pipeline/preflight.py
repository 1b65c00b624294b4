"""What the stages of a config need beside private records: files, models, tools, a sandbox.

Promises: `refuse_early` finds what is missing before budget is spent on an earlier stage.
Does not: read private records.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from privcode.audit.attacks import named_attacks
from privcode.config import Config, plan_of
from privcode.data.masking import need_detectors
from privcode.data.prompts import prompts_of
from privcode.errors import UserError
from privcode.execution import Limits, Program, execute, unsupported, wrong_names
from privcode.files import CODE, read_bytes, read_text
from privcode.generation.backends import backend_of
from privcode.generation.settings import Sampled
from privcode.models import facts
from privcode.pipeline.models import asked_there
from privcode.privacy.registry import check
from privcode.scoring import Task, load_tasks
from privcode.scoring.settings import Evaluate, TaskFile
from privcode.validation.filters import named_filters
from privcode.validation.settings import Execution


def refuse_early(config: Config, todo: Sequence[str]) -> None:
    """Refuse what a stage to do would refuse, before budget is spent on an earlier one."""
    refuse_endpoints(config)
    if "pretune" in todo:
        need_detectors()

    if "sanitize" in todo and not config.data.public:
        check()
    if "audit" in todo:
        named_attacks(config.audit.attacks)
    if "synthesize" in todo:
        prompts_of(config.prompts)
    if "validate" in todo:
        named_filters(config.validate_.filters)
        if config.validate_.execution.enabled:
            text_of(config.validate_.execution.prelude)
            beside(config.validate_.execution, config.data.language)
    if "evaluate" in todo:
        for file in config.evaluate.tasks:
            tasks_of(file)
            text_of(file.prelude)
    refuse_machine(config, todo)


def refuse_machine(config: Config, todo: Sequence[str]) -> None:
    """Refuse a machine that cannot do its part of the stages.

    Of the files that a config names, only models need to be there.

    Raises:
        UserError: a backend, a model, a sandbox or what a language needs is missing.
    """
    execution = config.validate_.execution
    if "synthesize" in todo:
        backend_of(config.synthesize, "synthesize")
    if {"synthesize", "validate"} & {*todo} and config.describer:
        trip = config.validate_.round_trip
        backend_of(trip, "validate.round_trip")
        if not asked_there(trip, config.describer):
            facts.check_template(config.describer, "validate.round_trip")
    if "validate" in todo and execution.enabled:
        _trial_program(execution)
        language = config.data.language or "python"
        if reason := unsupported(language, execution.sandbox):
            raise UserError(f"data.language {language}: {reason}")
    if "evaluate" in todo:
        backend_of(config.evaluate, "evaluate")
        _trial_program(config.evaluate)
    if todo:
        refuse_models(config)


def refuse_endpoints(config: Config) -> None:
    """Refuse to show anything to a server that may not be shown to anybody.

    Public prompts go to a server, and with them what the DP model has answered. This is
    post-processing, so it needs the guarantee that a release needs. One trial of a sweep has none:
    the sweep pays for showing the best alone.
    """
    sections: dict[str, Sampled] = {
        "synthesize": config.synthesize,
        "validate.round_trip": config.validate_.round_trip,
        "evaluate": config.evaluate,
    }
    asks = [name for name, section in sections.items() if section.backend == "endpoint"]
    if not asks or config.data.public:
        return
    plan, why = plan_of(config), ""
    if math.isinf(plan.cost().epsilon):
        why = "has no guarantee (epsilon is infinite)"
    elif plan.reproducible_seed is not None:
        why = "has reproducible noise, which whoever knows the seed can take away"
    elif plan.trials:
        why = "is one trial of a sweep, which pays for showing the best alone"
    if why:
        raise UserError(
            f"{asks[0]}.backend: is endpoint, and the run {why}, so nothing of it may be sent to a "
            "server; choose local or vllm"
        )


def refuse_models(config: Config) -> None:
    """Refuse a model that a later stage would refuse."""
    facts.check(config.junior, "junior")
    facts.check(config.premium, "premium")


def _trial_program(section: Execution | Evaluate) -> None:
    """Refuse a sandbox that does not work here, or modules that cannot be preloaded."""

    memory = section.memory_mb or Limits.memory_mb
    limits = Limits(memory_mb=memory, preload=tuple(section.preload))
    list(execute([Program("trial", "")], limits, sandbox=section.sandbox, workers=1))


def tasks_of(file: TaskFile) -> list[Task]:
    """The tasks that a config names."""

    return load_tasks(file.file, file.format, stdlib_only=file.stdlib_only)


def beside(section: Execution, language: str | None = None) -> dict[str, bytes]:
    """The files that lie next to every program of `language`: name -> content."""

    found: dict[str, bytes] = {}
    for path in map(Path, section.files):
        if path.name in found:
            raise UserError(f"validate.execution.files: two are called {path.name}; rename one")
        try:
            found[path.name] = read_bytes(path, Limits.files_mb << 20, unpack=False)
        except UserError as error:
            raise UserError(f"validate.execution.files: {error}; give a file") from error
    if wrong := wrong_names(found, language or "python"):
        raise UserError(f"validate.execution.files: {wrong}")
    return found


def text_of(name: str | None) -> str:
    """The text of a file that a config may name."""
    return "" if name is None else read_text(Path(name), CODE)
