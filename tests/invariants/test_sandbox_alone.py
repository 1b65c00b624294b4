"""No code but the sandbox starts a program or runs text as code (promise 8)."""

import ast
from pathlib import Path

import privcode

SOURCE = Path(privcode.__file__).parent
INSIDE = ("execution/", "scoring/drivers/")
"""What confines programs, and what is sent into the sandbox as text."""
ALLOWED = {
    "data/collect/collecting.py": "starts privcode itself: processes that read files",
    "data/collect/git.py": "starts git, with nothing from a repository that runs programs",
    "experiments/compare.py": "starts privcode itself, one process for each run",
    "exercises/tasks.py": "computes answers to made-up exercises, of expressions of its own",
}
MODULES = {"subprocess", "runpy", "pty", "code", "codeop", "multiprocessing"}
CALLS = {"exec", "eval", "compile", "__import__"}
OF_OS = ("system", "popen", "exec", "spawn", "posix_spawn", "fork")


def starts(path: Path) -> list[str]:
    """What in a module starts a program or runs text as code."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in CALLS else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of_os = node.value.id == "os" and node.attr.startswith(OF_OS)
            found += [f"os.{node.attr}"] if of_os else []
    return found


def test_nothing_outside_the_sandbox_starts_a_program_or_runs_text() -> None:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(INSIDE) and (what := starts(path)):
            found[name] = what
    assert set(found) == set(ALLOWED), found


def test_the_search_sees_what_it_looks_for(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    lines = ("import subprocess", "from runpy import run_path", "exec('1')", "os.system('ls')")
    for line in lines:
        module.write_text(f"import os\n{line}\n")
        assert starts(module), line


def test_drivers_are_run_as_text_alone() -> None:
    """Of a driver, other modules use what makes its input, and never what runs a solution."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and "scoring.drivers" in (node.module or ""):
                assert {alias.name for alias in node.names} == {"encode"}, path
