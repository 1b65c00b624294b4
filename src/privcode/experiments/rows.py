"""The rows of a comparison, kept: one file an arm, written when the arm ends.

Promises:
- A kept row stands for its arm: it is used if the arm has the settings that it had then, also when
  its run is gone. So the rows can be copied to another machine, and the comparison goes on there.
- A row of other settings, or a file that was changed, is refused in one line.
- A row holds what results.json holds, and no path.

Does not: know whether the files that a config names are the same there. They go by their names.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privcode.config import Config
from privcode.errors import UserError
from privcode.fields import Section
from privcode.files import read_sealed, write_sealed
from privcode.pipeline.arms import Arm

FOLDER = "rows"
"""In the directory of a comparison."""


def identity(config: Config) -> str:
    """SHA-256 of the settings of a run that differ from the defaults.

    It is the same on every machine, and for a later privcode with more settings. A file goes by
    the last part of its name. Where the work is done (`scale`) is left out.
    """
    values = _chosen(config)
    values.pop("scale", None)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _chosen(value: Any) -> Any:
    if isinstance(value, Section):
        fields = {
            name: (field, getattr(value, name)) for name, field in type(value).model_fields.items()
        }
        return {
            name: _chosen(found)
            for name, (field, found) in fields.items()
            if field.is_required() or found != field.get_default(call_default_factory=True)
        }
    if isinstance(value, Mapping):
        return {key: _chosen(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [_chosen(found) for found in value]
    named = isinstance(value, str) and value.startswith(
        ("/", "./", "../")
    )  # not the hub's ORG/NAME
    return Path(value).name if named else value


def kept_row(out: Path, name: str, arm: Arm) -> dict[str, Any] | None:
    """What `keep_row` kept for this arm: {"row", "seconds"}. None if the arm has not ended.

    Raises:
        UserError: the file was changed, is something else, or is of other settings.
    """
    path = _path(out, name)
    if not path.exists():
        return None
    kept = read_sealed(path)
    if set(kept) != {"settings", "row", "seconds", "digest"} or not isinstance(kept["row"], dict):
        raise UserError(f"{path}: is no row of a comparison; remove it to run arm {name} again")
    if kept["settings"] != identity(arm.config):
        raise UserError(
            f"{path}: is of other settings than arm {name} has now; remove it to run the arm "
            "again, or choose another --out"
        )
    return {"row": {**kept["row"], "grid": arm.grid}, "seconds": kept["seconds"]}


def keep_row(out: Path, name: str, arm: Arm, row: Mapping[str, Any], seconds: float | None) -> None:
    """Keep the row of an arm that has ended.

    Args:
        out: directory of the comparison.
        name: the arm's.
        arm: whose.
        row: see `pipeline.arms.row`.
        seconds: what those of its stages took that it did not take from another arm. None: private.
    """
    told = {key: value for key, value in row.items() if key != "grid"}  # may hold paths
    path = _path(out, name)
    path.parent.mkdir(exist_ok=True)
    write_sealed(path, {"settings": identity(arm.config), "row": told, "seconds": seconds})


def _path(out: Path, name: str) -> Path:
    return out / FOLDER / f"{name}.json"
