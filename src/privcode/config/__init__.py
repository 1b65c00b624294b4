"""The configuration of a run: YAML in, checked values out.

Promises: unknown keys and wrong values are refused in one line that names the field.
Does not: declare the sections. Each is declared in a `settings.py` next to the code it configures.
"""

from privcode.config.loading import (
    digest,
    dump_config,
    load_config,
    parse_config,
    with_settings,
)
from privcode.config.schema import Config, not_public, plan_from, plan_of
from privcode.config.several import Ablation, Compare, Compared, Method, Score, Sweep

__all__ = [
    "Ablation",
    "Compare",
    "Compared",
    "Config",
    "Method",
    "Score",
    "Sweep",
    "digest",
    "dump_config",
    "load_config",
    "not_public",
    "parse_config",
    "plan_from",
    "plan_of",
    "with_settings",
]
