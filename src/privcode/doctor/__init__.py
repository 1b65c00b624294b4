"""`privcode doctor`: does what the guarantee rests on work on this machine?

Promises:
- Every check does what its name says, through the code that a run uses. It compares the result with
  what is known in another way.
- All checks together take less than two minutes.
- A check that cannot be done is a failed check, never a traceback.
- Statistical checks allow six standard errors: a sound machine fails one of them less than once in
  ten million.

Does not: prove that the guarantee holds, or use the network. Speed is measured on request alone
(`measure`).
"""

import importlib
import importlib.util
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from privcode.errors import UserError
from privcode.machine import cores


@dataclass(frozen=True)
class Check:
    """One finding: `detail` is one line. Only `required` checks decide whether privcode can run."""

    name: str
    ok: bool
    detail: str
    required: bool
    group: str = ""


_PAPER_EPSILON, _PAPER_NOISE = 4.0, 0.623  # by PLD, at the units, batch, steps and δ below
_SANDBOXES = ("bubblewrap", "namespaces", "landlock", "podman", "auto")
_OPTIONAL = {
    "bert_score": "round trip by BERTScore",
}
_SNIPPETS = {
    "python": "def f(x):\n    return [y for y in x if y]\n",
    "java": "class A { int f(int x) { if (x > 0) { return x; } return 0; } }",
    "javascript": "const f = (x) => { if (x) { return x; } };",
    "typescript": "function f(x: number): string { return `${x}`; }",
    "cpp": "int f(int x) { while (x > 9) { x /= 10; } return x; }",
    "csharp": "class A { public int P { get; set; } }",
    "rust": "fn f(x: u8) -> u8 { match x { 0 => 1, n => n } }",
    "php": "<?php function f($x) { foreach ($x as $y) { echo $y; } }",
    "go": "package main\nfunc f(x int) int { for x > 9 { x /= 10 }; return x }",
    "bash": 'if [ -z "$1" ]; then echo usage; fi',
    "swift": "func f(_ x: Int?) -> Int { guard let y = x else { return 0 }; return y }",
}
PROGRAMS = {
    "python": "pass",
    "java": "class A { public static void main(String[] args) {} }",
    "javascript": "",
    "typescript": "const x: number = 1;",
    "cpp": "int main() {}",
    "csharp": "class A { static void Main() {} }",
    "rust": "fn main() {}",
    "php": "",
    "go": "package main\nfunc main() {}",
    "bash": "true",
    "swift": "let x = 1",
}
# What model-written code must not do. It is harmless where it succeeds. Writing may seem to work,
# on a file that only the program sees, so the outside is checked for the result.
_ATTACK = """\
import socket
def refused(name, act):
    try:
        act()
    except OSError:
        return
    raise SystemExit(name)
refused("reads", lambda: open({path!r}).read())
refused("connects", lambda: socket.create_connection(("127.0.0.1", {port}), timeout=5))
try:
    open({path!r}, "a").write("x")
except OSError:
    pass
"""


def checks() -> Iterator[Check]:
    """All checks, one after the other, as they are done."""
    yield _check("machine", True, _machine, "this machine")
    for name, required, test, group in (*_mechanism(), *_evidence(), *_models(), *_optional()):
        yield _check(name, required, test, group)


_Planned = Iterator[tuple[str, bool, Callable[[], str], str]]


def _mechanism() -> _Planned:
    group = "each step of training is the mechanism that ε is computed for"
    for device in _devices():
        yield f"clipping on {device}", True, _other("engine", "clipping", device), group
    yield "syntax term", True, _other("engine", "syntax_term"), group
    yield "noise", True, _other("engine", "noise"), group
    yield "sampling", True, _other("engine", "sampling"), group
    yield "accountants", True, _accountants, group


def _evidence() -> _Planned:
    group = "the evidence: what was spent is counted, and what is changed is found"
    yield "ledger", True, _other("evidence", "ledger"), group
    yield "resumed runs", True, _other("evidence", "resumed"), group
    yield "verify", True, _other("evidence", "verify"), group
    yield "planted faults", True, _other("evidence", "planted"), group
    yield "one-run audit", True, _other("evidence", "audit"), group
    yield "post-processing", True, _other("replay", "replay"), group


def _models() -> _Planned:
    group = "model-written code is confined, languages are read, models speak"
    for sandbox in _SANDBOXES:
        yield f"sandbox: {sandbox}", sandbox == "auto", partial(_confines, sandbox), group
    yield "languages", False, _runs, group
    yield "grammars", True, _grammars, group
    for model in ("bundled:junior", "bundled:premium"):
        yield model, True, partial(_generates, model), group


def _optional() -> _Planned:
    for module, purpose in _OPTIONAL.items():
        yield f"optional: {module}", False, partial(_installed, module, purpose), "optional"


def _other(module: str, function: str, *arguments: object) -> Callable[[], str]:
    """A check in a module that is imported by the check: a broken torch fails it, not doctor."""

    def test() -> str:
        found = getattr(importlib.import_module(f"privcode.doctor.{module}"), function)
        return str(found(*arguments))

    return test


