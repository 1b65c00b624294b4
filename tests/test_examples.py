"""Every file of examples/ runs as its reader would run it, and prints what its page promises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK_BYTES = 8_000
FIGURE = r"\d+\.\d+"
EIGHT = r"(?:8\.000|7\.9\d\d)"
# Name -> what it prints, as a pattern for the whole.
SHOWN = {
    "account.py": rf"""20,000 units, 256 expected per step, 100 steps, δ = 5e-06

 +ε  noise multiplier  ε by RDP
(?: +[148] +{FIGURE} +{FIGURE}\n){{3}}
at ε = 8, a secret that ten units share has ε = {FIGURE}

 steps  ε at noise multiplier {FIGURE}
    50  {FIGURE}
   100  {EIGHT}
   200  {FIGURE}
""",
    "execute_and_score.py": """\
sum      ok       6
loop     timeout  ProcessorTime
network  blocked  PermissionError
shell    ok       42

of the tasks' 2 own solutions 2 pass here
pass@1 0\\.50, pass@2 1\\.00; errors \\{'AssertionError': 1, 'ProcessorTime': 1\\}
""",
    "release_and_verify.py": rf"""planned   ε = {EIGHT} \(by RDP {FIGURE}\); nothing is spent yet
released  [1-9]\d* pairs, digest [0-9a-f]{{64}}
verified  ε = {EIGHT} at δ = 5e-05
bundle    .+/run/release
""",
    "audit.ipynb": rf"promised: ε = {EIGHT} at δ = 5e-05\n"
    r"(?:.+: \d of 5 planted 1 times, \d of 5 planted 10 times\n){4}"
    rf"(?:.+: {FIGURE} bits at 1, {FIGURE} bits at 10\n){{4}}"
    rf"what training gives away: ε is at least {FIGURE}, of {FIGURE} promised\n",
}
_NOTEBOOK = """\
import json, sys
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
"""


def run(folder: Path, *arguments: str | Path, **more: str) -> str:
    """What a fresh process prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", **more}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the run that an example makes, and what it printed."""
    folder = tmp_path_factory.mktemp("released")
    return folder, run(folder, EXAMPLES / "release_and_verify.py")


def test_every_file_of_the_folder_is_run_here_and_has_a_line_in_its_table() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"}
    assert names == {*SHOWN, "README.md"}
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[(.+?)\]\(\1\)", table, flags=re.M)) == set(SHOWN)


def test_the_notebook_is_small_and_holds_no_output() -> None:
    path = EXAMPLES / "audit.ipynb"
    assert path.stat().st_size < NOTEBOOK_BYTES
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not re.search(r"(?<![\w.])/\w+/", "".join(cell["source"])), "an absolute path"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_should(
    name: str, released: tuple[Path, str], tmp_path: Path
) -> None:
    folder, printed = released
    if name.endswith(".ipynb"):
        printed = run(folder, "-c", _NOTEBOOK, EXAMPLES / name)
    elif name != "release_and_verify.py":
        printed = run(tmp_path, EXAMPLES / name)
    assert re.fullmatch(SHOWN[name], printed), printed
