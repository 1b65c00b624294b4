"""docs/evidence/results.md shows what `make results` wrote, figure by figure."""

from pathlib import Path

from privcode.experiments.page import markdown
from privcode.files import read_json
from privcode.pipeline.arms import table

DOCS = Path(__file__).parents[2] / "docs" / "evidence"
FACTS = read_json(DOCS / "results" / "results.json")


def test_the_tables_in_the_docs_are_computed_from_the_rows():
    assert table(FACTS["rows"]) == FACTS["table"]
    written = (DOCS / "results" / "table.md").read_text(encoding="utf-8")
    assert written == markdown(FACTS)
    shown = (DOCS / "results.md").read_text(encoding="utf-8")
    for part in written.strip().split("\n\n"):
        assert part in shown, part[:80]


def test_every_picture_in_the_docs_is_there():
    shown = (DOCS / "results.md").read_text(encoding="utf-8")
    for picture in (DOCS / "results").glob("*.png"):
        assert f"](results/{picture.name})" in shown
