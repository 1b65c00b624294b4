"""How a program of each language is compiled and started, and what its last words mean.

Promises: a language whose tools this machine lacks, or keeps where a sandboxed program may not
look, is unsupported, with what to install; a program that failed gets the class of its error, and
one that wanted a module, which.
Does not: run anything (`_worker` does). Python has no commands: the server runs it itself.
"""

import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path

from privcode.execution._program import Status

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")


@dataclass(frozen=True)
class Language:
    """The commands of a language; {words} in them are tools' paths, or what `named` says.

    Attributes:
        tools: programs that are looked for on the PATH.
        install: what to do where they are missing.
        source: the name of the file that holds the code.
        run: the command.
        compile: the command that comes first, or empty.
        made: the file or folder in the scratch that is all that `run` gets of it; without a
            command, `_transpile` makes it.
        reserves: its runtime reserves more address space than it uses, so what it may write to is
            bounded instead.
        threads: its runtime's own, beside the program's.
        proc: whether its runtime reads /proc, which not every sandbox shows.
        reads: what it reads outside the system's programs, as patterns.
        environment: for both commands.
        named: names for the commands, by the code.
        complete: what the code lacks as a file.
        missing: patterns of a module's name in an error that says it is missing.
        raised: patterns of the class of an error.
        failed: a pattern of an error after which the exit code is 0 all the same.
    """

    tools: tuple[str, ...]
    install: str
    source: str
    run: str
    compile: str = ""
    made: str = ""
    reserves: bool = False
    threads: int = 0
    proc: bool = False
    reads: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    named: Callable[[str], dict[str, str]] = lambda code: {}
    complete: Callable[[str], str] = lambda code: code
    missing: str = "(?!)"
    raised: str = "(?!)"
    failed: str = "(?!)"


@dataclass(frozen=True)
class Toolchain:
    """A language's tools as they were found: their paths, and what must be readable for them."""

    language: Language
    paths: Mapping[str, str]
    readable: tuple[str, ...]

    def names(self, code: str) -> dict[str, str]:
        """What the words of the commands stand for: the tools' paths, this code's own names, and
        "source", the name of its file."""
        named = self.language.named(code)
        return {**self.paths, **named, "source": self.language.source.format(**named)}


def _module_or_script(code: str) -> dict[str, str]:
    module = re.search(r"^(import\s+[\w{*'\"]|export\s+[\w{*])", code, re.MULTILINE)
    return {"kind": "mjs" if module else "js"}


def _java_names(code: str) -> dict[str, str]:
    """The file's name, that of its public type, and the class to start, that with `main`."""
    from privcode.syntax.spans import parse

    package = public = main = first = ""
    for node in parse(code, "java").root_node.children:
        if node.type == "package_declaration":
            package = node.children[1].text.decode() + "." if node.children[1].text else ""
        name = node.child_by_field_name("name")
        if name is None or not name.text:
            continue
        text, words = name.text.decode(), (node.text or b"").decode("utf-8", "replace")
        first = first or text
        if node.children[0].type == "modifiers" and b"public" in (node.children[0].text or b""):
            public = text
        if not main and re.search(r"\bvoid\s+main\s*\(", words):
            main = text
    return {"file": public or main or first or "Main", "main": package + (main or public or first)}


def _go_names(code: str) -> dict[str, str]:
    """A file of tests is no program: `go test` makes one of it."""
    if "func main(" not in code and re.search(r"^func Test\w*\(", code, re.MULTILINE):
        return {"file": "program_test", "how": "test", "flag": "-c"}
    return {"file": "program", "how": "build", "flag": "-buildvcs=false"}


def _opened(code: str) -> str:
    return code if "<?" in code else f"<?php\n{code}"


