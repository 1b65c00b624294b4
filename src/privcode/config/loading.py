"""A config from YAML and back: files that extend one another, file names, errors by field.

Promises: unknown keys and wrong values are refused in one line that names the field.
Does not: read data or models.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from privcode.cluster.settings import Scale
from privcode.config.schema import Config
from privcode.config.yaml_file import read_yaml
from privcode.data.rows import located
from privcode.errors import UserError

_MOST_FILES = 16  # files that extend one another


def parse_config(values: Any, name: str = "config") -> Config:
    """Check plain values.

    Raises:
        UserError: one line that names the first wrong field and what it should be.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(_tellable, first["loc"])) or "the whole"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        reason = {
            "extra_forbidden": "is not a setting; check the spelling against privcode init",
            "missing": "is missing; add it",
        }.get(first["type"], first["msg"].removeprefix("Value error, "))
        if first["input"] == "CHANGE_ME":  # as `privcode init` writes it
            reason = f"is CHANGE_ME, where only you can decide ({reason})"
        raise UserError(f"{name}, field {field}: {reason}{more}") from None


def _tellable(part: str | int) -> str:
    """A part of a field's name if it looks like one. What is given as settings may be a record."""
    return str(part) if re.fullmatch(r"[\w.-]{1,60}", str(part)) else "(a long name)"


def with_settings(config: Config, settings: Mapping[str, Any], where: str) -> Config:
    """`config` with these settings: dotted field -> value.

    Raises:
        UserError: there is no such field, or the value is wrong. Begins with `where`.
    """
    values = config.model_dump(by_alias=True)
    for field, value in settings.items():
        *sections, name = field.split(".")
        section: Any = values
        for step in sections:
            section = section.get(step) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            raise UserError(f"{where}, {field}: is not a setting; check the spelling")
        section[name] = value
    return parse_config(values, where)


def load_config(path: Path | str) -> Config:
    """Read a YAML file. If it has a line `extends: FILE`, read it on top of FILE.

    Mappings are merged. Any other value replaces the value in FILE. Relative file names start from
    the directory of the file at `path`, also the names in a file that it extends. The name FILE
    itself starts from the directory of the file that names it.

    Raises:
        UserError: a file is missing, is not YAML or extends itself, or a field is wrong.
    """
    path = Path(path)
    values, files = _read(path, ())
    name = " over ".join(map(str, files))
    config = parse_config(values, name)
    rooted = config.model_copy(update=_rooted(config, Path(os.path.realpath(path.parent))))
    return parse_config(rooted.model_dump(by_alias=True), name)  # one file may have had two names


def _read(path: Path, above: tuple[Path, ...]) -> tuple[Any, tuple[Path, ...]]:
    """Plain values, and the files that they come from. The files in `above` extend this one."""
    values = read_yaml(path)
    files = (*above, path)
    if not isinstance(values, dict) or "extends" not in values:
        return values, files
    name = values.pop("extends")
    if not isinstance(name, str) or "\0" in name:
        raise UserError(f"{path}, field extends: must be the name of one file")
    base = path.parent / name
    if os.path.realpath(base) in map(os.path.realpath, files):
        raise UserError(f"{path}, field extends: {name} extends this file in turn; name another")
    if len(files) > _MOST_FILES:
        raise UserError(f"{path}, field extends: over {_MOST_FILES} files extend others; use fewer")
    under, files = _read(base, files)
    if not isinstance(under, dict):
        raise UserError(f"{base}: holds no settings, so nothing can extend it")
    return _over(under, values), files


def _over(under: dict[Any, Any], values: dict[Any, Any]) -> dict[Any, Any]:
    """`values` on top of `under`, merged mapping by mapping."""
    merged = dict(under)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = _over(under[key], value) if both else value
    return merged


def _rooted(config: Config, root: Path) -> dict[str, Any]:
    """The sections whose relative file names exist next to the config file, made absolute."""

    def at(name: str | None) -> str | None:
        return str(root / name) if name and os.path.exists(root / name) else name

    execution, trip = config.validate_.execution, config.validate_.round_trip
    return {
        "data": config.data.model_copy(update={"source": located(config.data.source, root)}),
        "prompts": config.prompts.model_copy(
            update={"file": config.prompts.file and located(config.prompts.file, root)}
        ),
        "junior": config.junior.model_copy(update={"model": at(config.junior.model)}),
        "premium": config.premium.model_copy(update={"model": at(config.premium.model)}),
        "validate_": config.validate_.model_copy(
            update={
                "execution": execution.model_copy(
                    update={
                        "prelude": at(execution.prelude),
                        "files": [at(name) for name in execution.files],
                    }
                ),
                "round_trip": trip.model_copy(
                    update={
                        "describer": at(trip.describer),
                        "similarity_model": at(trip.similarity_model),
                    }
                ),
            }
        ),
        "evaluate": config.evaluate.model_copy(
            update={
                "tasks": [
                    t.model_copy(update={"file": located(t.file, root), "prelude": at(t.prelude)})
                    for t in config.evaluate.tasks
                ]
            }
        ),
    }


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML. `load_config` reads it back to the same values.

    The section scale is left out where it has its defaults, as before there was one.
    """
    values = config.model_dump(mode="python", by_alias=True)
    if config.scale == Scale():
        del values["scale"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def digest(config: Config) -> str:
    """SHA-256 of all settings, as a run and a sweep keep them in a file."""
    return hashlib.sha256(dump_config(config).encode()).hexdigest()
