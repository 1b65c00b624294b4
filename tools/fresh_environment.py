"""A fresh virtual environment that has a wheel of privcode, and no access to its source.

    python -m tools.fresh_environment FOLDER WHEEL

Promises: privcode comes from the wheel alone. Everything else comes from the environment that runs
this, which saves the minutes of installing torch again.
Does not: show that the wheel's list of dependencies is complete (`make install` does).
"""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def make(folder: Path, wheel: Path) -> Path:
    """Make the environment in `folder`, anew, and return its folder of commands."""
    venv.create(folder, clear=True, symlinks=True)
    commands = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # A line of a .pth file adds a folder, but none of the .pth files in it, so no editable install.
    (own,) = folder.glob("lib/python*/site-packages")
    shared = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (own / "shared.pth").write_text("".join(f"{path}\n" for path in shared), encoding="utf-8")
    return commands


def variables() -> dict[str, str]:
    """This process's environment variables, but for those that lead Python elsewhere."""
    return {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), Path(sys.argv[2])))