_NODE = r"^(?:Uncaught )?(?:\w+ )?\[?([A-Z]\w*(?:Error|Exception))\b(?! \{$)"
_JAVASCRIPT = Language(
    tools=("node",),
    install="apt install nodejs",
    source="program.{kind}",
    run="{node} --v8-pool-size=1 --max-old-space-size={heap} {source}",
    reserves=True,
    threads=12,
    environment={"OPENSSL_CONF": "/dev/null"},
    named=_module_or_script,
    missing=r"Cannot find (?:module|package) '([^']+)'",
    raised=_NODE,
)
TABLE: dict[str, Language] = {
    "javascript": _JAVASCRIPT,
    "typescript": replace(
        _JAVASCRIPT,
        tools=("node", "tsc"),
        install="apt install nodejs node-typescript",
        source="program.ts",
        made="program.js",
        run=_JAVASCRIPT.run.replace("{source}", "program.js"),
        raised=rf"(TS\d+)|{_NODE}",
    ),
    "java": Language(
        tools=("javac", "java"),
        install="apt install default-jdk-headless",
        source="{file}.java",
        compile="{javac} -J-XX:-UsePerfData -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -proc:none"
        " -nowarn -encoding UTF-8 -cp .:* -d classes {source}",
        made="classes",
        run="{java} -XX:-UsePerfData -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss8m -Xms8m"
        " -Xmx{heap}m -ea -cp classes:.:* {main}",
        reserves=True,
        threads=32,
        reads=("/etc/java*",),
        named=_java_names,
        missing=r"package ([\w.]+) does not exist|NoClassDefFoundError: (\S+)",
        raised=r'^Exception in thread "[^"]*" (?:[\w$]+\.)*([\w$]+)',
    ),
    "cpp": Language(
        tools=("g++",),
        install="apt install g++",
        source="program.cpp",
        compile="{g++} -std=c++20 -O1 -w -I. -o program {source}",
        made="program",
        run="./program",
        missing=r"fatal error: (\S+): No such file",
        raised=r"instance of '(?:\w+::)*(\w+)",
    ),
    "csharp": Language(
        tools=("mcs", "mono"),
        install="apt install mono-mcs mono-runtime",
        source="program.cs",
        compile="{mono} /usr/lib/mono/4.5/mcs.exe -nowarn:0-9999 -d:DEBUG -r:System.Numerics.dll"
        " -out:program.exe {source}",
        made="program.exe",
        run="{mono} --debug program.exe",
        reserves=True,
        threads=12,
        proc=True,
        reads=("/etc/mono",),
        environment={"MONO_TRACE_LISTENER": "Console.Error"},
        missing=r"CS0246: The type or namespace name `([^']+)'",
        raised=r"error (CS\d+)|Unhandled Exception:\s*(?:\w+\.)*(\w+)",
        failed=r"^(?:Fail|---- DEBUG ASSERTION FAILED ----)",
    ),
    "rust": Language(
        tools=("rustc", "cc"),
        install="see https://rustup.rs, or apt install rustc gcc",
        source="program.rs",
        compile="{rustc} --edition 2021 -A warnings -C opt-level=1 -C overflow-checks=on"
        " -C debug-assertions=on -C linker={cc} -o program {source}",
        made="program",
        run="./program",
        missing=r"can't find crate for `([^`]+)`|use of undeclared crate or module `([^`]+)`"
        r"|unresolved import `([^`]+)`",
        raised=r"^error\[(E\d+)\]|^thread '[^']*' (?:\(\d+\) )?(panicked) at",
    ),
    "go": Language(
        tools=("go",),
        install="apt install golang-go",
        source="{file}.go",
        compile="{go} {how} {flag} -o program {source}",
        made="program",
        run="./program",
        reserves=True,
        threads=12,
        environment={
            "GOFLAGS": "-p=1",
            "GO111MODULE": "off",
            "GOTOOLCHAIN": "local",
            "GOMAXPROCS": "2",
            "CGO_ENABLED": "0",
        },
        named=_go_names,
        missing=r'(?:cannot find package "|package )([\w./-]+)(?: is not in|" in any)',
        raised=r"^(panic)(?=[: ])|^fatal error: (all goroutines are asleep)|^--- (FAIL)",
    ),
    "php": Language(
        tools=("php",),
        install="apt install php-cli",
        source="program.php",
        run="{php} -d memory_limit=-1 -d zend.assertions=1 -d display_errors=stderr"
        " -d log_errors=0 {source}",
        reads=("/etc/php",),
        complete=_opened,
        missing=r"Failed opening required '([^']+)'",
        raised=r"Uncaught (?:\w+\\)*(\w+)|PHP (Parse error)|^(Parse error)",
    ),
    "bash": Language(
        tools=("bash",),
        install="apt install bash",
        source="program.sh",
        run="{bash} {source}",
        missing=r"([^\s:]+): command not found",
        raised=r"(syntax error)|(unbound variable)",
    ),
    "swift": Language(
        tools=("swiftc",),
        install="see https://www.swift.org/install",
        source="program.swift",
        compile="{swiftc} -O -o program {source}",
        made="program",
        run="./program",
        reserves=True,
        threads=8,
        missing=r"no such module '([^']+)'",
        raised=r"(Fatal error)",
    ),
}
"""Every language that `execute` knows beside Python."""


@functools.cache
def toolchain(name: str) -> Toolchain | str:
    """The tools of a language on this machine, or why there are none and what to do."""
    language = TABLE[name]
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
            # Directly in the home, as ~/.local, other things lie beside it.
            if folder in (home, *home.parents) or folder.parent == home:
                return f"{tool} is {path}, and programs may not look there; {language.install}"
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


def error_of(language: Language, code: int, stderr: str, compiling: bool) -> tuple[Status, str]:
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
