"""The languages of code, one row each: names, grammar, and how a program is compiled and run.

Promises: this is the one place that names a language. Another package adds a row by an entry point
of the group `privcode.languages` (see `extensions`).
Does not: parse (`syntax` does) or run anything (`execution` does).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from privcode.extensions import with_added

Parse = Callable[[str, str], Any]
"""Takes code and the name of its language. Returns a tree-sitter tree."""


@dataclass(frozen=True)
class Commands:
    """How a program of a language is compiled and run.

    A {word} in a command is the path of a tool, or a name from `named`.

    Attributes:
        tools: programs that are looked for on the PATH.
        install: what to do if they are missing.
        source: the name of the file that holds the code.
        run: the command that runs the program.
        compile: the command before it, or empty.
        made: the file or folder in the scratch folder that `run` gets, and the only one. If
            `compile` is empty, `_transpile` makes it.
        reserves: its runtime reserves more address space than it uses. So the memory that it may
            write to is bounded instead.
        threads: threads of the runtime, in addition to the program's.
        proc: whether its runtime reads /proc, which not every sandbox shows.
        reads: what it reads outside the system's programs, as patterns.
        environment: environment variables for both commands.
        named: makes names for the commands, from the code and a function that parses code of a
            language.
        complete: adds what the code lacks as a file.
        missing: patterns of a module's name in an error that says it is missing.
        raised: patterns of an error's class.
        failed: a pattern of an error after which the exit code is still 0.
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
    named: Callable[[str, Parse], dict[str, str]] = lambda code, parse: {}
    complete: Callable[[str], str] = lambda code: code
    missing: str = "(?!)"
    raised: str = "(?!)"
    failed: str = "(?!)"


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        name: the name in configs and verdicts.
        aliases: other names, in lower case.
        title: the name in words. Default: `name`.
        grammar: an installed module, and its function that gives the tree-sitter grammar.
        commands: how a program is compiled and run. None for Python, which the sandbox's own
            interpreter runs.
    """

    name: str
    aliases: tuple[str, ...] = ()
    title: str = ""
    grammar: tuple[str, str] = ("", "")
    commands: Commands | None = None


@cache
def languages() -> dict[str, Language]:
    """All languages by name: privcode's own, and those that other packages add.

    Raises:
        UserError: an extension cannot be used.
    """
    return with_added("languages", LANGUAGES, Language)


def canonical_language(name: str) -> str | None:
    """The name in `languages` for a language's name or alias. None if it is unknown."""
    name = name.strip().lower()
    return name if name in languages() else _aliases().get(name)


@cache
def _aliases() -> dict[str, str]:
    return {
        alias: row.name for row in reversed(list(languages().values())) for alias in row.aliases
    }


def _module_or_script(code: str, parse: Parse) -> dict[str, str]:
    module = re.search(r"^(import\s+[\w{*'\"]|export\s+[\w{*])", code, re.MULTILINE)
    return {"kind": "mjs" if module else "js"}


def _java_names(code: str, parse: Parse) -> dict[str, str]:
    """The name of the file (its public type) and of the class to start (the one with `main`)."""
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


def _go_names(code: str, parse: Parse) -> dict[str, str]:
    """How to build the code. A file of tests is not a program, so `go test` makes one from it."""
    if "func main(" not in code and re.search(r"^func Test\w*\(", code, re.MULTILINE):
        return {"file": "program_test", "how": "test", "flag": "-c"}
    return {"file": "program", "how": "build", "flag": "-buildvcs=false"}


def _opened(code: str) -> str:
    return code if "<?" in code else f"<?php\n{code}"


