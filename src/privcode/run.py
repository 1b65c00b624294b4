"""A run: one directory, one config, stages that can be killed and called again.

Promises: only this module knows paths; a stage that is done is not done again while its inputs
and outputs are the same; one process works in a run directory at a time; a changed config is
refused rather than mixed in. What is computed from private records goes to `private/` (mode
0700) and nowhere else: the manifest holds no count, loss or hash of them.
Does not: train or judge; the stages do.
"""

import fcntl
import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from privcode.config import Config, Model, dump_config, load_config, plan_of
from privcode.console import progress_bar, say
from privcode.errors import UserError
from privcode.files import (
    read_json,
    sha256_file,
    write_json,
    write_jsonl,
    write_text,
)
from privcode.records import Columns, Record, bound_contributions, guess_columns, read_records

VERSIONED = ("privcode", "torch", "transformers", "peft", "trl", "dp-accounting")


class Run:
    """The stages of one run in one directory."""

    def __init__(self, config: Config, out: Path) -> None:
        """Open or make the run directory.

        Raises:
            UserError: the directory holds a run of another config, or another process is in it.
        """
        self.config = config
        self.out = out
        self.private = out / "private"
        self.ledger = self.private / "ledger.jsonl"
        self.junior = out / "models" / "junior"
        self.premium = out / "models" / "premium"
        self.raw = out / "synthetic" / "raw.jsonl"
        self.accepted = out / "synthetic" / "accepted.jsonl"
        self.manifest = out / "manifest.json"
        self.plan = plan_of(config)
        text = dump_config(config)
        kept = out / "config.yaml"
        if kept.exists():
            if kept.read_text(encoding="utf-8") != text:
                raise UserError(
                    f"{kept}: belongs to a run with other settings; choose another --out"
                )
        elif out.exists() and any(out.iterdir()):
            raise UserError(f"{out}: is not empty and not a run; choose another --out")
        else:
            write_text(kept, text)
        self.private.mkdir(exist_ok=True)
        self.private.chmod(0o700)
        self._lock = os.open(self.private / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{out}: another privcode process is working in it; wait for it"
            ) from None

    @classmethod
    def open(cls, out: Path) -> "Run":
        """The run in an existing directory.

        Raises:
            UserError: there is none.
        """
        if not (out / "config.yaml").exists():
            raise UserError(f"{out}: is not a run directory; start one with privcode run CONFIG")
        return cls(load_config(out / "config.yaml"), out)

    def _stages(self) -> dict[str, Any]:
        if not self.manifest.exists():
            return {}
        stages: dict[str, Any] = read_json(self.manifest)["stages"]
        return stages

    @contextmanager
    def _stage(self, name: str, inputs: list[Path], outputs: list[Path]) -> Iterator[bool]:
        """Yields whether the stage has to be done; notes it in the manifest afterwards."""
        stages = self._stages()
        given = self._hashes(inputs)
        if name in stages:
            done = stages[name]
            if done["inputs"] == given and done["outputs"] == self._hashes(outputs):
                say(f"{name}: done already")
                yield False
                return
            raise UserError(
                f"{self.out}: what {name} read or wrote was changed since; "
                "restore the files or choose another --out"
            )
        started = time.monotonic()
        yield True
        stages[name] = {
            "inputs": given,
            "outputs": self._hashes(outputs),
            "seconds": round(time.monotonic() - started, 1),
        }
        versions = {package: version(package) for package in VERSIONED}
        versions["python"] = platform.python_version()
        write_json(self.manifest, {"stages": stages, "versions": versions})

    def _hashes(self, paths: list[Path]) -> dict[str, str]:
        files = (
            file
            for path in paths
            for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
            if file.is_file()
        )
        return {str(f.relative_to(self.out)): sha256_file(f) for f in files}

    def sanitize(self) -> None:
        """Stage 1: tune the junior on the private records under the plan."""
        from privcode.models import load_tokenizer, save_model
        from privcode.privacy.ledger import Ledger
        from privcode.stages.sanitize import Settings, by_unit, encode, sanitize

        with self._stage("sanitize", [], [self.junior]) as needed:
            if not needed:
                return
            settings, syntax = self.config.sanitize, self.config.sanitize.syntax
            records, counts, fingerprint = private_records(self.config)
            tokenizer = load_tokenizer(self.config.junior.model)
            model = self._trainable(self.config.junior, settings.seed)
            examples, cut = [], 0
            with progress_bar("read", len(records)) as progress:
                for record in records:
                    prompt = rendered(self.config.junior, record.prompt)
                    example, truncated = encode(
                        record,
                        prompt,
                        tokenizer,
                        self.config.junior.max_tokens,
                        syntax=syntax.schedule != "off",
                    )
                    examples.append(example)
                    cut += truncated
                    progress(1)
            write_json(self.private / "data.json", counts | {"truncated": cut}, mode=0o600)
            ledger = Ledger(self.ledger)
            ledger.begin(self.plan, fingerprint)
            with progress_bar("sanitize", self.plan.steps) as progress:
                curve = sanitize(
                    model,
                    tokenizer.pad_token_id,
                    examples,
                    by_unit(records),
                    self.plan,
                    Settings(
                        learning_rate=settings.learning_rate,
                        schedule=settings.schedule,
                        warmup_steps=settings.warmup_steps,
                        weight_decay=settings.weight_decay,
                        micro_batch=settings.micro_batch,
                        checkpoint_every=settings.checkpoint_every,
                        syntax=syntax.schedule,
                        lambda_max=syntax.lambda_max,
                        lambda_min=syntax.lambda_min,
                        lambda_decay=syntax.decay,
                        seed=settings.seed,
                    ),
                    ledger,
                    self.private / "checkpoint.pt",
                    progress,
                )
            write_jsonl(self.private / "curve.jsonl", curve, mode=0o600)
            save_model(model, self.junior)
            (self.private / "checkpoint.pt").unlink()
            say(f"sanitize: adapter in {self.junior}; next: privcode synthesize {self.out}")

    def synthesize(self) -> None:
        """Stage 2a: sample solutions of the public prompts from the DP junior."""
        from privcode.generation import Sampling
        from privcode.generation.local import LocalGenerator
        from privcode.models import load_adapter, load_model, load_tokenizer
        from privcode.prompts import read_prompts
        from privcode.stages.synthesize import synthesize

        self._after("sanitize")
        with self._stage("synthesize", [self.junior], [self.raw]) as needed:
            if not needed:
                return
            config, section = self.config.synthesize, self.config.junior
            chosen = self.config.prompts
            prompts = read_prompts(chosen.file, chosen.column, chosen.limit)
            model = load_adapter(load_model(section.model, section.dtype), self.junior)
            generator = LocalGenerator(model, load_tokenizer(section.model), config.batch_size)
            sampling = Sampling(
                temperature=config.temperature,
                top_p=config.top_p,
                max_new_tokens=config.max_new_tokens,
                n=config.samples_per_prompt,
                seed=config.seed,
            )
            with progress_bar("synthesize", len(prompts)) as progress:
                synthesize(
                    generator,
                    prompts,
                    [rendered(section, p) for p in prompts],
                    sampling,
                    self.raw,
                    progress=progress,
                )
            say(f"synthesize: samples in {self.raw}; next: privcode validate {self.out}")

    def _after(self, earlier: str) -> None:
        if earlier not in self._stages():
            raise UserError(f"{self.out}: {earlier} is not done; privcode {earlier} {self.out}")

    def _trainable(self, section: Model, seed: int) -> Any:
        import torch

        from privcode.models import attach_lora, load_model

        model = load_model(section.model, section.dtype)
        if section.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(seed)  # the adapter's start
        lora = section.lora
        return attach_lora(model, lora.r, lora.alpha, lora.dropout, lora.targets)


