"""What the tests of scoring share: the official files where they are, and a sandbox."""

from pathlib import Path

import pytest

from privcode.execution import sandboxes

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture
def official() -> Path:
    """The folder of the benchmarks' own files."""
    if not SHARED.is_dir():
        pytest.skip("the benchmarks' files are not at hand (../shared/data)")
    return SHARED


@pytest.fixture
def sandbox() -> None:
    """Skip where programs cannot be confined."""
    if not any(state.available for state in sandboxes()):
        pytest.skip("no sandbox on this machine")
