"""A run: the stages of the method, in order, over one directory.

Promises: only this module and `workspace` know paths; what is computed from private records goes
to `private/` and nowhere else; after `sanitize`, a run of the method itself reads no private
record, but for the audit's membership inference, which is internal. The methods that it is
compared with (`config.method`) are the same stages put together differently.
Does not: train or judge; the stages do.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privcode.config import Config, load_config, plan_of
from privcode.console import epsilon_text, progress_bar, say, say_private
from privcode.data.masking import mask
from privcode.distributed import from_first, rank
from privcode.errors import UserError
from privcode.files import read_jsonl, settle, write_json, write_jsonl, write_text
from privcode.pipeline.budget import SWEEP, begin, check_selected, sweep_of
from privcode.pipeline.directory import Workspace
from privcode.pipeline.models import (
    answers_of,
    certainty,
    generator_of,
    merge,
    merged,
    rendered,
    sampling_of,
    trainable,
)
from privcode.pipeline.preflight import beside, refuse_early, tasks_of, text_of
from privcode.pipeline.private import DataIdentity, private_records
from privcode.plain import files_below, read_plain
from privcode.privacy.accounting import unit_words
from privcode.privacy.ledger import Ledger

if TYPE_CHECKING:
    from privcode.training.gradient_canaries import GradientCanaries

STAGES = {
    "privcode": ("sanitize", "synthesize", "validate", "boost", "evaluate", "audit"),
    "base": ("evaluate",),
    "control": ("synthesize", "validate", "boost", "evaluate", "audit"),
    "dpft": ("sanitize", "evaluate", "audit"),
    "jft": ("pretune", "sanitize", "evaluate", "audit"),
    "nondpft": ("boost", "evaluate", "audit"),
}
"""What each method does. The first is the product; the others are its baselines."""

CONFIG_LIMIT = 4 * 2**20
"""Bytes of a run's config.yaml."""

PRIVATE_OUTPUTS = {
    "sanitize": ("ledger.jsonl", "data.json", "curve.jsonl", "gradient_canaries.json"),
    "validate": ("verdicts.jsonl",),
}
"""What stages leave in `private/` for later ones and for the run's figures."""


def stages_of(config: Config) -> tuple[str, ...]:
    """The names of a run's stages, in order."""
    return tuple(
        name
        for name in STAGES[config.method]
        if (name != "audit" or config.audit.repetitions or config.audit.holdout or coins(config))
        and (name != "evaluate" or config.evaluate.tasks)
    )


def coins(config: Config) -> bool:
    """Whether the audit bounds ε from below."""
    trained = "sanitize" in STAGES[config.method]
    return bool(config.audit.coin_canaries or (trained and config.audit.gradient_canaries))


