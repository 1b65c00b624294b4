"""What privcode made is read as plain files, and verify writes nothing."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privcode.errors import UserError
from privcode.files import sha256_tree
from privcode.pipeline.directory import passing
from privcode.pipeline.run import Run
from privcode.plain import files_below, hash_plain, open_plain, read_object, read_plain
from privcode.release.verify import release
from tests.helpers.bundles import ROWS, evidence, write_adapter
from tests.helpers.commands import privcode, refused, snapshot
from tests.helpers.runs import make_run

ORDINARY = 23_456
PLACES = (
    "config.yaml",
    "manifest.json",
    "private/manifest.json",
    "private/ledger.jsonl",
    "private/verdicts.jsonl",
    "private/more",
    "models/premium/adapter_config.json",
    "models/more",
    "evaluation/audit.json",
    "evaluation/more.tuned.json",
    "synthetic/accepted.jsonl",
    "release/more",
)
IN_A_BUNDLE = ("privacy.json", "README.md", "adapter/adapter_config.json", "data/more", "more")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made")).out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "alone" / "run")
    return tmp_path / "alone" / "run"


def link(path: Path) -> None:
    kept = path.with_name("kept")
    if path.exists():
        path.rename(path.parent.parent / "kept")
        kept = path.parent.parent / "kept"
    path.symlink_to(kept)


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def endless_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        os.mknod(path, 0o020644, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").symlink_to("/etc/hostname")


KINDS = (link, fifo, unix_socket, endless_device, folder)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_plain_file_in_a_run_is_refused(
    run: Path, place: str, kind: Callable[[Path], None]
) -> None:
    kind(run / place)
    for command in ("verify", "release", "report", "run"):
        err = refused(command, run)
        assert any(word in err for word in ("symbolic link", "plain file", "not a run")), err


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", IN_A_BUNDLE)
def test_what_is_no_plain_file_in_a_bundle_is_refused(
    run: Path, place: str, kind: Callable[[Path], None]
) -> None:
    kind(run / "release" / place)
    refused("verify", run / "release")


def test_a_linked_private_folder_is_refused_and_what_it_leads_to_is_left_alone(
    run: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (run / "private").rename(elsewhere)
    elsewhere.chmod(0o755)
    (run / "private").symlink_to(elsewhere)
    before = snapshot(elsewhere)
    for command in ("verify", "release", "report", "run"):
        assert "private: is a symbolic link" in refused(command, run)
    (run / "config.yaml").rename(tmp_path / "config.yaml")
    assert "symbolic link" in refused("run", tmp_path / "config.yaml", "--out", run)
    assert snapshot(elsewhere) == before


def test_a_run_and_a_bundle_may_be_named_by_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "bundle").symlink_to(run / "release")
    assert privcode("verify", tmp_path / "link")[0] == 0
    assert privcode("verify", tmp_path / "bundle")[0] == 0


def test_verify_changes_nothing_in_a_run_or_a_bundle(run: Path) -> None:
    (run / "private").chmod(0o755)
    (run / "private" / ".lock").unlink()
    before = snapshot(run)
    assert privcode("verify", run)[0] == 0
    assert privcode("verify", run / "release")[0] == 0
    assert snapshot(run) == before
    (run / "models" / "more").write_text("")
    before = snapshot(run)
    refused("verify", run)
    assert snapshot(run) == before


def test_verify_makes_no_private_folder(run: Path) -> None:
    shutil.rmtree(run / "private")
    before = snapshot(run)
    refused("verify", run)
    assert snapshot(run) == before


@pytest.fixture
def read_only(made: Path) -> Iterator[Path]:
    """A run that nobody may write and everybody may read, where everybody may go."""
    root = Path(tempfile.mkdtemp(prefix="privcode-test-", dir="/tmp"))
    shutil.copytree(made, root / "run")
    root.chmod(0o755)
    for path in [root / "run", *(root / "run").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield root / "run"
    for path in [root / "run", *(root / "run").rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(root)


def test_another_user_can_verify_a_run_that_cannot_be_written(
    read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVCODE_STATE", str(read_only / "none"))
    before = snapshot(read_only)
    if os.geteuid() == 0:
        os.seteuid(ORDINARY)
        try:
            run, bundle = privcode("verify", read_only), privcode("verify", read_only / "release")
        finally:
            os.seteuid(0)
    else:
        run, bundle = privcode("verify", read_only), privcode("verify", read_only / "release")
    assert (run[0], bundle[0]) == (0, 0), (run, bundle)
    assert snapshot(read_only) == before


def test_what_cannot_be_read_is_one_line(read_only: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    (read_only / "private").chmod(0o700)
    os.seteuid(ORDINARY)
    try:
        assert "private: cannot be read" in refused("verify", read_only)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "place",
    ["config.yaml", "manifest.json", "private/manifest.json", "evaluation/audit.json"],
)
def test_a_document_that_is_far_too_large_is_not_read(run: Path, place: str) -> None:
    with (run / place).open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room
    for command in ("report", "run"):
        refused(command, run)
    with (run / place).open("r+b") as file:
        file.truncate(0)
    with (run / "release" / "privacy.json").open("r+b") as file:
        file.truncate(2**40)
    assert "larger than" in refused("verify", run / "release")


# What is in a bundle.


@pytest.mark.parametrize(
    "name",
    [
        "models/premium/.x.tmp",
        "models/premium/.cache.tmp/records.jsonl",
        "models/premium/.0123abcd.tmp",
        "models/premium/.adapter_config.json.0123abcd.tmp",
        "models/.premium.tmp/adapter_config.json",
        "models/.x.partial",
        "models/.lock",
        ".x.tmp/records.jsonl",
        ".x.lock",
        "private/.x.lock",
        "synthetic/.x.partial",
        "evaluation/.tmp/records.jsonl",
        ".release.tmp/records.jsonl",
        ".release.tmp/adapter/.x.tmp",
        "release/.x.tmp",
        "release/adapter/.x.tmp",
        "release/.release.tmp/x",
    ],
)
def test_a_file_that_only_looks_passing_is_refused_and_not_released(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("a private record")
    assert name.rpartition("/")[2] in refused("verify", run)
    if not name.startswith("release/"):
        refused("release", run)
    assert not any(
        b"a private record" in path.read_bytes()
        for path in (run / "release").rglob("*")
        if path.is_file() and not name.startswith("release/")
    )


@pytest.mark.parametrize(
    "name",
    [
        ".manifest.json.0123abcd.tmp",
        ".config.yaml.0123abcd.tmp",
        "private/.lock",
        "private/.sanitize.partial",
        "private/.verdicts.jsonl.partial",
        "private/.data.json.0123abcd.tmp",
        "synthetic/.raw.jsonl.partial",
        "synthetic/.accepted.jsonl.0123abcd.tmp",
        "evaluation/.house.base.json.0123abcd.tmp",
        ".release.tmp/README.md",
        ".release.tmp/adapter/adapter_model.safetensors",
        ".release.tmp/data/train-00000-of-00001.parquet",
    ],
)
def test_what_privcode_leaves_for_a_while_is_passing_where_it_leaves_it(name: str) -> None:
    assert passing(name, {})
    assert not passing(f"models/{name}", {})
    assert not passing(f"release/{name}", {})


def test_a_half_saved_model_is_passing_until_the_whole_one_is_noted() -> None:
    half = "models/.premium.tmp/adapter_model.safetensors"
    assert passing(half, {})
    assert passing(half, {"models/junior/adapter_config.json": ""})
    assert not passing(half, {"models/premium/adapter_config.json": ""})


def test_a_killed_release_leaves_nothing_that_the_next_one_takes(run: Path) -> None:
    (run / ".release.tmp" / "adapter").mkdir(parents=True)
    (run / ".release.tmp" / "adapter" / "adapter_config.json").write_text("a private record")
    assert privcode("verify", run)[0] == 0
    assert privcode("release", run)[0] == 0
    assert not (run / ".release.tmp").exists()
    assert privcode("verify", run / "release")[0] == 0


def test_a_bundle_holds_the_files_that_the_manifest_lists_and_no_other(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    hashes = sha256_tree(adapter)
    (adapter / ".x.tmp").write_text("a private record")
    (adapter / ".cache.tmp").mkdir()
    (adapter / ".cache.tmp" / "records.jsonl").write_text("a private record")
    release(evidence(), ROWS, adapter, hashes, tmp_path / "release")
    assert {n for n in sha256_tree(tmp_path / "release") if n.startswith("adapter/")} == {
        f"adapter/{name}" for name in hashes
    }


def test_a_model_changed_after_its_stage_is_not_released(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    hashes = sha256_tree(adapter)
    (adapter / "adapter_config.json").write_bytes(
        (adapter / "adapter_config.json").read_bytes() + b" "
    )
    with pytest.raises(UserError, match=r"_config\.json: is not the file that the run wrote"):
        release(evidence(), ROWS, adapter, hashes, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_what_lies_in_a_finished_model_is_not_read_by_a_later_stage(run: Path) -> None:
    (run / "models" / "premium" / "adapter_config.json").write_text("{}")
    opened = Run.open(run, look=True)
    with pytest.raises(UserError, match="was changed since boost wrote it"):
        opened._refuse_changed(opened.done(), [opened.premium])


# The functions themselves.


def test_a_plain_file_is_read_and_its_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"{}")
    assert read_plain(tmp_path / "a") == b"{}"
    assert read_object(tmp_path / "a") == {}
    assert hash_plain(tmp_path / "a") == sha256_tree(tmp_path)["a"]
    with pytest.raises(UserError, match="larger than 1 bytes"):
        read_plain(tmp_path / "a", 1)
    with pytest.raises(UserError, match="cannot be read"):
        open_plain(tmp_path / "none")


def test_names_that_no_terminal_should_see_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J\n\u202eb").symlink_to("x")
    with pytest.raises(UserError) as caught:
        files_below(tmp_path)
    assert str(caught.value).isprintable()
    (tmp_path / "a\x1b[2J\n\u202eb").unlink()
    os.symlink("x", os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(UserError, match="xff"):
        files_below(tmp_path)
