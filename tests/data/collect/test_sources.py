"""What is read of repositories and folders, and what is not: every odd kind of file and tree."""

import json
import os
import shutil
import stat
from collections import Counter
from pathlib import Path

import pytest

from privcode.data.collect import Collected, Options, collect
from privcode.data.collect.licences import licence_of
from privcode.data.collect.skipping import by_name, by_text
from privcode.errors import UserError
from privcode.files import Row
from tests.helpers.repositories import BOB, commit, function, git, record


def collected(*paths: Path, **options: object) -> tuple[list[Row], Collected]:
    """The rows that a collection writes, and what it says."""
    out = paths[0].parent / "out" / f"{len(os.listdir(paths[0].parent))}.jsonl"
    out.unlink(missing_ok=True)
    done = collect(paths, out, Options(**options))  # type: ignore[arg-type]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    out.unlink()
    return rows, done


def names(rows: list[Row]) -> list[str]:
    """The names of the functions that `function` made."""
    return [row["completion"].partition("(")[0].removeprefix("def ") for row in rows]


def test_tracked_files_of_the_commit_are_read_and_no_other(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"b.py": function("tracked"), "c/d.py": function("below"), ".gitignore": "ign*"})
    (root / "new.py").write_text(function("untracked"))
    (root / "ignored.py").write_text(function("ignored"))
    (root / "staged.py").write_text(function("staged"))
    git(root, "add", "staged.py")
    rows, done = collected(root)
    assert names(rows) == ["tracked", "below"]
    assert [(row["repository"], row["path"]) for row in rows] == [
        ("app", "b.py"),
        ("app", "c/d.py"),
    ]
    assert done.skipped == {"file of another kind or language": 1}


def test_what_was_deleted_or_edited_since_the_commit_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {f"{name}.py": function(name) for name in ("kept", "deleted", "edited")})
    (root / "deleted.py").unlink()
    (root / "edited.py").write_text(function("edited") + "# without the secret\n")
    rows, done = collected(root)
    assert names(rows) == ["kept"]
    assert done.skipped == {
        "file changed since the commit": 1,
        "file that is not there, or may not be read": 1,
    }


def test_line_ends_and_marks_of_a_file_are_not_in_its_records(tmp_path: Path) -> None:
    root = tmp_path / "app"
    windows = function("windows").replace("\n", "\r\n").encode()
    commit(root, {"a.py": windows, "b.py": b"\xef\xbb\xbf" + function("marked").encode()})
    git(root, "config", "core.autocrlf", "true")
    commit(root, {"c.py": function("converted")})
    (root / "c.py").unlink()
    git(root, "checkout", "c.py")
    assert b"\r\n" in (root / "c.py").read_bytes()
    rows, _ = collected(root)
    assert names(rows) == ["windows", "marked", "converted"]
    assert r"\r" not in json.dumps(rows)
    assert all(row["author"] == "ann@example.org" for row in rows)


def test_a_file_that_is_not_utf8_text_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "app"
    latin = function("latin", "Grüße an alle.").encode("latin-1")
    commit(
        root,
        {"a.py": function("good"), "b.py": latin, "c.py": b"x\0y", "d.py": "é".encode("utf-16")},
    )
    rows, done = collected(root)
    assert names(rows) == ["good"]
    assert done.skipped == {"file that is not UTF-8": 1, "file that is not text": 2}


def test_a_name_that_is_not_utf8_is_shown_in_letters_that_are(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {})
    path = os.path.join(os.fsencode(root), b"caf\xe9 \n\x1b.py")
    with open(path, "w") as file:
        file.write(function("odd"))
    git(root, "add", "-A")
    record(root)
    rows, _ = collected(root)
    assert [(row["path"], row["author"]) for row in rows] == [
        ("caf\\xe9 \\n\\x1b.py", "ann@example.org")
    ]


