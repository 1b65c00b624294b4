"""The directory of a run: who may work in it, what was done in it, and whether it is unchanged.

Promises:
- One process works in it at a time, or the ranks of one torchrun. Of these only the first writes.
- Settings that differ from those that it was begun with are refused, but for those of stages that
  are not done (`changes`).
- A stage that is done is not done again while its files are the same. If they changed, the run is
  refused.
- `private/` has mode 0700. Hashes of what lies in it stay in it. The times that stages took stay
  in it too, because reading takes longer where a record is long.
- Public files have one constant time after each stage.

Does not: know what a stage does.
"""

import fcntl
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from privcode import distributed
from privcode.config import Config, digest, dump_config, load_config
from privcode.console import say
from privcode.errors import UserError
from privcode.files import private_folder, read_sealed, settle, write_sealed, write_text, write_with
from privcode.machine import processor
from privcode.pipeline.changes import changed_sections, fixed, left_by
from privcode.plain import files_below, hash_plain, is_plain_name

VERSIONED = ("privcode", "torch", "transformers", "peft", "trl", "dp-accounting")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {name: version(name) for name in VERSIONED} | {"python": platform.python_version()}


def bits() -> dict[str, str]:
    """What decides the bits of a computation, settings and seeds aside: versions and the machine.

    Sums of floating-point numbers depend on their order, which libraries choose by these. Two
    machines for which all of it is the same may still differ; two for which it differs are taken
    to give other bits.
    """
    import torch

    found = versions() | {name: version(name) for name in ("numpy", "safetensors")}
    if find_spec("bitsandbytes"):
        found["bitsandbytes"] = version("bitsandbytes")
    found |= {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": f"{torch.get_num_threads()}, {torch.get_num_interop_threads()}",
        "processes": str(distributed.world()),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }
    if torch.cuda.is_available():
        found["accelerator"] = f"{torch.cuda.get_device_name()}, {torch.version.cuda}"
    prefixes = ("OMP_", "MKL_", "DNNL_", "ONEDNN_", "KMP_", "ATEN_", "CUBLAS_", "NVIDIA_TF32")
    named = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    return found | dict(sorted(named.items()))