_NODE = r"^(?:Uncaught )?(?:\w+ )?\[?([A-Z]\w*(?:Error|Exception))\b(?! \{$)"
_JAVASCRIPT = Commands(
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
LANGUAGES: dict[str, Language] = {
    row.name: row
    for row in (
        Language(
            "python",
            title="Python",
            aliases=(
                "py",
                "python3",
            ),
            grammar=("tree_sitter_python", "language"),
        ),
        Language(
            "java",
            title="Java",
            grammar=("tree_sitter_java", "language"),
            commands=Commands(
                tools=("javac", "java"),
                install="apt install default-jdk-headless",
                source="{file}.java",
                compile="{javac} -J-XX:-UsePerfData -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1"
                " -proc:none -nowarn -encoding UTF-8 -cp .:* -d classes {source}",
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
        ),
        Language(
            "javascript",
            title="JavaScript",
            aliases=(
                "js",
                "jsx",
                "node",
            ),
            grammar=("tree_sitter_javascript", "language"),
            commands=_JAVASCRIPT,
        ),
        Language(
            "typescript",
            title="TypeScript",
            aliases=(
                "ts",
                "tsx",
            ),
            grammar=("tree_sitter_typescript", "language_typescript"),
            commands=replace(
                _JAVASCRIPT,
                tools=("node", "tsc"),
                install="apt install nodejs node-typescript",
                source="program.ts",
                made="program.js",
                run=_JAVASCRIPT.run.replace("{source}", "program.js"),
                raised=rf"(TS\d+)|{_NODE}",
            ),
        ),
        Language(
            "cpp",
            title="C++",
            aliases=(
                "c++",
                "cc",
                "cxx",
                "hpp",
            ),
            grammar=("tree_sitter_cpp", "language"),
            commands=Commands(
                tools=("g++",),
                install="apt install g++",
                source="program.cpp",
                compile="{g++} -std=c++20 -O1 -w -I. -o program {source}",
                made="program",
                run="./program",
                missing=r"fatal error: (\S+): No such file",
                raised=r"instance of '(?:\w+::)*(\w+)",
            ),
        ),
        Language(
            "csharp",
            title="C#",
            aliases=(
                "c#",
                "cs",
                "c_sharp",
            ),
            grammar=("tree_sitter_c_sharp", "language"),
            commands=Commands(
                tools=("mcs", "mono"),
                install="apt install mono-mcs mono-runtime",
                source="program.cs",
                compile="{mono} /usr/lib/mono/4.5/mcs.exe -nowarn:0-9999 -d:DEBUG"
                " -r:System.Numerics.dll -out:program.exe {source}",
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
        ),
        Language(
            "rust",
            title="Rust",
            aliases=("rs",),
            grammar=("tree_sitter_rust", "language"),
            commands=Commands(
                tools=("rustc", "cc"),
                install="see https://rustup.rs, or apt install rustc gcc",
                source="program.rs",
                compile="{rustc} --edition 2021 -A warnings -C opt-level=1 -C overflow-checks=on"
                " -C debug-assertions=on -C linker={cc} -o program {source}",
                made="program",
                run="./program",
                missing=r"can't find crate for `([^`]+)`"
                r"|use of undeclared crate or module `([^`]+)`|unresolved import `([^`]+)`",
                raised=r"^error\[(E\d+)\]|^thread '[^']*' (?:\(\d+\) )?(panicked) at",
            ),
        ),
        Language(
            "php",
            title="PHP",
            grammar=("tree_sitter_php", "language_php"),
            commands=Commands(
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
        ),
        Language(
            "go",
            title="Go",
            aliases=(
                "golang",
                "go_test.go",
            ),
            grammar=("tree_sitter_go", "language"),
            commands=Commands(
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
        ),
        Language(
            "bash",
            title="Bash",
            aliases=(
                "sh",
                "shell",
                "zsh",
            ),
            grammar=("tree_sitter_bash", "language"),
            commands=Commands(
                tools=("bash",),
                install="apt install bash",
                source="program.sh",
                run="{bash} {source}",
                missing=r"([^\s:]+): command not found",
                raised=r"(syntax error)|(unbound variable)",
            ),
        ),
        Language(
            "swift",
            title="Swift",
            grammar=("tree_sitter_swift", "language"),
            commands=Commands(
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
        ),
    )
}
"""privcode's own languages."""
