"""`privcode doctor`: does what the guarantee rests on work on this machine?

Promises: every check does the thing it is named after, through the code that a run uses, and
compares with what is known some other way; all of them together take seconds; a check that cannot
be done is a failed check, never a traceback. Statistical checks allow six standard errors: a sound
machine fails one of them less than once in ten million.
Does not: prove that the guarantee holds, measure speed, or use the network.
"""

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


@dataclass(frozen=True)
class Check:
    """One finding: `detail` is one line; only `required` ones decide whether privcode can run."""

    name: str
    ok: bool
    detail: str
    required: bool


_ERRORS = 6.0  # standard errors
_ENGINE_TOLERANCE = 1e-4  # fp32, whatever the device's summation order
_PAPER_EPSILON, _PAPER_NOISE = 4.0, 0.623  # by PLD, at the units, batch, steps and δ below
_SANDBOXES = ("bubblewrap", "landlock", "auto")
_OPTIONAL = {
    "vllm": "faster sampling on GPUs",
    "openai": "models behind an endpoint",
    "bert_score": "round trip by BERTScore",
    "sentence_transformers": "round trip by embeddings",
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
# What model-written code must not do; it harms nothing where it can. Writing may seem to work, on
# a file that only the program sees: whether it did is looked up outside.
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
    yield _check("machine", True, _machine)
    for device in _devices():
        yield _check(f"clipping on {device}", True, partial(_clipping, device))
    yield _check("noise", True, _noise)
    yield _check("sampling", True, _sampling)
    yield _check("accountants", True, _accountants)
    for sandbox in _SANDBOXES:
        yield _check(f"sandbox: {sandbox}", sandbox == "auto", partial(_confines, sandbox))
    yield _check("grammars", True, _grammars)
    for model in ("bundled:junior", "bundled:premium"):
        yield _check(model, True, partial(_generates, model))
    for module, purpose in _OPTIONAL.items():
        yield _check(f"optional: {module}", False, partial(_installed, module, purpose))


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


def _check(name: str, required: bool, test: Callable[[], str]) -> Check:
    try:
        return Check(name, True, test(), required)
    except UserError as error:
        detail = str(error)
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
    return Check(name, False, detail, required)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UserError(otherwise)


def _machine() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{os.cpu_count()} CPU cores, CUDA: {', '.join(names) or 'no'}"
    )


def _devices() -> list[str]:
    try:
        import torch

        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    except Exception:  # `_machine` says what is wrong
        return ["cpu"]


def _clipping(device: str) -> str:
    """A clipped sum, PrivSA term included, against plain autograd on one record at a time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from privcode.models import attach_lora
    from privcode.privacy import make_plan
    from privcode.syntax.loss import Example, collate, per_example_losses

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
        )
        model = attach_lora(LlamaForCausalLM(config), r=4, alpha=8, dropout=0.0)
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zeros at the start, which would hide half of the gradient
                torch.nn.init.normal_(weight, std=0.3)
        examples = [
            Example(
                tuple(torch.randint(1, 64, (length,)).tolist()),
                2,
                tuple(i > 1 and i % 3 == 0 for i in range(length)),
            )
            for length in (5, 9, 4, 12, 7, 7, 3, 10)
        ]
    owners = [0, 1, 2, 3, 4, 5, 5, 1]  # some own two records, apart and side by side
    model.to(device).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def losses(batch: list[Example]) -> torch.Tensor:
        return per_example_losses(model, collate(batch, 0, device), 2.0)

    units: dict[int, torch.Tensor] = {}
    for owner, example in zip(owners, examples, strict=True):
        parts = torch.autograd.grad(losses([example]).sum(), weights)
        gradient = torch.cat([part.flatten() for part in parts]).double()
        units[owner] = units.get(owner, torch.zeros_like(gradient)) + gradient
    norms = {owner: float(gradient.norm()) for owner, gradient in units.items()}
    clip = sorted(norms.values())[len(norms) // 2]  # some units are scaled down, some are not
    expected = torch.stack([g * min(1.0, clip / norms[u]) for u, g in units.items()]).sum(0)
    plan = make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-3, units=64, batch=8, steps=1, clip_norm=clip
    )
    clipper = plan.clipper(model)
    with clipper.recording(len(examples)):
        losses(examples).sum().backward()  # type: ignore[no-untyped-call]
    clipper.accumulate(torch.tensor(owners))
    got = clipper.take_sum().double()
    error = float((got - expected).norm() / expected.norm())
    said = f"relative error {error:.1e} against a loop of single records"
    _expect(error < _ENGINE_TOLERANCE, f"{said}; do not train here")
    return said


def _noise() -> str:
    """Four moments of the plan's noise, at a scale that is neither σ nor the clip norm."""
    import torch

    from privcode.privacy import make_plan

    plan = make_plan(
        epsilon=None, noise_multiplier=1.5, delta=1e-3, units=64, batch=8, steps=1, clip_norm=0.4
    )
    clipper = plan.clipper(torch.nn.Linear(800, 500, bias=False, device="meta"))
    noise, again = (plan.noise(clipper, 0, plan.randomness()).double() / 0.6 for _ in range(2))
    _expect(not torch.equal(noise, again), "the same noise came twice; do not train here")
    # Of a standard normal, by power: its moment, and its variance.
    known = {1: (0.0, 1.0), 2: (1.0, 2.0), 3: (0.0, 15.0), 4: (3.0, 96.0)}
    far = {
        power: float((noise**power).mean() - moment) / (variance / len(noise)) ** 0.5
        for power, (moment, variance) in known.items()
    }
    mean, scale = float(noise.mean()), float(noise.std())
    said = f"{len(noise):,} draws: mean {mean:+.4f}, deviation {scale:.4f}, asked for 0 and 1"
    wrong = [
        f"moment {power} is {z:+.1f} standard errors off"
        for power, z in far.items()
        if not abs(z) < _ERRORS
    ]
    _expect(not wrong, f"{said}; {', '.join(wrong)}; do not train here")
    return said


