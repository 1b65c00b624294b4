"""No test writes to the real home: what tests spend is noted in directories of their own."""

import os
import tempfile
from pathlib import Path

import pytest

# For fixtures of wider scope, and for modules that copy the environment when they are imported.
_SHARED = tempfile.TemporaryDirectory(prefix="privcode-state-")
os.environ["PRIVCODE_STATE"] = _SHARED.name


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own registry of what was spent."""
    monkeypatch.setenv("PRIVCODE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"
