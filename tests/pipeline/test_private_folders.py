"""What is private lies in folders that their owner alone may enter, and survives a crash."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from privcode.errors import UserError
from privcode.experiments.compare import run_all
from privcode.files import private_folder, write_text
from privcode.pipeline.directory import lock
from privcode.privacy import make_plan
from privcode.privacy.ledger import Ledger
from privcode.privacy.registry import check, registry, secret

PLAN = make_plan(epsilon=None, noise_multiplier=1.0, delta=1e-4, units=100, batch=5, steps=3)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def of_compare(out: Path) -> None:
    run_all("compare", {}, out, out / "private", 1)


def of_a_run(out: Path) -> None:
    os.close(lock(out))


@pytest.mark.parametrize("make", [of_compare, of_a_run])
def test_a_private_folder_that_others_may_enter_is_closed(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "private").mkdir(mode=0o755)
    (tmp_path / "private").chmod(0o755)
    make(tmp_path)
    assert mode(tmp_path / "private") == 0o700


@pytest.mark.parametrize("make", [of_compare, of_a_run])
def test_a_private_folder_that_is_a_link_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "elsewhere").chmod(0o755)
    (tmp_path / "private").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="private: is a link"):
        make(tmp_path)
    assert mode(tmp_path / "elsewhere") == 0o755
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_to_nothing_and_a_file_in_the_way_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "nothing")
    (tmp_path / "b").write_text("")
    for name in ("a", "b"):
        with pytest.raises(UserError, match="is in the way"):
            private_folder(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_private_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    os.chown(tmp_path / "private", 12345, 12345)
    with pytest.raises(UserError, match="belongs to another user"):
        lock(tmp_path)


def test_the_folder_of_the_registry_is_closed_unless_it_serves_other_purposes(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir()
    state.chmod(0o755)
    check()
    assert mode(state) == 0o700
    state.chmod(0o755)
    (state / "notes.txt").write_text("of the owner")
    check()
    assert mode(state) == 0o755


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was flushed to the disk, in order."""
    found: list[Path] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_the_name_of_a_new_ledger_is_on_the_disk_before_a_step(
    tmp_path: Path, synced: list[Path]
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.begin(PLAN, "data")
    assert synced == [tmp_path / "ledger.jsonl", tmp_path]
    ledger.step(0)
    assert synced[2:] == [tmp_path / "ledger.jsonl"]


def test_the_names_of_registry_and_secret_are_on_the_disk(state: Path, synced: list[Path]) -> None:
    check()
    assert state in synced
    synced.clear()
    secret()
    assert state in synced[synced.index(next(p for p in synced if "key" in p.name)) :]
    assert registry().parent == state


def test_a_file_that_was_written_is_found_after_a_crash(tmp_path: Path, synced: list[Path]) -> None:
    write_text(tmp_path / "file", "text")
    assert synced[-1] == tmp_path
