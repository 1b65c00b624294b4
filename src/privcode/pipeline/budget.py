"""Before a run spends anything: its name, its place in the user's registry, its ledger.

Promises:
- A run is registered before its ledger begins, and its ledger begins before a step is taken. So a
  crash in between counts one run too many, never one too few.
- A run that is continued in another place counts as one run more.
- A trial of a sweep is paid for once. It is one that the sweep drew, with the settings that it
  drew.

Does not:
- Write a line for each step: `training.dp_sgd` does, in `privacy.ledger`.
- Account for what was spent: `results` and `privacy.accounting` do.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from privcode.cluster import Scale
from privcode.config import Config, digest, dump_config, load_config, with_settings
from privcode.config.yaml_file import read_yaml
from privcode.console import say
from privcode.errors import UserError
from privcode.files import Row, read_sealed, sha256_file, write_sealed
from privcode.pipeline.directory import bits
from privcode.pipeline.private import DataIdentity
from privcode.privacy import registry
from privcode.privacy.ledger import Ledger, identity, read_ledger, sketch_in, source_in
from privcode.privacy.plan import PrivacyPlan
from privcode.privacy.registry import keep, place, register, registered, secret

SWEEP = "sweep.json"
"""What a sweep has drawn: in its `private/`, beside the directories of its trials."""
_ANOTHER = "another trial of this sweep was selected, and a sweep pays for releasing one"
SELECTED = "selected.json"
"""Which trial a sweep has selected: in its `private/`, and in that of the trial."""


def begin(
    config: Config,
    plan: PrivacyPlan,
    path: Path,
    data: DataIdentity,
    start: Mapping[str, str] | None = None,
) -> None:
    """Register the run, then begin its ledger or insist that it may go on.

    Args:
        config: the run's.
        plan: the run's.
        path: its ledger.
        data: which private data it reads.
        start: what else decides the bits of training, if its noise is reproducible.

    Raises:
        UserError: the ledger is of another plan or other data; the run is a trial of a sweep that
            was begun elsewhere, or none although its plan pays for one; nothing can be registered.
    """
    decided = bits() | dict(start or {})
    ledger, run = Ledger(path), _name(config, plan, data, decided)
    machine = {} if plan.reproducible_seed is None else {"bits": decided}
    settings = settings_digest(config.model_dump(by_alias=True))
    here, sweep = str(path.resolve()), sweep_of(config, plan, path)
    drawn = None if config.data.public else keep(data.sketch(secret()))

    def note(run: str) -> None:
        if not config.data.public:
            source = source_in(ledger.entries) or place(config.data.source)
            spent = plan.spent()
            register(
                run,
                data=data.fingerprint,
                source=source,
                spent=spent,
                ledger=path,
                sweep=sweep,
                sketch=drawn,
            )

    known = [] if config.data.public else registered()
    if not ledger.entries:
        trials = [e["ledger"] for e in known if sweep and e["sweep"] == sweep and e["ledger"]]
        if any(Path(at).parts[-3:] == path.resolve().parts[-3:] for at in trials):
            raise UserError(  # here, or in a copy of the sweep
                f"{path}: is gone, but this trial was begun, and a sweep pays for each "
                "trial once; put it back, or start a fresh sweep with another --out"
            )
        note(run)
        facts: Row = {"exact": data.exact, "sketch": drawn, **machine, "settings": settings}
        facts |= {"public": config.data.public, "source": place(config.data.source)}
        if sweep:
            facts["trial"] = digest(config)
        ledger.begin(plan, data.fingerprint, run, sweep, **facts)
        return
    ledger.begin(plan, data.fingerprint, exact=data.exact, settings=settings)  # nothing changed
    if drawn and drawn != sketch_in(ledger.entries):  # begun before there were sketches
        ledger.append(kind="sketched", sketch=drawn)
    moved = bool(machine) and machine["bits"] != _bits_in(ledger.entries)
    if moved:
        say(
            "sanitize: this reproducible run was begun on another machine, or with other versions, "
            "threads or model files, which give other bits; it is counted as one run more"
        )
        note(run)
        ledger.append(kind="named", run=run, **machine)
        return
    if config.data.public or ledger.steps == plan.steps:
        return
    own = identity(ledger.entries)
    places = [e["ledger"] for e in known if e["run"] == own]
    if own and (own == run or not places or here in places):
        note(own)
        return
    if own and sweep:
        raise UserError(
            f"{path}: this trial was begun as {places[0]}, and a sweep pays "
            "for each trial once; let the sweep go on in its own place"
        )
    if own:
        say(
            f"sanitize: this run was begun as {places[0]}; since a copy may have "
            "gone on from there, what follows is counted as one run more"
        )
    note(run)
    ledger.append(kind="named", run=run)


def _bits_in(entries: list[Row]) -> object:
    """Where the last steps of a ledger were taken; None if it was begun before that was noted."""
    return next((e["bits"] for e in reversed(entries) if "bits" in e), None)


def _name(config: Config, plan: PrivacyPlan, data: DataIdentity, decided: Mapping[str, str]) -> str:
    """What a run goes by in ledgers: a fresh random name.

    With reproducible noise it follows from settings, data and all that changes bits: the same run
    taken twice on one machine gives the same bits, so it is spent once. `decided` is the rest
    of what changes them.
    """
    if plan.reproducible_seed is None:
        return secrets.token_hex(16)
    settings = dump_config(config.model_copy(update={"scale": Scale()}))  # elsewhere, same bits
    said = json.dumps([settings, data.exact, decided], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def sweep_of(config: Config, plan: PrivacyPlan, ledger: Path) -> str | None:
    """Identity of the sweep that the run with this ledger is a trial of.

    Raises:
        UserError: the plan pays for the best of several trials, and this is none that was drawn.
    """
    if plan.trials is None:
        return None
    if (begun := read_ledger(ledger)) and "sweep" in begun[0]:
        check_trial(ledger, begun)
        return str(begun[0]["sweep"])
    run = ledger.parent.parent
    drawn = run.parent / SWEEP
    if not drawn.exists():
        raise UserError(
            f"{run}: privacy.selection is trials, which charges the best run of a "
            "sweep; start it with privcode sweep CONFIG"
        )
    facts = read_sealed(drawn)
    whole = load_config(run.parent.parent / "sweep.yaml")
    names = [f"trial-{n}" for n in range(1, len(facts["trials"]) + 1)]
    now = sha256_file(run.parent.parent / "sweep.yaml")
    if run.name not in names or facts.get("config", now) != now:
        raise UserError(
            f"{run}: is none of the trials that the sweep in {run.parent.parent} drew; a run with "
            "settings of your own needs a plan of its own, without privacy.selection: trials"
        )
    settings = facts["trials"][names.index(run.name)]
    if with_settings(whole, settings, "sweep.settings") != config:
        raise UserError(
            f"{run}: has other settings than the sweep drew for this trial; let privcode sweep "
            "start its trials"
        )
    return str(facts["sweep"])


def select(config: Config, run: Path, private: Path) -> None:
    """Note, once for a sweep, that the run in this folder is the one that may be released.

    It is noted in the sweep's `private`, in the registry, and in the run.

    Raises:
        UserError: another run was noted.
    """
    begun = read_ledger(run / "private" / "ledger.jsonl")
    facts = {"sweep": str(begun[0]["sweep"]), "run": str(identity(begun))}
    other = (private / SELECTED).exists() and not _says(private / SELECTED, facts)
    noted = facts["run"] if config.data.public else registry.select(facts["sweep"], facts["run"])
    if other or noted != facts["run"]:
        raise UserError(f"{run}: {_ANOTHER}")
    write_sealed(private / SELECTED, facts, mode=0o600)
    write_sealed(run / "private" / SELECTED, facts, mode=0o600)


def _says(path: Path, facts: Row) -> bool:
    kept = read_sealed(path)
    return all(kept.get(name) == value for name, value in facts.items())


def check_selected(run: Path) -> None:
    """Refuse to release a trial that its sweep did not select, wherever it lies.

    Raises:
        UserError: it did not, or selected another.
    """
    begun, noted = read_ledger(run / "private" / "ledger.jsonl"), run / "private" / SELECTED
    own = {"sweep": begun[0].get("sweep"), "run": identity(begun)} if begun else {}
    if not own or not noted.exists() or not _says(noted, own):
        raise UserError(
            f"{run}: is one trial of a sweep, of which only the best is released; let privcode "
            "sweep finish, and release its best"
        )
    if registry.selected(str(own["sweep"])) not in (None, own["run"]):
        raise UserError(f"{run}: {_ANOTHER}")


_TRAINING = ("method", "data", "privacy", "sanitize", "audit")
_LATER: dict[str, Row] = {
    "sanitize": {"shard": False},
    "audit": {"places": ["code"]},
    "junior": {"quantization": "none"},
    "premium": {"quantization": "none"},
}
"""Settings that came after the first ledgers, with the value that changes nothing. With this value
they are no part of the digest, so an earlier run goes on."""


def settings_digest(values: Row) -> str:
    """SHA-256 of the settings that training under the plan reads, of a config's plain values.

    Attacks of other packages are left out: they come after training, and after earlier privcodes.
    """
    model = "premium" if values["method"] in ("dpft", "jft") else "junior"
    read = {name: _as_before(name, values[name]) for name in (*_TRAINING, model)}
    prompts = values["prompts"]
    if isinstance(prompts, dict) and prompts.get("source") != "public":
        lesson = [prompts.get("source"), prompts.get("opening")]  # see `Prompts.lesson`
        noise = (prompts.get("histogram") or {}).get("noise_multiplier")
        lesson += [] if noise is None else [noise]
        read["prompts"] = lesson + ([prompts.get("latent")] if lesson[0] == "latent" else [])
    if isinstance(read["audit"], dict):
        read["audit"] = {k: v for k, v in read["audit"].items() if k != "attacks"}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _as_before(section: str, values: object) -> object:
    later = _LATER.get(section, {})
    if not isinstance(values, dict):
        return values
    return {k: v for k, v in values.items() if k not in later or later[k] != v}


def check_settings(run: Path, begun: list[Row]) -> None:
    """Refuse a run whose config.yaml is not what its ledger was begun with.

    Raises:
        UserError: it was edited.
    """
    kept = run / "config.yaml"
    if "settings" not in begun[0]:  # begun before that was noted
        return
    values = read_yaml(kept)
    if not isinstance(values, dict) or begun[0]["settings"] != settings_digest(values):
        raise UserError(f"{kept}: was edited after the run had begun; restore it")


def check_trial(ledger: Path, begun: list[Row]) -> None:
    """Refuse a trial whose settings are not those that it was begun with, which were drawn.

    Raises:
        UserError: they differ.
    """
    kept = ledger.parent.parent / "config.yaml"
    if "trial" in begun[0] and begun[0]["trial"] != sha256_file(kept):
        raise UserError(
            f"{kept}: has other settings than the sweep drew for this trial; restore it"
        )
