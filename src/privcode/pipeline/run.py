"""A run: the stages of its method, in order, over one directory.

Promises: one stage begins when those before it are done and unchanged; after `sanitize`, a run of
the method itself reads no private record, but for the audit's membership inference, which is
internal. The methods that it is compared with (`config.method`) are the same stages put together
differently (`methods`).
Does not: do a stage; each does its own work.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privcode.console import say
from privcode.distributed import from_first
from privcode.errors import UserError
from privcode.files import settle, write_text
from privcode.generation.backends import free
from privcode.pipeline import scale
from privcode.pipeline.budget import SWEEP, check_selected, sweep_of
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.preflight import refuse_early, refuse_endpoints, refuse_models
from privcode.pipeline.results import evidence, pairs_in, verify
from privcode.pipeline.stages import STAGES
from privcode.release.page import page
from privcode.release.stated import public
from privcode.release.verify import release


class Run(RunDirectory):
    """The stages of one run in one directory. Each can be killed and called again."""

    def all(self) -> None:
        """Every stage that is not done yet."""
        self._check()
        for name in self.stages:
            self.do(name)

    def do(self, name: str) -> None:
        """The stage called `name`, unless it is done.

        Raises:
            UserError: the run has no such stage, one before it is not done, or what that wrote was
                changed since.
        """
        stage = STAGES[name]
        refuse_endpoints(self.config)
        stage.check(self)
        if name == "sanitize" and name not in self.done():
            from_first(lambda: refuse_models(self.config))  # all, before budget is spent
        before, made = self._before(name), stage.made(self)
        with self.stage(name, before, stage.outputs(self)) as needed:
            if not needed:
                return
            try:
                made = stage.work(self)
            finally:
                free()
            self.answers.unlink(missing_ok=True)
        stage.done(self)
        self._next(name, made)

    def take_over(self, donor: Path, stages: Sequence[str]) -> None:
        """Copy stages that the run in `donor` has done with the same settings; nothing is spent.

        Its ledger comes along under its own name, so that budget counts once.

        Raises:
            UserError: what they wrote was changed since.
        """
        private = [name for stage in stages for name in STAGES[stage].private]
        self.copy_stages(donor, stages, private)

    def report(self) -> Path:
        """Write report.html.

        Raises:
            UserError: a stage is not done.
        """

        self._finished()
        self._refuse_changed(self.done(), [self.evaluation, self.raw, self.accepted])
        path = self.out / "report.html"
        write_text(path, page(public(evidence(self), str(self.out))))
        self.note("report", self.hashes([path]))
        return path

    def release(
        self, *, allow_reproducible_noise: bool = False, license: str | None = None
    ) -> dict[str, Any]:
        """Bundle what may leave the building in release/; returns its privacy.json.

        Raises:
            UserError: a stage is not done, what it wrote was changed, or the run has no guarantee.
        """

        if self.config.method != "privcode":
            raise UserError(
                f"{self.out}: its method is {self.config.method}; only a privcode run is released"
            )
        if self.plan.trials and (self.out.parent / SWEEP).exists():
            raise UserError(
                f"{self.out}: is one trial of a sweep, of which only the best is released; let "
                f"privcode sweep finish, and release {self.out.parent.parent / 'best'}"
            )
        if self.plan.trials:
            check_selected(self.out)
        self._finished()
        verify(self)
        folder = f"{self.premium.relative_to(self.out)}/"
        model = {
            name.removeprefix(folder): digest
            for name, digest in self.done()["boost"]["outputs"].items()
            if name.startswith(folder)
        }
        facts = release(
            evidence(self),
            pairs_in(self.accepted),
            self.premium,
            model,
            self.bundle,
            allow_reproducible_noise=allow_reproducible_noise,
            license=license,
        )
        settle(self.out)
        return facts

    def _before(self, name: str) -> list[Path]:
        """What stage `name` reads of the run; it is refused before the stages that make it."""
        stages = self.stages
        if name not in stages:
            raise UserError(
                f"{self.out}: its method, {self.config.method}, has no stage {name}; "
                f"it has {', '.join(stages)}"
            )
        inputs = []
        for earlier in stages[: stages.index(name)]:
            if not STAGES[earlier].passed_on:
                continue
            if earlier not in self.done():
                raise UserError(
                    f"{self.out}: {earlier} is not done; run privcode {earlier} {self.out}"
                )
            inputs.append(STAGES[earlier].made(self))
        if name == "synthesize":
            inputs.append(self.histogram)  # sanitize makes it too, if the config asks for it
        return [path for path in inputs if not path.is_relative_to(self.private)]

    def _check(self) -> None:
        if "sanitize" in (todo := [name for name in self.stages if name not in self.done()]):
            sweep_of(self.config, self.plan, self.ledger)
        refuse_early(self.config, todo)
        scale.check(self.config, todo)

    def _finished(self) -> None:
        for name in self.stages:
            if name not in self.done():
                raise UserError(f"{self.out}: {name} is not done; run privcode run {self.out}")

    def _next(self, name: str, output: Path) -> None:
        after = self.stages[self.stages.index(name) + 1 :]
        step = f"privcode {after[0]} {self.out}" if after else f"privcode report {self.out}"
        say(f"{name}: {output}; next: {step}")