class Run(Workspace):
    """The stages of one run in one directory. Each can be killed and called again."""

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
        self.raw = out / "synthetic" / "raw.jsonl"
        self.accepted = out / "synthetic" / "accepted.jsonl"
        self.verdicts = self.private / "verdicts.jsonl"
        self.evaluation = out / "evaluation"
        self.bundle = out / "release"
        self.stages = stages_of(config)

    @classmethod
    def open(cls, out: Path, *, look: bool = False) -> "Run":
        """The run in an existing directory; with `look` nothing in it is made, locked or written.

        Raises:
            UserError: there is none, or something in it is no plain file.
        """
        if not (out / "config.yaml").exists():
            raise UserError(f"{out}: is not a run directory; start one with privcode run CONFIG")
        files_below(out)
        read_plain(out / "config.yaml", CONFIG_LIMIT)
        return cls(load_config(out / "config.yaml"), out, look=look)

    def all(self) -> None:
        """Every stage that is not done yet."""
        self._check()
        for name in self.stages:
            getattr(self, name)()

    def take_over(self, donor: Path, stages: Sequence[str]) -> None:
        """Copy stages that the run in `donor` has done with the same settings; nothing is spent.

        Its ledger comes along under its own name, so that budget counts once.

        Raises:
            UserError: what they wrote was changed since.
        """
        private = [name for stage in stages for name in PRIVATE_OUTPUTS.get(stage, ())]
        self.copy_stages(donor, stages, private)

    def sanitize(self) -> None:
        """Stage 1: tune the junior on the private records under the plan (dpft: the premium)."""
        from privcode.data.prompts import private_prompts
        from privcode.models import load_tokenizer, save_model
        from privcode.pipeline.spending import overlaps, runs_beside
        from privcode.training.dp_sgd import Settings, by_unit, encode, sanitize, try_out

        section, output = self.config.sanitized, self.sanitized
        before, checkpoint = self._before("sanitize"), self.private / ".sanitize.partial"
        with self.stage("sanitize", before, [output, merged(output)]) as needed:
            if not needed:
                return
            settings, syntax = self.config.sanitize, self.config.sanitize.syntax
            records, counts, data = private_records(self.config)
            say_private(lambda: private_prompts(self._prompts(), (r.prompt for r in records)))
            tokenizer = load_tokenizer(section.model)
            model = trainable(self)
            examples, cut = [], 0
            with progress_bar("read", len(records), counted=False) as progress:
                for record in records:
                    example, truncated = encode(
                        record,
                        rendered(section, record.prompt),
                        tokenizer,
                        section.max_tokens,
                        syntax=syntax.schedule != "off",
                    )
                    examples.append(example)
                    cut += truncated
                    progress(1)
            canaries = self._gradient_canaries(model)
            chosen = Settings(
                learning_rate=settings.learning_rate,
                schedule=settings.schedule,
                warmup_steps=settings.warmup_steps,
                weight_decay=settings.weight_decay,
                micro_batch=settings.micro_batch,
                max_tokens=section.max_tokens,
                checkpoint_every=settings.checkpoint_every,
                syntax=syntax.schedule,
                lambda_max=syntax.lambda_max,
                lambda_min=syntax.lambda_min,
                lambda_decay=syntax.decay,
            )
            grouping = try_out(model, self.plan.clipper(model), tokenizer.pad_token_id, chosen)
            first = rank() == 0
            from_first(lambda: self._begin(data))
            ledger = Ledger(self.ledger)  # whole by now: the first rank has mended and begun it
            if first:
                counts["truncated"] = cut
                write_json(self.private / "data.json", counts, mode=0o600)
            if first and (others := runs_beside(self, data)):
                charge = self.plan.charge([other.spent for other in others.values()])
                say_private(lambda: "\n".join(f"sanitize: {line}" for line in overlaps(others)))
                say(
                    charge.words
                    or f"sanitize: {len(others)} other run(s) spent budget on these data; all of "
                    f"them count: together ε = {epsilon_text(charge.cost.epsilon)}"
                )
            with progress_bar("sanitize", self.plan.steps) as progress:
                curve = sanitize(
                    model,
                    tokenizer.pad_token_id,
                    examples,
                    by_unit(records),
                    self.plan,
                    chosen,
                    ledger,
                    checkpoint,
                    progress,
                    canaries,
                    grouping,
                )
            if first:
                if canaries is not None:
                    coins, scores = canaries.included.tolist(), canaries.scores.tolist()
                    kept = {"included": coins, "scores": scores}
                    write_json(self.private / "gradient_canaries.json", kept, mode=0o600)
                write_jsonl(self.private / "curve.jsonl", curve, mode=0o600)
                save_model(model, output, base=section.model)
                if settings.merge:
                    merge(self, "tuned" if output == self.premium else "junior", output)
        if rank() == 0:
            checkpoint.unlink(missing_ok=True)  # not before the stage is noted
            settle(self.out)
        self._next("sanitize", output)

    def _begin(self, data: DataIdentity) -> None:
        """Begin the ledger, or go on with it, unless that would spend budget for no guarantee."""
        from privcode.pipeline.spending import spent_beside

        for other in spent_beside(self, data):
            own, its = self.plan.owner_column, other.owner_column
            if own != its and self.plan.selection != "not-charged":
                raise UserError(
                    f"privacy.unit: is {unit_words(own)}, and another run over the same data "
                    f"protects each {unit_words(its)}: no ε holds for the two together; take the "
                    "same unit, or declare privacy.selection: not-charged"
                )
        begin(self.config, self.plan, self.ledger, data)

    def synthesize(self) -> None:
        """Stage 2a: sample solutions of the public prompts from the DP junior."""
        from privcode.generation.sampling import synthesize

        before = self._before("synthesize")
        with self.stage("synthesize", before, [self.raw]) as needed:
            if not needed:
                return
            config, section = self.config.synthesize, self.config.junior
            prompts = self._prompts()
            generator = generator_of(self, "junior", config.batch_size)
            whole = [p for p in prompts if generator.fits(rendered(section, p))]
            if len(whole) < len(prompts):
                say(f"synthesize: {len(prompts) - len(whole)} prompts too long for the junior")
            if not whole:
                raise UserError(
                    f"{self.config.prompts.file}: every prompt is too long for the junior's context"
                )
            with progress_bar("synthesize", len(whole)) as progress:
                synthesize(
                    generator,
                    whole,
                    [rendered(section, p) for p in whole],
                    sampling_of(config, config.samples_per_prompt),
                    self.raw,
                    progress=progress,
                )
        self._next("synthesize", self.raw)

    def validate(self) -> None:
        """Stage 2b: keep what runs and what says what the prompt asked."""
        from privcode.execution import Limits, execute
        from privcode.models import load_model, load_tokenizer
        from privcode.validation.round_trip import scorer
        from privcode.validation.verdicts import judge, keep_surest, validate

        with self.stage("validate", self._before("validate"), [self.accepted]) as needed:
            if not needed:
                return
            run, trip = self.config.validate_.execution, self.config.validate_.round_trip
            limits = Limits(
                cpu_seconds=run.cpu_seconds,
                memory_mb=run.memory_mb,
                preload=tuple(run.preload),
            )
            score = None
            if describer := self.config.describer:
                model = load_model(describer, trip.dtype)
                score = scorer(trip, model, load_tokenizer(describer))
            samples = [row for _, row in read_jsonl(self.raw)]
            half_way = self.private / ".verdicts.jsonl.partial"
            with progress_bar("validate", len(samples)) as progress:
                verdicts = validate(
                    samples,
                    partial(
                        judge,
                        language=self.config.data.language or "python",
                        prelude=text_of(run.prelude),
                        files=beside(run),
                        execute=(
                            lambda programs: list(execute(programs, limits, sandbox=run.sandbox))
                        )
                        if run.enabled
                        else None,
                        score=score,
                        threshold=trip.threshold,
                    ),
                    half_way,
                    progress=progress,
                )
            if (share := self.config.validate_.surest) < 1:
                passed = {row["id"] for row in verdicts if row["accepted"]}
                sure = certainty(self, [row for row in samples if row["id"] in passed])
                verdicts = keep_surest(verdicts, sure, share)
            write_jsonl(self.verdicts, verdicts, mode=0o600)
            kept = {row["id"] for row in verdicts if row["accepted"]}
            write_jsonl(self.accepted, (row for row in samples if row["id"] in kept))
            half_way.unlink()
            reasons = Counter(row["reason"] for row in verdicts if not row["accepted"])
            most = [f"{n / len(samples):.0%} {why}" for why, n in reasons.most_common(3)]
            rejected = f"; rejected, most of all: {'; '.join(most)}" if most else ""
            say(f"validate: {len(kept)} of {len(samples)} samples accepted{rejected}")
        self._next("validate", self.accepted)

    def boost(self) -> None:
        """Stage 2c: tune the premium model on the accepted pairs (nondpft: on private records)."""
        outputs = [self.premium, merged(self.premium)]
        with self.stage("boost", self._before("boost"), outputs) as needed:
            if not needed:
                return
            if self.config.method == "nondpft":
                pairs = self._private_pairs()
            else:
                pairs = [(r["prompt"], r["completion"]) for _, r in read_jsonl(self.accepted)]
                if not pairs:
                    raise UserError(
                        f"{self.accepted}: no sample was accepted; the reasons are in "
                        f"{self.verdicts}"
                    )
            self._tune(pairs, self.premium)
            if self.config.boost.merge and self.config.boost.method == "lora":
                merge(self, "tuned", self.premium)
        self._next("boost", self.premium)

    def pretune(self) -> None:
        """Jft's first step: plain tuning on the private records, masked."""
        with self.stage("pretune", [], []) as needed:
            if needed:
                pairs = self._private_pairs()
                masked = [(mask(prompt), mask(code)) for prompt, code in pairs]
                self._tune(masked, self.pretuned)
        self._next("pretune", self.pretuned)

    def evaluate(self) -> None:
        """pass@k of the untuned and the tuned models on the task files."""
        from privcode.scoring import ground_truth, limits_for
        from privcode.scoring.evaluation import evaluate

        if not self.config.evaluate.tasks:
            raise UserError(f"{self.out / 'config.yaml'}, field evaluate.tasks: names no task file")
        before = self._before("evaluate")
        with self.stage("evaluate", before, [self.evaluation]) as needed:
            if not needed:
                return
            config = self.config.evaluate
            files = [(file, tasks_of(file)) for file in config.tasks]
            wanted = [m for m in config.models if m == "base" or self.config.method != "base"]
            if self.config.method != "privcode" and "junior" in wanted:
                wanted.remove("junior")
            for label in wanted:
                section = self.config.labelled(label)
                generator = None
                for file, tasks in files:
                    result = self.evaluation / f"{file.name}.{label}.json"
                    if result.exists():
                        continue
                    generator = generator or generator_of(self, label, config.batch_size)
                    sampling = sampling_of(config, config.samples)
                    template, response = "{prompt}", ""
                    if file.mode == "instruct":
                        template, response = section.template, file.response
                    limits = limits_for(
                        tasks[0].format, config.cpu_seconds, config.memory_mb, config.preload
                    )
                    with progress_bar("ground truth", len(tasks)) as progress:
                        truth = ground_truth(
                            tasks,
                            prelude=text_of(file.prelude),
                            limits=limits,
                            sandbox=config.sandbox,
                            progress=progress,
                        )
                    with progress_bar(f"{file.name} {label}", 2 * len(tasks)) as progress:
                        samples, score = evaluate(
                            answers_of(generator, sampling, template + response, progress),
                            tasks,
                            mode=file.mode,
                            template=file.instruction,
                            response=response,
                            k=config.k,
                            prelude=text_of(file.prelude),
                            limits=limits,
                            sandbox=config.sandbox,
                            progress=progress,
                            truth=truth,
                        )
                    rows = [
                        sample | {"passed": row["passed"], "error": row["error"]}
                        for sample, row in zip(samples, score.rows, strict=True)
                    ]
                    write_jsonl(result.with_suffix(".samples.jsonl"), rows)
                    facts = score.summary()
                    del facts["seconds"]  # in the manifest: the rest is the same on every run
                    write_json(
                        result, {"task": file.name, "model": label, "mode": file.mode} | facts
                    )
        self._next("evaluate", self.evaluation)

    def audit(self) -> None:
        """How far planted canaries come out; what coins say of ε; in `private/`, membership."""
        from privcode.pipeline.attacks import attack

        config = self.config.audit
        if not config.repetitions and not config.holdout and not coins(self.config):
            raise UserError(
                f"{self.out / 'config.yaml'}, field audit.repetitions: no canary was planted and "
                "no record held out; both have to happen before training"
            )
        output = self.evaluation / "audit.json"
        with self.stage("audit", self._before("audit"), [output]) as needed:
            if not needed:
                return
            output = attack(self, output)
        self._next("audit", output)

    def report(self) -> Path:
        """Write report.html.

        Raises:
            UserError: a stage is not done.
        """
        from privcode.pipeline.results import evidence
        from privcode.release.page import page
        from privcode.release.stated import public

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
        from privcode.pipeline.results import evidence, pairs_in, verify
        from privcode.release.verify import release

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
        outputs = {
            "sanitize": self.sanitized,
            "pretune": self.pretuned,
            "synthesize": self.raw,
            "validate": self.accepted,
            "boost": self.premium,
        }
        stages = self.stages
        if name not in stages:
            raise UserError(
                f"{self.out}: its method, {self.config.method}, has no stage {name}; "
                f"it has {', '.join(stages)}"
            )
        inputs = []
        for earlier in stages[: stages.index(name)]:
            if earlier not in outputs:
                continue
            if earlier not in self.done():
                raise UserError(
                    f"{self.out}: {earlier} is not done; run privcode {earlier} {self.out}"
                )
            inputs.append(outputs[earlier])
        return [path for path in inputs if not path.is_relative_to(self.private)]

    def _check(self) -> None:
        if "sanitize" in (todo := [name for name in self.stages if name not in self.done()]):
            sweep_of(self.config, self.plan, self.ledger)
        refuse_early(self.config, todo)

    def _finished(self) -> None:
        for name in self.stages:
            if name not in self.done():
                raise UserError(f"{self.out}: {name} is not done; run privcode run {self.out}")

    def _next(self, name: str, output: Path) -> None:
        after = self.stages[self.stages.index(name) + 1 :]
        step = f"privcode {after[0]} {self.out}" if after else f"privcode report {self.out}"
        say(f"{name}: {output}; next: {step}")

    def _prompts(self) -> list[str]:
        from privcode.data.prompts import read_prompts

        chosen = self.config.prompts
        return read_prompts(chosen.file, chosen.column, chosen.limit)

    def _private_pairs(self) -> list[tuple[str, str]]:
        records, _, _ = private_records(self.config, self.config.boost.limit)
        return [(r.prompt, r.completion) for r in records]

    def _tune(self, pairs: list[tuple[str, str]], output: Path) -> None:
        from privcode.models import load_model, load_tokenizer
        from privcode.training.tuning import boost

        config, section = self.config.boost, self.config.premium
        steps = -(-len(pairs) // config.batch_size) * config.epochs
        with progress_bar(output.name, steps, counted=self.config.method != "nondpft") as progress:
            left_out = boost(
                load_model(section.model, section.dtype),
                load_tokenizer(section.model),
                [(rendered(section, prompt), completion) for prompt, completion in pairs],
                method=config.method,
                rank=section.lora.r,
                alpha=section.lora.alpha,
                dropout=section.lora.dropout,
                targets=section.lora.targets,
                epochs=config.epochs,
                learning_rate=config.learning_rate,
                batch_size=config.batch_size,
                micro_batch=config.micro_batch,
                max_tokens=section.max_tokens,
                warmup_ratio=config.warmup_ratio,
                scheduler="cosine",
                weight_decay=config.weight_decay,
                seed=config.seed,
                checkpoints=self.private / f"{output.name}-checkpoints",
                output=output,
                base=section.model,
                progress=progress,
            )
        if left_out and self.config.method not in ("nondpft", "jft"):
            say(f"boost: {left_out} pairs were longer than premium.max_tokens and left out")

    def _gradient_canaries(self, model: Any) -> "GradientCanaries | None":
        from privcode.training.gradient_canaries import GradientCanaries

        count, seed = self.config.audit.gradient_canaries, self.config.audit.seed
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return GradientCanaries(self.plan, parameters, count, seed) if count else None
