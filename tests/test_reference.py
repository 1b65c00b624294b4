"""The generated pages of docs/reference are those that tools/reference.py writes from the code."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["command-line.md", "config.md"])
def test_a_generated_page_is_current(page: str) -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec
    assert spec.loader
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    written = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert written == reference.PAGES[page](), "run: python tools/reference.py"
