"""Tokens a second of the backends, side by side: local, vLLM, and a server that vLLM runs.

    python benchmarks/generation.py MODEL [--vllm PYTHON] [--prompts 256] [--tokens 64]
        [--dtype float32] [--out FILE.json]

PYTHON is the interpreter of an environment with vLLM (docs/how-to/choose-an-engine.md). Each
backend gets the same prompts at temperature 1, a few to warm up, then all of them, timed. No
time to load a model counts. Tokens are those of the texts, one more for each that ended.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BACKENDS = ("local", "vllm", "endpoint")


def measure(backend: str, model: str, url: str, given: argparse.Namespace) -> dict[str, Any]:
    """Seconds and tokens of one backend, in this process."""
    from privcode.generation import Sampling, Weights
    from privcode.generation.backends import backend_of
    from privcode.generation.settings import Sampled
    from privcode.models import answer_tokens, load_tokenizer

    sampled = Sampled.model_validate(
        {"backend": backend, "endpoint": {"url": url or None, "patience": 600}}
    )
    prompts = [
        f"Question: Write a Python function that adds {n}.\n\nAnswer:\n"
        for n in range(given.prompts)
    ]
    sampling = Sampling(temperature=1.0, max_new_tokens=given.tokens, seed=1)
    tokenizer = load_tokenizer(model)
    with tempfile.TemporaryDirectory() as folder:
        make = backend_of(sampled, "benchmark", Path(folder) / "answers")
        begin = time.monotonic()
        generator = make(Weights(model, model, given.dtype, label="base"), given.batch_size)
        loaded = time.monotonic() - begin
        generator.generate(prompts[:8], sampling, 1)
        begin = time.monotonic()
        texts = generator.generate(prompts, sampling, 0)
        seconds = time.monotonic() - begin
    lengths = [len(answer_tokens(tokenizer, text).ids) for (text,) in texts]
    tokens = sum(min(length + 1, given.tokens) for length in lengths)
    return {
        "backend": backend,
        "load_seconds": round(loaded, 1),
        "seconds": round(seconds, 2),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
    }


def in_process(backend: str, python: str, given: argparse.Namespace, url: str = "") -> Any:
    """`measure` in a process of its own, with the interpreter that has the backend."""
    asked = [given.model, "--only", backend, "--url", url]
    for name in ("prompts", "tokens", "batch_size", "dtype"):
        asked += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    done = subprocess.run(
        [python, __file__, *asked],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=_environment(),
    )
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    return os.environ | {"PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1"}


def served(given: argparse.Namespace) -> Any:
    """The endpoint backend over `vllm serve`."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers.servers import Server, free_port
    from tests.helpers.vllm_here import serving

    port = free_port()
    command = serving(given.vllm, given.model, port, given.dtype, given.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(command, Path(folder) / "log", port, _environment())
        server.start()
        try:
            return in_process("endpoint", sys.executable, given, f"http://127.0.0.1:{port}/v1")
        finally:
            server.stop()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, with the ratio to the first row."""
    lines = ["| backend | tokens/s | times local | seconds | load, s |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = row["tokens_per_second"] / rows[0]["tokens_per_second"]
        lines.append(
            f"| {row['backend']} | {row['tokens_per_second']:.0f} | {ratio:.2f} | "
            f"{row['seconds']:.1f} | {row['load_seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--vllm", help="interpreter of an environment with vLLM")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=BACKENDS, help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.model, given.url, given)))
        return
    settings = {n: getattr(given, n) for n in ("model", "prompts", "tokens", "batch_size", "dtype")}
    settings["model"] = Path(given.model).name
    rows = []
    for backend in BACKENDS if given.vllm else BACKENDS[:1]:
        if backend == "endpoint":
            rows.append(served(given))
        else:
            python = given.vllm if backend == "vllm" else sys.executable
            rows.append(in_process(backend, python, given))
        if given.out:  # what is measured is kept
            found = {"settings": settings, "backends": rows}
            given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