@pytest.mark.parametrize("tracked", [True, False])
def test_no_symbolic_link_is_followed(tmp_path: Path, tracked: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text(function("secret"))
    root = tmp_path / "app"
    root.mkdir()
    (root / "own.py").write_text(function("own"))
    (root / "file.py").symlink_to(outside / "secret.py")
    (root / "folder").symlink_to(outside)
    (root / "LICENSE").symlink_to(outside / "secret.py")
    if tracked:
        commit(root, {})
    rows, done = collected(root)
    assert names(rows) == ["own"]
    assert done.skipped["symbolic link"] == 3
    assert rows[0]["licence"] == "unknown"


def test_a_tracked_file_behind_a_link_is_what_was_committed_or_left_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.py").write_text(function("secret"))
    root = tmp_path / "app"
    commit(root, {"folder/a.py": function("committed"), "b.py": function("other")})
    shutil.rmtree(root / "folder")
    (root / "folder").symlink_to(outside)
    rows, done = collected(root)
    assert names(rows) == ["other"]
    assert done.skipped == {"file changed since the commit": 1}


def test_devices_and_pipes_are_not_opened(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    root.mkdir()
    (root / "a.py").write_text(function("own"))
    os.mkfifo(root / "pipe.py")
    rows, _ = collected(root)
    assert names(rows) == ["own"]


def test_a_submodule_is_left_out_and_counted(tmp_path: Path) -> None:
    commit(tmp_path / "library", {"a.py": function("library")})
    root = tmp_path / "app"
    commit(root, {"a.py": function("own")})
    git(root, "submodule", "--quiet", "add", str(tmp_path / "library"), "library")
    record(root)
    rows, done = collected(root)
    assert names(rows) == ["own"]
    assert done.skipped["submodule"] == 1


def test_a_repository_inside_another_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("own"), ".gitignore": "nested"})
    commit(root / "nested", {"a.py": function("nested")})
    assert names(collected(root)[0]) == ["own"]


def test_repositories_inside_a_plain_folder_are_read_as_repositories(tmp_path: Path) -> None:
    root = tmp_path / "work"
    commit(root / "x" / "app", {"a.py": function("first"), "LICENSE": "Do as you like"}, BOB)
    commit(root / "y" / "app", {"a.py": function("second")})
    (root / "x" / "app" / "untracked.py").write_text(function("untracked"))
    (root / "x" / "loose.py").write_text(function("loose"))
    (root / ".cache").mkdir()
    (root / ".cache" / "hidden.py").write_text(function("hidden"))
    rows, done = collected(root, unit="repository")
    assert [
        (n, row["repository"], row["author"]) for n, row in zip(names(rows), rows, strict=True)
    ] == [
        ("loose", "work", None),
        ("first", "x/app", "bob@example.org"),
        ("second", "y/app", "ann@example.org"),
    ]
    assert [row["licence"] for row in rows] == ["unknown", "unknown (LICENSE)", "unknown"]
    assert rows[0]["date"] is None
    assert rows[1]["date"] == "2001-09-09T01:46:40+00:00"
    assert (done.no_author, done.skipped["hidden folder"]) == (1, 1)


def test_a_part_of_a_repository_can_be_named(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("outer"), "part/b.py": function("inner"), "LICENSE": "x"})
    (root / "part" / "new.py").write_text(function("untracked"))
    rows, _ = collected(root / "part")
    assert names(rows) == ["inner"]
    facts = {column: rows[0][column] for column in ("repository", "path", "author", "licence")}
    assert facts == {
        "repository": "app",
        "path": "part/b.py",
        "author": "ann@example.org",
        "licence": "unknown (LICENSE)",
    }
    (root / "untracked").mkdir()
    (root / "untracked" / "c.py").write_text(function("plain"))
    rows, _ = collected(root / "untracked")
    assert [(row["repository"], row["author"]) for row in rows] == [("untracked", None)]


def test_a_second_work_tree_is_read_as_the_repository_it_is(tmp_path: Path) -> None:
    commit(tmp_path / "app", {"a.py": function("own")})
    git(tmp_path / "app", "worktree", "add", "-q", str(tmp_path / "second"))
    rows, _ = collected(tmp_path / "second")
    assert [(row["repository"], row["author"]) for row in rows] == [("second", "ann@example.org")]


def _bare(root: Path) -> Path:
    commit(root / "app", {"a.py": function("own")})
    git(root, "clone", "-q", "--bare", "app", "bare")
    return root / "bare"


def _inside(root: Path) -> Path:
    commit(root / "app", {"a.py": function("own")})
    return root / "app" / ".git"


def _empty(root: Path) -> Path:
    (root / "empty").mkdir()
    git(root / "empty", "init", "-q")
    return root / "empty"


def _broken(root: Path) -> Path:
    commit(root / "app", {"a.py": function("own")})
    shutil.rmtree(root / "app" / ".git" / "objects")
    return root / "app"


def _without_config(root: Path) -> Path:
    commit(root / "app", {"a.py": function("own")})
    (root / "app" / ".git" / "config").write_text("[core\nnonsense")
    return root / "app"