def report(done: Iterable[Check]) -> dict[str, Any]:
    """{"ok": whether all required checks are, "checks": [...]} as JSON values."""
    listed = list(done)
    return {
        "ok": all(check.ok for check in listed if check.required),
        "checks": [asdict(check) for check in listed],
    }


def line(check: Check) -> str:
    """A check as one line of a table."""
    mark = "ok" if check.ok else "FAIL" if check.required else "-"
    return f"{mark:<5} {check.name:<32} {check.detail}"


def _check(name: str, required: bool, test: Callable[[], str], group: str = "") -> Check:
    try:
        return Check(name, True, test(), required, group)
    except UserError as error:
        detail = str(error)
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
    return Check(name, False, detail, required, group)


def expect(holds: bool, otherwise: str) -> None:
    """Fail the check that calls it, with `otherwise` as its detail, unless it `holds`."""
    if not holds:
        raise UserError(otherwise)


def _machine() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{cores()} CPU cores, CUDA: {', '.join(names) or 'no'}"
    )


def _devices() -> list[str]:
    try:
        import torch

        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    except Exception:  # `_machine` says what is wrong
        return ["cpu"]


def _accountants() -> str:
    """The paper's setting: its noise multiplier, and RDP above PLD."""
    from privcode.privacy import make_plan

    plan = make_plan(epsilon=_PAPER_EPSILON, delta=1e-5, units=19_500, batch=256, steps=100)
    cost = plan.cost()
    said = (
        f"noise multiplier {plan.noise_multiplier:.3f} for ε {_PAPER_EPSILON:g} "
        f"(known: {_PAPER_NOISE}); ε {cost.epsilon:.3f} by PLD, {cost.epsilon_rdp:.3f} by RDP"
    )
    sound = (
        abs(plan.noise_multiplier / _PAPER_NOISE - 1) < 0.01
        and 0.99 * _PAPER_EPSILON <= cost.epsilon <= _PAPER_EPSILON
        and cost.epsilon <= cost.epsilon_rdp
    )
    expect(sound, f"{said}; install dp-accounting again, as constraints.txt has it")
    return said


def _confines(sandbox: str) -> str:
    """Run a hostile program in the sandbox. "auto" is what a run would use."""
    from privcode.execution import Program, choose_sandbox, execute

    name = choose_sandbox(sandbox).name
    with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
        os.fchmod(secret.fileno(), 0o666)  # so that only the sandbox can refuse
        attack = _ATTACK.format(path=secret.name, port=server.getsockname()[1])
        program = Program("doctor", attack, checked=True)
        (outcome,) = execute([program], sandbox=sandbox, workers=1)
        written = os.fstat(secret.fileno()).st_size > 0
    said = "writes" if written else outcome.stderr.strip() or outcome.error or outcome.status
    expect(outcome.status == "ok" and not written, f"{name} does not hold a program ({said})")
    return f"{name}: a program inside cannot read, write or connect outside"


def _runs() -> str:
    """Run a program of every language in the sandbox."""
    from privcode.execution import Program, execute

    programs = [Program(name, code, name) for name, code in PROGRAMS.items()]
    outcomes = list(execute(programs))
    failed = {o.id: o.error for o in outcomes if o.status not in ("ok", "unsupported")}
    expect(not failed, "; ".join(f"{name} fails ({why})" for name, why in failed.items()))
    missing = [f"{o.id} ({o.error})" for o in outcomes if o.status == "unsupported"]
    runs = ", ".join(o.id for o in outcomes if o.status == "ok")
    return runs + (f"; not here: {', '.join(missing)}" if missing else "")


def _grammars() -> str:
    from privcode.languages import languages
    from privcode.syntax.spans import parse, structural_spans

    failed = [
        language
        for language in languages()
        if parse(_SNIPPETS[language], language).root_node.has_error
        or not structural_spans(_SNIPPETS[language], language)
    ]
    expect(not failed, f"cannot read {', '.join(failed)}; install the tree-sitter wheels again")
    return f"{len(languages())} languages: {', '.join(languages())}"


def _generates(name: str) -> str:
    from privcode.generation import Sampling
    from privcode.generation.local import LocalGenerator
    from privcode.models import load_model, load_tokenizer

    model = load_model(name)
    generator = LocalGenerator(model, load_tokenizer(name))
    prompt = "Question: Write a function that adds two numbers.\n\nAnswer:\n"
    ((text,),) = generator.generate([prompt], Sampling(temperature=0.0, max_new_tokens=16))
    expect(bool(text.strip()), "loads, but generates nothing; install privcode again")
    return f"{model.num_parameters() / 1e6:.1f} M parameters, loads and generates"


def _installed(module: str, purpose: str) -> str:
    expect(importlib.util.find_spec(module) is not None, f"not installed ({purpose})")
    return f"{version(module.replace('_', '-'))} ({purpose})"
