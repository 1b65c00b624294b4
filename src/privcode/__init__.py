"""Private code in, a synthetic data set and a tuned model out, under (ε, δ)-differential privacy.

    config = privcode.load_config("privcode.yaml")
    print(privcode.plan(config).cost())
    with privcode.Run(config, Path("runs/mine")) as run:
        run.all()

Promises: these six names, and `__version__`. Each is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privcode.config import load_config
    from privcode.config import plan_of as plan
    from privcode.execution import execute
    from privcode.experiments.compare import compare
    from privcode.pipeline.run import Run
    from privcode.scoring.evaluation import score

    __version__: str

__all__ = ["Run", "__version__", "compare", "execute", "load_config", "plan", "score"]
_PLACES = {
    "load_config": ("privcode.config", "load_config"),
    "plan": ("privcode.config", "plan_of"),
    "Run": ("privcode.pipeline.run", "Run"),
    "compare": ("privcode.experiments.compare", "compare"),
    "execute": ("privcode.execution", "execute"),
    "score": ("privcode.scoring.evaluation", "score"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("privcode")
    if name not in _PLACES:
        raise AttributeError(f"module 'privcode' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