def lock(out: Path) -> int:
    """Make OUT/private, for its owner's eyes, and lock OUT until the returned file is closed.

    Raises:
        UserError: another process has it; see also `files.private_folder`.
    """
    private = out / "private"
    private_folder(private)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    held = os.open(private / ".lock", flags, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise UserError(f"{out}: another privcode process is working in it; wait for it") from None
    return held


def _says(kept: Path, text: str) -> bool:
    """Whether a run's config.yaml has these settings: one of an earlier privcode may lack some
    that came later, which then have their defaults."""
    if kept.read_text(encoding="utf-8") == text:
        return True
    try:
        return dump_config(load_config(kept)) == text
    except UserError:
        return False


class Workspace:
    """One run's directory, locked by this process."""

    def __init__(self, config: Config, out: Path, *, look: bool = False) -> None:
        """Open or make the directory; with `look` nothing in it is made, locked or written.

        Raises:
            UserError: it holds a run with other settings that has done something, or something
                else, or what is no plain file, or another process is in it.
        """
        self.out = out
        self.private = out / "private"
        self.manifest = out / "manifest.json"
        self._lock = -1
        if look:
            return
        distributed.start()
        distributed.from_first(lambda: self._claim(config))

    def _claim(self, config: Config) -> None:
        out, kept, text = self.out, self.out / "config.yaml", dump_config(config)
        if out.is_dir():
            files_below(out)  # a link would lead what is written here elsewhere
        opened = (out / "private" / ".lock").exists()
        if opened:
            self._lock = lock(out)  # before looking: another process may be about to begin
        same, why = kept.exists() and _says(kept, text), None
        begun = kept.exists() and not same and (self._begun() or not opened)
        if begun and (other := self._cannot_become(config) if opened else "it is no run"):
            why = f"{kept}: belongs to a run with other settings ({other})"
        elif not kept.exists() and out.exists() and (not out.is_dir() or self._begun()):
            why = f"{out}: is not empty and not a run"
        if why:
            self.close()
            raise UserError(f"{why}; choose another --out")
        if not opened:
            self._lock = lock(out)
        if begun:
            self._change(config)
        if not same:  # with nothing done, all settings may still change
            write_text(kept, text)

    def _cannot_become(self, config: Config) -> str | None:
        """Why the settings of this run cannot become those of `config`; None if they can."""
        kept, noted = self.out / "config.yaml", self._noted().get("config", {}).get("config.yaml")
        if noted not in (None, hash_plain(kept), digest(config)):
            return "it was edited"
        try:
            return fixed(load_config(kept), config, self.done())
        except UserError:
            return "it cannot be read"

    def _change(self, config: Config) -> None:
        """Let the stages whose settings change begin anew.

        The manifest is written before config.yaml. If this stops between them, it is done again.
        """
        before, done = load_config(self.out / "config.yaml"), self.done()
        kept = {self.out / file for facts in done.values() for file in facts["outputs"]}
        for path in (self.out / part for part in left_by(before, config)):
            for file in [path / n for n in files_below(path)] if path.is_dir() else [path]:
                if file not in kept:
                    file.unlink(missing_ok=True)
        if self.manifest.exists():
            noted = {"config": {"config.yaml": digest(config)}}
            write_sealed(self.manifest, self._noted() | noted)
        say(f"{self.out}: {', '.join(changed_sections(before, config))} changed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self) -> bool:
        """Whether there is anything here but what opening a run leaves."""
        left = {"config.yaml", "private", ".lock"}
        return any(path.name not in left for path in self.out.rglob("*"))

    def close(self) -> None:
        """Let other processes in."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def done(self) -> dict[str, Any]:
        """The stages that are done: name -> {"inputs", "outputs"}."""
        stages: dict[str, Any] = self._noted()["stages"]
        return stages

    def _noted(self) -> dict[str, Any]:
        return read_manifest(self.manifest) if self.manifest.exists() else {"stages": {}}

    def seconds(self) -> dict[str, float]:
        """What each stage took that is done. Private."""
        return _seconds(self.private / "manifest.json")

    def note(
        self, key: str, facts: dict[str, Any], seconds: Mapping[str, float] | None = None
    ) -> None:
        """Put `facts` into the manifest under `key`, with fresh hashes of what is private.

        `seconds`: what stages took, for the manifest in `private/`.
        """
        taken = self.seconds() | dict(seconds or {})
        inside = [p for p in sorted(self.private.iterdir()) if p.name != "manifest.json"]
        hidden = {
            path: digest
            for path, digest in self.hashes(inside).items()
            if not Path(path).name.startswith(".")
        }
        facts_inside = {"files": hidden, "seconds": taken}
        write_sealed(self.private / "manifest.json", facts_inside, mode=0o600)
        config = self._config()
        noted = self._noted() | {"config": config, "versions": versions(), key: facts}
        write_sealed(self.manifest, noted)
        settle(self.out)

    def _config(self) -> dict[str, str]:
        """The hash of config.yaml, which must be what it was when the first stage was noted."""
        config, noted = self.hashes([self.out / "config.yaml"]), self._noted().get("config")
        if noted is not None and noted != config:
            raise UserError(
                f"{self.out / 'config.yaml'}: was edited after the run had begun; restore it, or "
                "choose another --out"
            )
        return config

    @contextmanager
    def stage(self, name: str, inputs: Sequence[Path], outputs: Sequence[Path]) -> Iterator[bool]:
        """Yields whether the stage has to be done; notes it in the manifest afterwards.

        Raises:
            UserError: the stage is done, and what it read or wrote was changed since.
        """
        if not distributed.from_first(lambda: self._needed(name, inputs)):
            say(f"{name}: done already")
            yield False
            return
        started = time.monotonic()
        try:
            yield True
        except BaseException:
            settle(self.out)
            raise
        if distributed.rank() == 0:
            facts = {"inputs": self.hashes(inputs), "outputs": self.hashes(outputs)}
            took = {name: round(time.monotonic() - started, 1)}
            self.note("stages", self.done() | {name: facts}, took)

    def copy_stages(self, donor: Path, stages: Sequence[str], private: Sequence[str]) -> None:
        """Make stages that a run with the same settings has done this run's own, by copies.

        Args:
            donor: the other run's directory.
            stages: their names; those that are done here are left alone.
            private: names of what they wrote in `private/`: files, or folders of files.

        Raises:
            UserError: what the donor wrote was changed since.
        """
        files_below(donor)
        noted = read_manifest(donor / "manifest.json")["stages"]
        wanted = {name: noted[name] for name in stages if name not in self.done()}
        if not wanted:
            return
        outputs = {file: d for facts in wanted.values() for file, d in facts["outputs"].items()}
        found = [donor / "private" / name for name in private]
        kept = [
            str(path.relative_to(donor))
            for top in found
            if top.exists()
            for path in ([top / name for name in files_below(top)] if top.is_dir() else [top])
        ]
        for file in (*outputs, *kept):
            with (donor / file).open("rb") as source:
                mode = 0o600 if file in kept else 0o644
                write_with(self.out / file, partial(shutil.copyfileobj, source), mode)
        if changed(self.out, outputs):
            raise UserError(f"{donor}: what its stages wrote was changed since; start afresh")
        took = _seconds(donor / "private" / "manifest.json")
        self.note("stages", self.done() | wanted, {n: s for n, s in took.items() if n in wanted})

    def _needed(self, name: str, inputs: Sequence[Path]) -> bool:
        self._config()
        every = self.done()
        done = every.get(name)
        if done is None:
            self._refuse_changed(every, inputs)
        if done and (done["inputs"] != self.hashes(inputs) or changed(self.out, done["outputs"])):
            raise UserError(
                f"{self.out}: what {name} read or wrote was changed since; "
                "restore the files or choose another --out"
            )
        return done is None

    def _refuse_changed(self, done: dict[str, Any], inputs: Sequence[Path]) -> None:
        """Refuse to read what an earlier stage wrote if it was changed since."""
        folders = [str(path.relative_to(self.out)) for path in inputs]
        for earlier, facts in done.items():
            read = {
                file: digest
                for file, digest in facts["outputs"].items()
                if any(file == path or file.startswith(f"{path}/") for path in folders)
            }
            if wrong := changed(self.out, read):
                raise UserError(
                    f"{self.out / wrong[0]}: was changed since {earlier} wrote it; restore it, or "
                    "choose another --out"
                )

    def hashes(self, paths: Sequence[Path]) -> dict[str, str]:
        """Path relative to the run -> SHA-256, for files and for all files below directories."""
        files = (
            file
            for path in paths
            for file in ([path / n for n in files_below(path)] if path.is_dir() else [path])
            if file.exists() or file.is_symlink()
        )
        return {str(f.relative_to(self.out)): hash_plain(f) for f in files}


def _seconds(manifest: Path) -> dict[str, float]:
    kept = read_private(manifest) if manifest.exists() else {}
    found: dict[str, float] = kept.get("seconds", {})  # older runs have theirs elsewhere
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run: {"config": hashes, "stages": name -> {"inputs", "outputs": hashes},
    "versions", "report": hashes, if there is one}.

    Raises:
        UserError: it was changed, or has not this form.
    """
    facts = read_sealed(path)
    stages, versions = facts.get("stages"), facts.get("versions")
    whole = isinstance(stages, dict) and all(
        isinstance(stage, dict) and _are_hashes(stage.get("inputs"), stage.get("outputs"))
        for stage in stages.values()
    )
    named = isinstance(versions, dict) and all(isinstance(v, str) for v in versions.values())
    if not whole or not named or not _are_hashes(facts.get("config"), facts.get("report", {})):
        raise UserError(f"{path}: is not the manifest of a run; restore it")
    return facts


def read_private(path: Path) -> dict[str, Any]:
    """The manifest in `private/`: {"files": hashes, "seconds": stage -> number}.

    Raises:
        UserError: it was changed, or has not this form.
    """
    facts = read_sealed(path)
    seconds = facts.get("seconds", {})
    timed = isinstance(seconds, dict) and all(type(s) in (int, float) for s in seconds.values())
    if not timed or not _are_hashes(facts.get("files")):
        raise UserError(f"{path}: is not the manifest of a run; restore it")
    return facts


def _are_hashes(*found: Any) -> bool:
    return all(
        isinstance(hashes, dict)
        and all(is_plain_name(name) and isinstance(digest, str) for name, digest in hashes.items())
        for hashes in found
    )


_PASSING = re.compile(
    r"(|evaluation/|synthetic/|private/)\.[^/]+\.[0-9a-f]{8}\.tmp"  # files.write_with
    r"|synthetic/\.(raw\.jsonl\.partial|\.?(written|described)\.jsonl(|\.partial))"
    r"|private/\.(verdicts\.jsonl|answers\.jsonl|sanitize)\.partial"
    r"|private/\.lock"
    r"|\.release\.tmp/(README\.md|report\.html|privacy\.json|(data|adapter)/[A-Za-z][^/]*)"
)
_HALF_SAVED = re.compile(r"models/\.((?:junior|premium)(?:-merged)?)\.tmp/[^/]+")


def passing(name: str, noted: Mapping[str, str]) -> bool:
    """Whether a file of a run is one that privcode leaves for a while, where it leaves it.

    A half-saved model is, until its stage is done: from then on `noted` has the whole one.
    """
    if half := _HALF_SAVED.fullmatch(name):
        return not any(path.startswith(f"models/{half[1]}/") for path in noted)
    return _PASSING.fullmatch(name) is not None


def changed(root: Path, hashes: dict[str, str]) -> list[str]:
    """The files below `root` that are gone or not what `hashes` says."""
    return [
        name
        for name, digest in hashes.items()
        if not (root / name).is_file() or hash_plain(root / name) != digest
    ]