def rendered(section: Model, prompt: str) -> str:
    """`prompt` in the model's template."""
    from privcode.models import render

    return render(section.template, prompt=prompt)


def private_records(config: Config) -> tuple[list[Record], dict[str, Any], str]:
    """The bounded private records with their canaries, counts of what was read, a fingerprint.

    All three are private.

    Raises:
        UserError: the data cannot be read, or no record is left.
    """
    from privcode.audit import canaries
    from privcode.records import read_rows

    data, privacy = config.data, config.privacy
    if data.columns:
        columns = Columns(**data.columns.model_dump())
    else:
        first = next(iter(read_rows(data.source)), None)
        if first is None:
            raise UserError(f"{data.source}: holds no rows; give a file with private records")
        columns = guess_columns(list(first[1]))
    if privacy.unit == "record" and columns.unit:
        columns = Columns(**(asdict(columns) | {"unit": None}))
    records, report = read_records(
        data.source,
        columns,
        language=data.language,
        languages=data.languages,
        contains=data.contains,
        on_bad_row=data.on_bad_row,
    )
    if not records:
        raise UserError(f"{data.source}: no record is left after selection; check data.contains")
    fingerprint = hashlib.sha256(
        "\x00".join(f"{r.unit}\x01{r.prompt}\x01{r.completion}" for r in records).encode()
    ).hexdigest()
    kept, dropped = bound_contributions(records, privacy.max_records_per_unit, seed=privacy.seed)
    planted = canaries.records(canaries.plant(config.audit.repetitions, config.audit.seed))
    counts = {**asdict(report), "over_the_bound": dropped, "canaries": len(planted)}
    return [*kept, *planted], counts, fingerprint
