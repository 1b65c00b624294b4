"""What a command does not need, it does not import: seconds before its first word."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("privcode", "typer, torch, pydantic"),
        ("privcode.cli", "torch, numpy, pydantic, dp_accounting, matplotlib"),
        ("privcode.config", "transformers, peft, trl, datasets, matplotlib"),
    ],
)
def test_a_module_is_imported_without(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(unwanted.split(", ")) & set(done.stdout.split())
