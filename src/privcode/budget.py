"""Before a run spends anything: its name, its place in the user's registry, its ledger.

Promises: a run is registered before its ledger begins, and its ledger begins before a step is
taken, so a crash in between counts a run too many, never one too few; a run that goes on in another
place than it began counts as one more; a trial of a sweep is paid for once.
Does not: account for what was spent (`results` and `privacy.accounting` do).
"""

import hashlib
import secrets
from pathlib import Path

from privcode.config import Config, dump_config
from privcode.console import say
from privcode.errors import UserError
from privcode.files import read_sealed
from privcode.privacy.ledger import Ledger, identity, read_ledger
from privcode.privacy.plan import PrivacyPlan
from privcode.privacy.registry import place, register, registered

SWEEP = "sweep.json"
"""What a sweep has drawn: in its `private/`, beside the directories of its trials."""


def begin(config: Config, plan: PrivacyPlan, path: Path, fingerprint: str) -> None:
    """Register the run, then begin its ledger or insist that it may go on.

    Args:
        config: the run's.
        plan: the run's.
        path: its ledger.
        fingerprint: of the private data.

    Raises:
        UserError: the ledger is of another plan or other data; the run is a trial of a sweep that
            was begun elsewhere, or none although its plan pays for one; nothing can be registered.
    """
    ledger, run = Ledger(path), _name(config, plan, fingerprint)
    here, sweep = str(path.resolve()), sweep_of(plan, path)

    def note(run: str) -> None:
        if not config.data.public:
            source = place(config.data.source)
            spent = plan.spent()
            register(run, data=fingerprint, source=source, spent=spent, ledger=path, sweep=sweep)

    known = [] if config.data.public else registered()
    if not ledger.entries:
        if sweep and any((e["sweep"], e["ledger"]) == (sweep, here) for e in known):
            raise UserError(
                f"{path}: is gone, but this trial was begun, and a sweep pays for each "
                "trial once; put it back, or start a fresh sweep with another --out"
            )
        note(run)
        ledger.begin(plan, fingerprint, run, sweep)
        return
    ledger.begin(plan, fingerprint)  # insists that nothing changed
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


def _name(config: Config, plan: PrivacyPlan, fingerprint: str) -> str:
    """What a run goes by in ledgers: a fresh random name.

    With reproducible noise it follows from settings and data: the same run taken twice gives
    the same bits, so it is spent once.
    """
    if plan.reproducible_seed is None:
        return secrets.token_hex(16)
    return hashlib.sha256(f"{dump_config(config)}\0{fingerprint}".encode()).hexdigest()[:32]


def sweep_of(plan: PrivacyPlan, ledger: Path) -> str | None:
    """Identity of the sweep that the run with this ledger is a trial of.

    Raises:
        UserError: the plan pays for the best of several trials, and this is none of them.
    """
    if plan.trials is None:
        return None
    if (begun := read_ledger(ledger)) and "sweep" in begun[0]:
        return str(begun[0]["sweep"])
    drawn = ledger.parent.parent.parent / SWEEP
    if not drawn.exists():
        raise UserError(
            f"{ledger.parent.parent}: privacy.selection is trials, which charges the best run of a "
            "sweep; start it with privcode sweep CONFIG"
        )
    return str(read_sealed(drawn)["sweep"])
