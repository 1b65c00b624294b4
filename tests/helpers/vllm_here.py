"""The environment of vLLM, where `make vllm` has put it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("PRIVCODE_VLLM_PYTHON") or ROOT / ".vllm" / "bin" / "python")
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_CI_ENV": "1",  # the model is not compiled, which takes minutes
    "VLLM_NO_USAGE_STATS": "1",
}


def vllm_python() -> Path:
    """The interpreter of that environment, or the test is skipped."""
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is not here: make vllm installs it")
    return PYTHON


def serving(python: str, model: str, port: int, dtype: str, batch_size: int) -> list[str]:
    """The command of vLLM's server, which calls the model "base". vllm-cpu has no `vllm serve`."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "base"]
    command += ["--dtype", dtype, "--max-num-seqs", str(batch_size)]
    return [*command, "--generation-config", "vllm", "--no-enable-chunked-prefill"]
