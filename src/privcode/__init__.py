"""Private code in, a synthetic data set and a tuned model out, under (ε, δ)-differential privacy.

    config = privcode.load_config("privcode.yaml")
    print(privcode.plan(config).cost())
    privcode.Run(config, Path("runs/mine")).all()

Promises: these three names, and `__version__`. Everything is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privcode.config import load_config
    from privcode.config import plan_of as plan
    from privcode.pipeline.run import Run

    __version__: str

__all__ = ["Run", "__version__", "load_config", "plan"]


def __getattr__(name: str) -> Any:
    if name == "load_config":
        from privcode.config import load_config

        return load_config
    if name == "plan":
        from privcode.config import plan_of

        return plan_of
    if name == "Run":
        from privcode.pipeline.run import Run

        return Run
    if name == "__version__":
        from importlib.metadata import version

        return version("privcode")
    raise AttributeError(f"module 'privcode' has no attribute {name!r}")
