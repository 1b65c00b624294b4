"""Whose a record is: blame with renames, mail maps, merges, ties and white space."""

import json
from pathlib import Path
from typing import Any

import pytest

from privcode.data.collect import Collected, Options, collect
from privcode.data.collect.authors import Written, author_of, date_of
from privcode.errors import UserError
from privcode.files import Row
from tests.helpers.repositories import ANN, BOB, commit, function, git, record

CAY = "Cay <cay@example.org>"


def collected(root: Path, **options: Any) -> tuple[list[Row], Collected]:
    out = root.parent / "out.jsonl"
    done = collect([root], out, Options(**options))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    out.unlink()
    return rows, done


def authors(root: Path, **options: Any) -> list[str | None]:
    return [row["author"] for row in collected(root, **options)[0]]


def test_a_definition_is_of_whoever_wrote_most_of_its_lines(tmp_path: Path) -> None:
    root = tmp_path / "app"
    first = function("f", lines=6)
    commit(root, {"a.py": first}, ANN)
    changed = first.replace("f_1", "other").replace("    return f_0", "    more(1)\n    return 1")
    commit(root, {"a.py": changed}, BOB, 1_100_000_000)
    rows, done = collected(root)
    assert rows[0]["author"] == "ann@example.org"
    assert rows[0]["date"] == "2004-11-09T11:33:20+00:00"
    assert done.several_authors == 1
    assert authors(root, author="last") == ["bob@example.org"]


def test_only_definitions_of_one_person_can_be_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "app"
    mixed = "class A:\n    x = 1\n\n" + "".join(
        f"    {line}\n" for line in function("g").splitlines()
    )
    commit(root, {"a.py": function("f"), "b.py": mixed}, ANN)
    both = function("f").replace("return f_0", "return 1")
    commit(root, {"a.py": both, "b.py": mixed.replace("class A", "class B")}, BOB)
    commit(root, {"c.py": function("h")}, CAY)
    rows, done = collected(root, author="only")
    assert [row["author"] for row in rows] == ["cay@example.org"]
    assert done.skipped == {"definition of several authors, or of none": 2}
    assert done.several_authors == 0
    # In a window of a file, lines of others count too.
    commit(root, {"c.py": function("h") + "\n\nx = 1\n"}, BOB)
    with pytest.raises(UserError, match="no record"):
        collected(root, author="only", style="fim")


def test_one_person_with_two_addresses_is_one_unit_by_the_mail_map(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("f")}, "A. <ANN@old.example.org>")
    commit(root, {"b.py": function("g")}, ANN)
    assert authors(root) == ["ann@old.example.org", "ann@example.org"]
    commit(root, {".mailmap": "Ann <Ann@example.org> <ann@old.example.org>\n"}, ANN)
    rows, done = collected(root)
    assert [row["author"] for row in rows] == ["ann@example.org"] * 2
    assert done.units == {"author": 1, "repository": 1}


def test_a_renamed_file_and_new_white_space_keep_their_authors(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("f")}, ANN)
    git(root, "mv", "a.py", "b.py")
    record(root, BOB)
    indented = "class A:\n" + "".join(f"    {line}\n" for line in function("f").splitlines())
    commit(root, {"b.py": indented}, BOB)
    assert authors(root) == ["ann@example.org"]


def test_lines_that_are_moved_in_a_file_keep_their_authors(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("f", lines=9) + function("g", lines=9)}, ANN)
    commit(root, {"a.py": function("g", lines=9) + function("f", lines=9)}, BOB)
    assert authors(root) == ["ann@example.org"] * 2


def test_a_merge_keeps_the_authors_of_both_sides(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("f"), "b.py": function("g")}, CAY)
    git(root, "checkout", "-q", "-b", "side")
    commit(root, {"a.py": function("f2", lines=9)}, ANN)
    git(root, "checkout", "-q", "main")
    commit(root, {"b.py": function("g2", lines=9)}, BOB)
    cay = {"GIT_COMMITTER_NAME": "Cay", "GIT_COMMITTER_EMAIL": "cay@example.org"}
    git(root, "merge", "-q", "--no-commit", "side", **cay)
    record(root, CAY)
    assert authors(root) == ["ann@example.org", "bob@example.org"]


def test_an_author_without_an_address_is_nobody(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("f")}, "Ann <>")
    rows, done = collected(root)
    assert (rows[0]["author"], done.no_author) == (None, 1)


def test_lines_and_addresses_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("f") + "\tx = 'author-mail <other@example.org>'\n"}, ANN)
    git(root, "config", "i18n.commitEncoding", "latin1")
    commit(root, {"b.py": function("g")}, "Änne <änne@example.org>")
    assert authors(root)[0] == "ann@example.org"
    assert authors(root)[1].endswith("nne@example.org")  # type: ignore[union-attr]


def test_ties_are_broken_by_the_address() -> None:
    ann, bob, nobody = Written("ann", 1), Written("bob", 1), Written(None, 1)
    for lines in ([ann, bob], [bob, ann], [bob, bob, ann, ann]):
        assert author_of(lines, "most") == "ann"
        assert author_of(lines, "last") == "ann"
    assert author_of([ann, ann, Written("cay", 2)], "last") == "cay"
    assert author_of([nobody, nobody, ann], "most") is None
    assert author_of([], "most") is None


def test_a_time_that_is_no_date_is_none() -> None:
    assert date_of([]) is None
    assert date_of([Written("a", 10**18)]) is None
    assert date_of([Written("a", 0), Written("b", 60)]) == "1970-01-01T00:01:00+00:00"
