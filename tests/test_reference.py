"""The generated pages of docs/reference are those that tools/reference.py writes from the code."""

import importlib.util
import re
from pathlib import Path

import pytest

import privcode

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


def test_the_page_of_the_python_api_names_what_there_is() -> None:
    page = (ROOT / "docs" / "reference" / "python-api.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^## privcode\.(\w+)", page, re.MULTILINE))
    assert headings == set(privcode.__all__) - {"__version__"}
    run = page.partition("## privcode.Run")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| `([^|]*)` \|", run, re.MULTILINE):
        for name in re.findall(r"(\w+)\(", row):
            assert hasattr(privcode.Run, name), name
