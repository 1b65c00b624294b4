"""The wheel holds what it must and no more, and is enough to run privcode."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.fresh_environment import make, variables

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
NEEDED = (
    "privcode/py.typed",
    "privcode/assets/junior/model.safetensors",
    "privcode/assets/premium/tokenizer.json",
    "privcode/experiments/demo.yaml",
    "privcode/experiments/templates/comparison.html.j2",
    "privcode/release/templates/page.html.j2",
)


def test_nothing_in_the_package_imports_from_outside_it() -> None:
    outside = re.compile(r"^\s*(?:from|import) (?:tools|tests|benchmarks|examples)\b", re.M)
    for path in SOURCE.rglob("*.py"):
        assert not outside.search(path.read_text(encoding="utf-8")), path.name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing that an earlier build left is in it."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(SOURCE, copy / "src", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", "dist", "."], cwd=copy, check=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh environment that has the wheel."""
    return make(tmp_path_factory.mktemp("fresh") / "environment", wheel)


def told(folder: Path, *command: str | Path) -> str:
    """What a command of the fresh environment prints."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**variables(), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {name for name in names if ".dist-info/" not in name}
    there = {
        path.relative_to(SOURCE).as_posix()
        for path in (SOURCE / "privcode").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package == there
    assert set(NEEDED) <= package
    assert any(name.endswith("/licenses/LICENSE") for name in names - package)


@pytest.mark.slow
def test_the_installed_wheel_is_what_runs(commands: Path, tmp_path: Path) -> None:
    where = "import privcode; print(privcode.__file__)"
    file = Path(told(tmp_path, commands / "python", "-c", where))
    assert file.is_relative_to(commands.parent / "lib")


@pytest.mark.slow
def test_every_place_names_the_same_version(wheel: Path, commands: Path, tmp_path: Path) -> None:
    version = wheel.name.split("-")[1]
    code = """
import importlib.metadata, privcode
found = importlib.metadata.distribution("privcode")
print(privcode.__version__, found.version, found.locate_file(""))
"""
    own, noted, place = told(tmp_path, commands / "python", "-c", code).split(" ", 2)
    assert (own, noted) == (version, version)
    assert Path(place).is_relative_to(commands.parent)
    assert told(tmp_path, commands / "privcode", "--version") == f"privcode {version}"
    example = ROOT / "examples" / "release_and_verify.py"
    told(tmp_path, commands / "python", example, tmp_path / "example")
    facts = json.loads((tmp_path / "example" / "run" / "release" / "privacy.json").read_text())
    assert facts["versions"]["privcode"] == version
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.slow
def test_commands_run_from_the_wheel(commands: Path, tmp_path: Path) -> None:
    privcode = commands / "privcode"
    assert "--out" in told(tmp_path, privcode, "demo", "--help")
    plan = "--records 19500 --batch 256 --steps 100 --epsilon 4 --delta 1e-5 --json"
    facts = json.loads(told(tmp_path, privcode, "account", *plan.split()))
    assert facts["noise_multiplier"] == pytest.approx(0.623, rel=0.01)
    (tmp_path / "rows.jsonl").write_text(
        '{"id": 1, "language": "python", "code": "print(6 * 7)"}\n'
    )
    told(tmp_path, privcode, "execute", "rows.jsonl", "-o", "out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["status"], row["stdout"]) == ("ok", "42\n")
