"""Is what was spent counted, is a change found, and do these checks see a fault?

Promises:
- Each function makes its own small run, ledger or bundle in a temporary folder, and damages it in
  one place at a time. It fails unless the damage is noticed.

Does not: look at a user's runs.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from privcode.audit.trial import short_audit
from privcode.doctor import engine, expect
from privcode.doctor.faults import FAULTS
from privcode.errors import UserError
from privcode.files import read_sealed, sha256_file, sha256_tree, write_json, write_sealed
from privcode.pipeline.directory import versions
from privcode.privacy import PrivacyPlan, make_plan
from privcode.privacy.ledger import Ledger, read_ledger
from privcode.release.bundle import FACTS
from privcode.release.evidence import Evidence
from privcode.release.verify import release, verify_bundle


def _plan(steps: int) -> PrivacyPlan:
    return make_plan(epsilon=None, noise_multiplier=1.0, delta=1e-3, units=8, batch=4, steps=steps)


def _noticed(act: Callable[[], object]) -> bool:
    try:
        act()
    except UserError:
        return True
    return False


def ledger() -> str:
    """A ledger with a row changed, removed, or moved is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        made = Ledger(path)
        made.begin(_plan(3), "made up")
        for step in range(3):
            made.step(step)
        whole = path.read_text()
        rows = whole.splitlines(keepends=True)
        spoilt = {
            "a changed row": whole.replace('"step": 1', '"step": 2'),
            "a missing row": "".join(rows[:2] + rows[3:]),
            "rows out of order": "".join([rows[0], rows[2], rows[1], rows[3]]),
        }
        expect(len(read_ledger(path)) == 4, "a sound ledger is not read")
        for change, text in spoilt.items():
            path.write_text(text)
            expect(_noticed(lambda: read_ledger(path)), f"{change} was not noticed")
    return f"{', '.join(spoilt)}: noticed"


def resumed() -> str:
    """A run killed after its checkpoint counts the lost step, and continues after it."""
    plan, taken, done = _plan(5), 0, 0
    model, examples = engine.tiny()
    units = [[i] for i in range(len(examples))]

    def kill(steps: int) -> None:
        nonlocal done
        done += steps
        if done == 3:
            raise InterruptedError

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            engine.take_steps(model, examples, units, plan, place, kill)
        except InterruptedError:
            taken = done
        taken += len(engine.take_steps(model, examples, units, plan, place))
        counted = len(read_ledger(place / "ledger.jsonl")) - 1
    expect(
        taken == counted == plan.steps,
        f"{taken} noised steps were taken and {counted} counted of a plan of {plan.steps}; "
        "do not train here",
    )
    return f"a run killed half-way and run again took {taken} noised steps and counted {counted}"


def verify() -> str:
    """One byte changed in each file of a bundle, a file added, and lies that were sealed again."""
    from safetensors.torch import save_file

    plan = _plan(3)
    shown = Evidence(
        title="doctor",
        plan=plan,
        spent=(plan.spent(),),
        others=(),
        prompts="prompts",
        junior="junior",
        premium="premium",
        filters={
            "samples": 1,
            "accepted": 1,
            "reasons": {},
            "execution": False,
            "round_trip": {"method": "off", "threshold": 0.0},
            "surest": 1.0,
        },
        evaluation={},
        audit=None,
        versions=versions(),
    )
    with tempfile.TemporaryDirectory() as folder:
        adapter, bundle = Path(folder) / "adapter", Path(folder) / "release"
        adapter.mkdir()
        lora = {"r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "target_modules": ["q_proj"]}
        kind = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"}
        config = {"base_model_name_or_path": "premium"} | lora | kind
        write_json(adapter / "adapter_config.json", config)
        layer = "base_model.model.model.layers.0.self_attn.q_proj"
        pair = {f"{layer}.lora_A.weight": torch.ones(1, 4)}
        pair[f"{layer}.lora_B.weight"] = torch.ones(4, 1)
        save_file(pair, adapter / "adapter_model.safetensors")
        rows = [{"id": "0", "prompt": "p", "completion": "c"}]
        release(shown, rows, adapter, sha256_tree(adapter), bundle)
        check = partial(verify_bundle, bundle)
        files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
        for path in files:
            kept = path.read_bytes()
            for place in (len(kept) // 2, len(kept) - 2):
                path.write_bytes(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
                expect(_noticed(check), f"a change of {path.name} was missed")
            path.write_bytes(kept)
        (bundle / "more").touch()
        expect(_noticed(check), "a file added was missed")
        (bundle / "more").unlink()
        facts = read_sealed(bundle / FACTS)
        for lie in ({"epsilon": 0.1}, {"epsilon_of_all_runs": 0.1}, {"protects": "everybody"}):
            write_sealed(bundle / FACTS, facts | lie)
            expect(_noticed(check), f"{min(lie)} that does not follow was missed")
        card = bundle / "README.md"
        card.write_text(card.read_text().replace("one record", "one company"))
        hashes = facts["files"] | {"README.md": sha256_file(card)}
        write_sealed(bundle / FACTS, facts | {"files": hashes})
        expect(_noticed(check), "a card with another statement was missed")
    return (
        f"a changed byte in each of {len(files)} files of a bundle, and false statements under a "
        "new seal: noticed"
    )


_SEEN_BY: dict[str, Callable[[], str]] = {
    "no noise": engine.noise,
    "σ halved": engine.noise,
    "uniform noise": engine.noise,
    "clip per micro-batch": lambda: engine.clipping("cpu"),
    "clip per layer": lambda: engine.clipping("cpu"),
    "KL term outside the clip": lambda: engine.clipping("cpu"),
    "loss averaged over the batch": lambda: engine.clipping("cpu"),
    "last micro-batch only": lambda: engine.clipping("cpu"),
    "real batch size in the denominator": lambda: engine.clipping("cpu"),
    "shuffling instead of Poisson": engine.sampling,
    "Poisson batches capped": engine.sampling,
    "teacher gradients leaking": engine.syntax_term,
    "a resumed run forgets steps": resumed,
}
"""The faults that these checks can see. docs/evidence/faults.md has the others and their tests."""


def planted() -> str:
    """Each fault, planted in the engine, makes the check that guards against it fail."""
    for fault, check in _SEEN_BY.items():
        with FAULTS[fault]():
            expect(_noticed(check), f"{fault}: planted and not noticed; do not trust doctor here")
    return f"{len(_SEEN_BY)} faults planted in the engine one by one, all noticed"


def audit() -> str:
    """An attack with planted canaries on a short training run finds no more than the claimed ε."""
    with torch.random.fork_rng():
        found = short_audit()
    said = f"an attack on a short run shows ε of at least {found.found:.2f}, claimed"
    expect(found.found <= found.claimed, f"{said} {found.claimed:.2f}: more leaks than is promised")
    return f"{said} {found.claimed:.2f}"