def _without_blob_of_tree(root: Path) -> Path:
    commit(root / "app", {"a.py": function("own")})
    tree = git(root / "app", "rev-parse", "HEAD^{tree}").strip()
    (root / "app" / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    return root / "app"


def _shallow(root: Path) -> Path:
    for n in range(3):
        commit(root / "app", {f"{n}.py": function(f"own{n}")})
    git(root, "clone", "-q", "--depth", "1", f"file://{root / 'app'}", "shallow")
    return root / "shallow"


def _file(root: Path) -> Path:
    (root / "a.py").write_text(function("own"))
    return root / "a.py"


def _without_code(root: Path) -> Path:
    (root / "texts").mkdir()
    (root / "texts" / "a.txt").write_text("words")
    return root / "texts"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_bare, "without a work tree"),
        (_inside, "without a work tree"),
        (_empty, "without a commit"),
        (_broken, "git fsck"),
        (_without_config, "git fsck"),
        (_without_blob_of_tree, "git fsck"),
        (_shallow, "--unshallow"),
        (_file, "is not a folder"),
        (lambda root: root / "missing", "No such file"),
        (_without_code, "would hold no record"),
    ],
)
def test_what_cannot_be_collected_is_one_line_and_leaves_nothing(
    make: object, words: str, tmp_path: Path
) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match=words):
        collect([path], tmp_path / "out.jsonl")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_shallow_clone_has_no_authors_and_can_be_read_by_repository(tmp_path: Path) -> None:
    rows, _ = collected(_shallow(tmp_path), unit="repository")
    assert [(row["author"], row["date"]) for row in rows] == [(None, None)] * 3


def test_a_folder_and_one_inside_it_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for twice in ("a/b", "link", "a"):
        with pytest.raises(UserError, match="only one of the two"):
            collect([tmp_path / "a", tmp_path / twice], tmp_path / "out.jsonl")


HOSTILE = """
[core]
    fsmonitor = {run}
    hooksPath = {hooks}
    pager = {run}
    editor = {run}
    sshCommand = {run}
    attributesFile = {attributes}
    worktree = {elsewhere}
    alternateRefsCommand = {run}
[diff]
    external = {run}
[diff "bad"]
    textconv = {run}
    command = {run}
[filter "bad"]
    clean = {run}
    smudge = {run}
    process = {run}
    required = true
[merge "bad"]
    driver = {run}
[pager]
    blame = {run}
    ls-tree = {run}
[alias]
    blame = !{run}
    ls-tree = !{run}
    rev-parse = !{run}
[log]
    showSignature = true
[gpg]
    program = {run}
[credential]
    helper = !{run}
[protocol]
    allow = always
[protocol "ext"]
    allow = always
[extensions]
    partialClone = origin
[remote "origin"]
    url = ext::{run}
    promisor = true
    partialclonefilter = blob:none
    uploadpack = {run}
[blame]
    ignoreRevsFile = {run}
[mailmap]
    file = {mailmap}
"""


@pytest.mark.parametrize("lacking", [False, True])
def test_nothing_that_a_hostile_repository_names_is_run(tmp_path: Path, lacking: bool) -> None:
    root, mark = tmp_path / "app", tmp_path / "ran"
    older = {"a.py": "x = 1\n" + function("own"), ".gitattributes": "*.py diff=bad filter=bad\n"}
    commit(root, older)
    commit(root, {"a.py": function("own")}, BOB)
    run = tmp_path / "run.sh"
    run.write_text(f'#!/bin/sh\necho "$0 $@" >> {mark}\nexit 1\n')
    run.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in (
        "post-index-change",
        "reference-transaction",
        "post-checkout",
        "fsmonitor-watchman",
    ):
        shutil.copy(run, hooks / hook)
        shutil.copy(run, root / ".git" / "hooks" / hook)
    attributes, mailmap = tmp_path / "attributes", tmp_path / "mailmap"
    attributes.write_text("* diff=bad filter=bad merge=bad\n")
    mailmap.write_text("<other@example.org> <ann@example.org>\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.py").write_text(function("elsewhere"))
    places = {"run": run, "hooks": hooks, "attributes": attributes, "mailmap": mailmap}
    with (root / ".git" / "config").open("a") as config:
        config.write(HOSTILE.format(**places, elsewhere=elsewhere))
    if lacking:  # blame needs the older blob, and git would fetch it
        blob = git(root, "rev-parse", "HEAD~:a.py", GIT_NO_LAZY_FETCH="1").strip()
        (root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
        mark.unlink(missing_ok=True)
    rows, _ = collected(root, unit="repository")
    assert not mark.exists(), mark.read_text()
    assert names(rows) == ["own"]
    assert rows[0]["author"] == (None if lacking else "ann@example.org")


def test_the_hostile_settings_are_ones_that_git_obeys(tmp_path: Path) -> None:
    """Plain git runs them: so the test above tries something."""
    root, mark = tmp_path / "app", tmp_path / "ran"
    commit(root, {"a.py": "x = 1\n", ".gitattributes": "*.py diff=bad filter=bad\n"})
    run = tmp_path / "run.sh"
    run.write_text(f"#!/bin/sh\necho ran >> {mark}\ncat\n")
    run.chmod(0o755)
    for setting in ("diff.bad.textconv", "core.fsmonitor", "filter.bad.clean"):
        git(root, "config", setting, str(run))
        (root / "a.py").write_text(f"x = {setting!r}\n")
        git(root, *(["status"] if setting == "core.fsmonitor" else ["blame", "a.py"]))
        assert mark.exists(), setting
        mark.unlink()
        git(root, "config", "--unset", setting)


def test_reading_changes_nothing_in_a_repository(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("own")})
    os.utime(root / "a.py", (1, 1))  # git status would refresh the index

    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in sorted(root.rglob("*"))
        }

    before = state()
    collected(root)
    assert state() == before


