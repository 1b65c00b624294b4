"""Where everything of a run lies, and what the config says of it.

Promises: only this module and `directory` know the paths of a run; opening a run to look at it
makes, locks and writes nothing.
Does not: do a stage (`stages`), or go from one to the next (`run`).
"""

from pathlib import Path
from typing import Self

from privcode.config import Config, load_config, plan_of
from privcode.data.prompts import prompts_of
from privcode.data.texts import Texts
from privcode.errors import UserError
from privcode.pipeline.directory import Workspace
from privcode.pipeline.methods import stages_of
from privcode.plain import files_below, read_plain

CONFIG_LIMIT = 4 * 2**20
"""Bytes of a run's config.yaml."""


class RunDirectory(Workspace):
    """A run's directory with the names of all that is in it.

    Attributes:
        config: the run's, as config.yaml holds it.
        plan: the privacy plan that it asks for.
        stages: the names of the run's stages, in order.
        ledger: what was spent.
        junior: the adapter of the tuned junior.
        premium: the adapter of the tuned premium model, or the whole model.
        sanitized: whichever of the two DP-SGD tunes.
        pretuned: jft's first adapter, in `private/`.
        histogram: the noised histogram of topics, if the config asks for one.
        written: what the junior wrote after the public opening, until `raw` is there.
        raw: all synthetic samples.
        accepted: those that the filters kept.
        verdicts: what the filters said of each, in `private/`.
        answers: what a server has answered, in `private/`, until the stage that asked is done.
        evaluation: folder of the figures that may be shown.
        bundle: what may be handed on.
    """

    def __init__(self, config: Config, out: Path, *, look: bool = False) -> None:
        """Open or make the run directory; see `Workspace`."""
        self.plan = plan_of(config)
        super().__init__(config, out, look=look)
        self.config = config
        self.ledger = self.private / "ledger.jsonl"
        self.junior = out / "models" / "junior"
        self.premium = out / "models" / "premium"
        self.sanitized = self.junior if config.sanitized is config.junior else self.premium
        self.pretuned = self.private / "pretuned"
        self.histogram = out / "synthetic" / "histogram.json"
        self.written = out / "synthetic" / ".written.jsonl"
        self.raw = out / "synthetic" / "raw.jsonl"
        self.accepted = out / "synthetic" / "accepted.jsonl"
        self.verdicts = self.private / "verdicts.jsonl"
        self.answers = self.private / ".answers.jsonl.partial"
        self.evaluation = out / "evaluation"
        self.bundle = out / "release"
        self.stages = stages_of(config)

    @classmethod
    def open(cls, out: Path, *, look: bool = False) -> Self:
        """The run in an existing directory; with `look` nothing in it is made, locked or written.

        Raises:
            UserError: there is none, or something in it is no plain file.
        """
        if not (out / "config.yaml").exists():
            raise UserError(f"{out}: is not a run directory; start one with privcode run CONFIG")
        files_below(out)
        read_plain(out / "config.yaml", CONFIG_LIMIT)
        return cls(load_config(out / "config.yaml"), out, look=look)

    def prompts(self) -> Texts:
        """The public prompts. Empty if the run writes its prompts."""
        return prompts_of(self.config.prompts)
