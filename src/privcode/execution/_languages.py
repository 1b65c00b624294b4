"""The tools of a language as this machine has them, and what a program's last words mean.

Promises: a language whose tools this machine lacks, or keeps where a sandboxed program may not
look, is unsupported, with what to install; a program that failed gets the class of its error, and
one that wanted a module, which.
Does not: run anything (`_worker` does). Python has no commands: the server runs it itself.
"""

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from privcode.execution._program import Status
from privcode.languages import Commands, languages

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")


def parse(code: str, language: str) -> Any:
    """The syntax tree, which Java alone asks for: else the sandbox needs no other package."""
    from privcode.syntax import spans

    return spans.parse(code, language)


@dataclass(frozen=True)
class Toolchain:
    """A language's tools as they were found: their paths, and what must be readable for them."""

    commands: Commands
    paths: Mapping[str, str]
    readable: tuple[str, ...]

    def names(self, code: str) -> dict[str, str]:
        """What the words of the commands stand for: the tools' paths, this code's own names, and
        "source", the name of its file."""
        named = self.commands.named(code, parse)
        return {**self.paths, **named, "source": self.commands.source.format(**named)}


@functools.cache
def toolchain(name: str) -> Toolchain | str:
    """The tools of a language on this machine, or why there are none and what to do."""
    language = languages()[name].commands
    if language is None:
        return "has no commands, so it can be parsed but not run"
    paths: dict[str, str] = {}
    readable = [path for pattern in language.reads for path in glob(pattern)]
    for tool in language.tools:
        found = shutil.which(tool)
        if found is None:
            return f"{tool} is not installed; {language.install}"
        path = Path(found).resolve()
        if path.name == "rustup":  # stands for the chosen toolchain's
            asked = [found, "--print", "sysroot"]
            told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
            path = Path(told or "/nowhere") / "bin" / tool
        folder, home = path.parent.parent, Path.home()
        if not any(path.is_relative_to(above) for above in _SYSTEM):
            # Directly in the home, as ~/.local, other things are next to it.
            if folder in (home, *home.parents) or folder.parent == home:
                return (
                    f"{tool} is {path}, which programs in the sandbox cannot read; "
                    f"{language.install}"
                )
            readable.append(str(folder))
        if not path.exists():
            return f"{tool} does not work here; {language.install}"
        paths[tool] = str(path)
    return Toolchain(language, paths, tuple(sorted(set(readable))))


def python_error(code: int, stderr: str) -> tuple[Status, str]:
    """Status and error class of a Python program that ended by itself, by its last words."""
    if code == 0:
        return "ok", ""
    lines = stderr.strip().splitlines()
    match = re.match(r"([A-Za-z_][\w.]*)(?::|$)", lines[-1]) if lines and code <= 128 else None
    name = match[1] if match else f"ExitCode{code}"
    if name == "ModuleNotFoundError":
        module = re.search(r"No module named '([^']+)'", lines[-1])
        return "error", f"{name}: {module[1]}" if module else name
    if name == "PermissionError":
        return "blocked", name
    return ("memory", name) if name == "MemoryError" else ("error", name)


def error_of(language: Commands, code: int, stderr: str, compiling: bool) -> tuple[Status, str]:
    """Status and error class of a program that ended by itself, by its last words."""
    if code == 0:
        failed = re.search(language.failed, stderr, re.MULTILINE)
        return ("error", "AssertionFailed") if failed else ("ok", "")
    if missing := _first(language.missing, stderr):
        return "error", f"ModuleNotFound: {missing}"
    if re.search(_NO_MEMORY, stderr):
        return "memory", "OutOfMemory"
    name = _first(language.raised, stderr)
    if compiling:
        return "error", f"CompileError: {name}" if name else "CompileError"
    return "error", name or f"ExitCode{code}"


_NO_MEMORY = (
    r"OutOfMemory|cannot allocate memory|commit_memory|out of memory|bad_alloc|memory allocation of"
)


def _first(pattern: str, text: str) -> str:
    """What the first group that took part in the first match holds."""
    found = re.search(pattern, text, re.MULTILINE)
    return next(filter(None, found.groups()), "") if found else ""
