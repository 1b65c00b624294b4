"""Real models, where `make real-models` has put them."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("PRIVCODE_REAL_MODELS") or Path(__file__).parents[2] / "real-models")


def real_model(name: str) -> Path:
    """The folder of a real model, or the test is skipped. NAME.gguf lies next to it."""
    folder = ROOT / name
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{folder} is not here: make real-models fetches it")
    return folder