def test_settings_of_the_person_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("own")})
    plain, _ = collected(root)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mailmap").write_text("<other@example.org> <ann@example.org>\n")
    (tmp_path / "home" / ".gitconfig").write_text("[mailmap]\n\tfile = ~/mailmap\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "mailmap.file")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(tmp_path / "home" / "mailmap"))
    assert collected(root)[0] == plain


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("src/a.py", None),
        ("Vendor/a.py", "file in a vendored folder"),
        ("web/node_modules/x/a.js", "file in a vendored folder"),
        ("third_party/a.cc", "file in a vendored folder"),
        ("vendoring/a.py", None),
        ("vendor.py", None),
        ("js/a.min.js", "packed file"),
        ("a_pb2.py", "generated file"),
        ("src/yarn.lock", "lock file"),
        ("tests/a.py", "excluded"),
    ],
)
def test_files_left_out_by_their_path(path: str, reason: str | None) -> None:
    assert by_name(path, ("tests/*",)) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", None),
        ("// Code generated by protoc. DO NOT EDIT.\n", "generated file"),
        ("/*\n * @generated\n */\n", "generated file"),
        ("# This file is auto-generated\n", "generated file"),
        ('print("generated by hand, do not edit")\n', None),
        (f"x = '{'a' * 994}'\n", None),
        (f"x = '{'a' * 1000}'\n", "file with a line over 1,000 characters"),
    ],
)
def test_files_left_out_by_their_text(text: str, reason: str | None) -> None:
    assert by_text(text) == reason


def test_files_that_are_not_source_are_counted_by_reason(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(
        root,
        {
            "a.py": function("own"),
            "big.py": function("big") + "# x\n" * 300_000,
            "long.py": f"x = '{'a' * 5000}'\n",
            "vendor/a.py": function("vendored"),
            "a.min.js": "f()",
            "poetry.lock": "",
            "gen.py": "# @generated\n" + function("generated"),
            "README.md": "words",
        },
    )
    rows, done = collected(root)
    assert names(rows) == ["own"]
    assert done.skipped == {
        "file over 1 MB": 1,
        "file with a line over 1,000 characters": 1,
        "file in a vendored folder": 1,
        "packed file": 1,
        "lock file": 1,
        "generated file": 1,
        "file of another kind or language": 1,
    }


def test_a_licence_is_named_only_by_sure_signs() -> None:
    mit = (
        "MIT License\n\nCopyright (c) 2020 A\n\nPermission is hereby granted, free of charge, to "
        "any person obtaining a copy\nof this software and associated documentation files …"
    )
    apache = Path(__file__).parents[3] / "LICENSE"
    assert licence_of("LICENSE", mit) == "MIT (LICENSE)"
    assert licence_of("LICENSE", apache.read_text()) == "Apache-2.0 (LICENSE)"
    assert licence_of("COPYING", "All ours.") == "unknown (COPYING)"
    assert licence_of("LICENSE", mit + apache.read_text()) == "unknown (LICENSE)"
    bsd = "Redistribution and use in source and binary forms, with or without\nmodification, are"
    assert licence_of("LICENSE", bsd) == "BSD-2-Clause (LICENSE)"


def test_what_is_written_is_the_owners_alone(tmp_path: Path) -> None:
    commit(tmp_path / "app", {"a.py": function("own")})
    old = os.umask(0)
    try:
        collect([tmp_path / "app"], tmp_path / "out.jsonl")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out.jsonl").stat().st_mode) == 0o600


def test_a_file_that_exists_or_is_tracked_is_never_written(tmp_path: Path) -> None:
    root = tmp_path / "app"
    commit(root, {"a.py": function("own"), "records.jsonl": "mine\n"})
    with pytest.raises(UserError, match="exists already"):
        collect([root], root / "records.jsonl")
    (root / "records.jsonl").unlink()
    with pytest.raises(UserError, match="is a file of the repository app"):
        collect([root], root / "records.jsonl")
    with pytest.raises(UserError, match="is not a folder"):
        collect([root], root / "a.py" / "records.jsonl")
    assert (root / "a.py").read_text() == function("own")
    assert Counter(os.listdir(root)) == Counter([".git", "a.py"])
