"""What the documents name is there: relative links, their headings, and paths of the repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "src", "tests", "benchmarks", "configs", "examples", "tools", ".ci", ".github")
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").glob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
    ]
)
CODE = sorted(
    path
    for folder in ("src", "tests", "benchmarks", "configs", "examples", "tools", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".yaml", ".j2", ".md") and path.is_file()
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACE = re.compile(rf"(?<![\w/.-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*[\w/]")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links call them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    titles = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    kept = [re.sub(r"[^\w\s-]", "", title.encode("ascii", "ignore").decode()) for title in titles]
    return {re.sub(r"[-\s]+", "-", title.strip().lower()) for title in kept}


def test_there_are_pages() -> None:
    assert {"README.md", "docs/index.md"} <= set(map(name_of, PAGES))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_test_that_public_reports_name_exists() -> None:
    page = (ROOT / "docs/evidence/public-reports.md").read_text(encoding="utf-8")
    named = {words.strip() for words in re.findall(r"\btest ((?:\w+ )+)(?=\||;)", page)}
    there = {
        name.replace("_", " ")
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def test_(\w+)", path.read_text(encoding="utf-8"), flags=re.M)
    }
    assert len(named) > 30
    assert named - there == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    for name in PLACE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


def test_every_page_that_the_code_names_exists() -> None:
    for path in [*CODE, ROOT / "Makefile"]:
        for name in re.findall(r"(?<![\w/.-])docs/[\w./-]*\w\.md", path.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{name_of(path)} names {name}"


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in listed or name.startswith("evidence/results"), name