def _sampling() -> str:
    """Mean and variance of batches small enough that a bound on their size would show."""
    import numpy as np

    from privcode.privacy import make_plan

    units, batch, steps = 400, 20, 5000
    plan = make_plan(
        epsilon=None, noise_multiplier=1.0, delta=1e-4, units=units, batch=batch, steps=steps
    )
    randomness = plan.randomness()
    sizes = np.array([len(plan.sample(units, step, randomness)) for step in range(steps)])
    spread = batch * (1 - batch / units)
    said = (
        f"{steps:,} batches: mean {sizes.mean():.2f}, variance {sizes.var():.2f}, "
        f"asked for {batch} and {spread:g}"
    )
    sound = (
        abs(sizes.mean() - batch) < _ERRORS * (spread / steps) ** 0.5
        and abs(sizes.var() / spread - 1) < _ERRORS * (2 / steps) ** 0.5
    )
    _expect(sound, f"{said}; do not train here")
    return said


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
    _expect(sound, f"{said}; install dp-accounting again, as constraints.txt has it")
    return said


def _confines(sandbox: str) -> str:
    """A hostile program in the sandbox; "auto" is what a run would take."""
    from privcode.execution import Program, choose_sandbox, execute

    name = choose_sandbox(sandbox).name
    with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
        os.fchmod(secret.fileno(), 0o666)  # so that only the sandbox can refuse
        attack = _ATTACK.format(path=secret.name, port=server.getsockname()[1])
        program = Program("doctor", attack, checked=True)
        (outcome,) = execute([program], sandbox=sandbox, workers=1)
        written = os.fstat(secret.fileno()).st_size > 0
    said = "writes" if written else outcome.stderr.strip() or outcome.error or outcome.status
    _expect(outcome.status == "ok" and not written, f"{name} does not hold a program ({said})")
    return f"{name}: a program inside cannot read, write or connect outside"


def _grammars() -> str:
    from privcode.syntax.spans import LANGUAGES, parse, structural_spans

    failed = [
        language
        for language in LANGUAGES
        if parse(_SNIPPETS[language], language).root_node.has_error
        or not structural_spans(_SNIPPETS[language], language)
    ]
    _expect(not failed, f"cannot read {', '.join(failed)}; install the tree-sitter wheels again")
    return f"{len(LANGUAGES)} languages: {', '.join(LANGUAGES)}"


def _generates(name: str) -> str:
    from privcode.generation import Sampling
    from privcode.generation.local import LocalGenerator
    from privcode.models import load_model, load_tokenizer

    model = load_model(name)
    generator = LocalGenerator(model, load_tokenizer(name))
    prompt = "Question: Write a function that adds two numbers.\n\nAnswer:\n"
    ((text,),) = generator.generate([prompt], Sampling(temperature=0.0, max_new_tokens=16))
    _expect(bool(text.strip()), "loads, but generates nothing; install privcode again")
    return f"{model.num_parameters() / 1e6:.1f} M parameters, loads and generates"


def _installed(module: str, purpose: str) -> str:
    _expect(importlib.util.find_spec(module) is not None, f"not installed ({purpose})")
    return f"{version(module.replace('_', '-'))} ({purpose})"
