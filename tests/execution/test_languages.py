"""Every language: right programs pass, wrong ones do not, and the error says why."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privcode.execution import (
    Limits,
    Outcome,
    Program,
    _languages,
    _worker,
    choose_sandbox,
    execute,
    execute_file,
    sandboxes,
    unsupported,
)
from privcode.execution._server import Server, Task
from privcode.execution._worker import Worker
from privcode.files import read_jsonl, write_jsonl
from privcode.languages import LANGUAGES

pytestmark = pytest.mark.skipif(
    not any(found.available for found in sandboxes()), reason="no sandbox works on this machine"
)

# language: (what ends well, what fails when it runs, the class of its error)
PROGRAMS = {
    "python": ("import math\nassert math.gcd(4, 6) == 2", "[][1]", "IndexError"),
    "javascript": (
        "const assert = require('assert'); assert.deepEqual([1].map(x => x + 1), [2]);",
        "null.length",
        "TypeError",
    ),
    "typescript": (
        "import * as assert from 'assert';\nenum E { A = 2 }\n"
        "const x: string = 5; assert.strictEqual<number>(E.A, 2);",  # a type error is no failure
        "const f = (x: any): number => x.y.z; f({});",
        "TypeError",
    ),
    "java": (
        "import java.util.*;\nclass Helper { static int two() { return 2; } }\n"
        "public class Exercise { public static void main(String[] args) {"
        " assert List.of(1, 1).size() == Helper.two(); } }",
        "class P { public static void main(String[] a) { assert 1 == 2 : 3; } }",
        "AssertionError",
    ),
    "cpp": (
        "#include <cassert>\n#include <vector>\nint main() { assert(std::vector<int>{1}.size()); }",
        "#include <vector>\nint main() { return std::vector<int>{}.at(1); }",
        "out_of_range",
    ),
    "csharp": (
        "using System.Diagnostics; class P { static void Main() { Debug.Assert(1 + 1 == 2); } }",
        "using System.Diagnostics; class P { static void Main() { Debug.Assert(1 + 1 == 3); } }",
        "AssertionFailed",
    ),
    "rust": ("fn main() { assert_eq!(1 + 1, 2); }", "fn main() { assert_eq!(1, 2); }", "panicked"),
    "go": (
        'package main\nimport "fmt"\nfunc main() { fmt.Print("") }',
        "package main\nfunc main() { var m map[string]int; m[`a`] = 1 }",
        "panic",
    ),
    "php": ("assert(1 + 1 == 2);", "<?php throw new LengthException('x');", "LengthException"),
    "bash": ("set -e\n[ $((1 + 1)) = 2 ]", "exit 3", "ExitCode3"),
    "swift": ("assert(1 + 1 == 2)", "fatalError()", "Fatal error"),
}
# language: a program without meaning, or one that wants what is not there, and what is said
BROKEN = {
    "typescript": ("let x: = 3", "CompileError: TS1110"),
    "java": ("class A { void f( }", "CompileError"),
    "cpp": ("int main() { return x; }", "CompileError"),
    "csharp": ("class P { int f( }", "CompileError: CS1525"),
    "rust": ('fn main() { let x: i32 = "a"; }', "CompileError: E0308"),
    "go": ("package main\nfunc main() { x }", "CompileError"),
    "swift": ("let x: Int = ", "CompileError"),
}
MISSING = {
    "python": ("import numpy_of_nowhere", "ModuleNotFoundError: numpy_of_nowhere"),
    "javascript": ("require('lodash')", "ModuleNotFound: lodash"),
    "typescript": ("import _ from 'lodash'; _.f()", "ModuleNotFound: lodash"),
    "java": ("import org.junit.Test; class A {}", "ModuleNotFound: org.junit"),
    "cpp": ("#include <boost/any.hpp>\nint main() {}", "ModuleNotFound: boost/any.hpp"),
    "csharp": ("class P : Gone { static void Main() {} }", "ModuleNotFound: Gone"),
    "rust": ("use rand::Rng; fn main() {}", "ModuleNotFound: rand"),
    "go": (
        'package main\nimport _ "example.com/x"\nfunc main() {}',
        "ModuleNotFound: example.com/x",
    ),
    "php": ("require 'gone.php';", "ModuleNotFound: gone.php"),
    "bash": ("no_such_tool .", "ModuleNotFound: no_such_tool"),
    "swift": ("import Gone", "ModuleNotFound: Gone"),
}


@pytest.fixture
def looked_for_anew() -> Iterator[None]:
    """Tools are looked for again in the test, and after it."""
    _languages.toolchain.cache_clear()
    yield
    _languages.toolchain.cache_clear()


def need(language: str, sandbox: str = "auto") -> None:
    if reason := unsupported(language, sandbox):
        pytest.skip(f"{language}: {reason}")


def run(code: str, language: str, limits: Limits | None = None, **fields: Any) -> Outcome:
    need(language)
    (outcome,) = execute([Program("p", code, language, **fields)], limits, workers=1)
    return outcome


def test_every_language_is_tried_here():
    assert set(LANGUAGES) == set(PROGRAMS) == set(MISSING)
    compiled = {
        name for name, language in LANGUAGES.items() if language.commands and language.commands.made
    }
    assert compiled == set(BROKEN)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_right_program_passes_and_a_wrong_one_says_why(language):
    right, wrong, error = PROGRAMS[language]
    need(language)
    programs = [Program("right", right, language), Program("wrong", wrong, language)]
    good, bad = execute(programs, workers=1)
    assert (good.status, good.error) == ("ok", ""), good
    assert (bad.status, bad.error) == ("error", error), bad


@pytest.mark.parametrize("language", BROKEN)
def test_what_does_not_compile_says_so(language):
    code, error = BROKEN[language]
    outcome = run(code, language)
    assert (outcome.status, outcome.error) == ("error", error), outcome


@pytest.mark.parametrize("language", MISSING)
def test_a_missing_module_is_named(language):
    code, error = MISSING[language]
    outcome = run(code, language)
    assert (outcome.status, outcome.error) == ("error", error), outcome


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", ["bubblewrap", "namespaces", "landlock", "podman"])
def test_every_language_runs_in_every_sandbox_that_works_here(sandbox):
    if reason := {found.name: found.reason for found in sandboxes()}[sandbox]:
        pytest.skip(reason)
    programs = [Program(name, right, name) for name, (right, _, _) in PROGRAMS.items()]
    statuses = {o.id: o.status for o in execute(programs, sandbox=sandbox)}
    assert statuses == {
        name: "unsupported" if unsupported(name, sandbox) else "ok" for name in PROGRAMS
    }


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("javascript", "const a = []; while (true) a.push(new Array(1e6).fill(1));"),
        (
            "go",
            "package main\nfunc main() { s := make([]byte, 1<<30); for { for i := range s"
            " { s[i]++ } } }",
        ),
        (
            "java",
            "import java.util.*; class A { public static void main(String[] x) {"
            " List<long[]> l = new ArrayList<>(); while (true) l.add(new long[1000000]); } }",
        ),
        ("cpp", "#include <vector>\nint main() { std::vector<long> v; for (;;) v.push_back(1); }"),
    ],
)
def test_memory_is_bounded_whatever_the_runtime_reserves(language, code):
    outcome = run(code, language, Limits(memory_mb=256, cpu_seconds=20))
    assert outcome.status == "memory", outcome


def test_what_a_runtime_does_not_reserve_is_refused_at_once():
    outcome = run("new ArrayBuffer(2 ** 30);", "javascript", Limits(memory_mb=256))
    assert (outcome.status, outcome.error) == ("error", "RangeError")
    assert run("new ArrayBuffer(2 ** 28);", "javascript").status == "ok"


@pytest.mark.parametrize("sandbox", ["bubblewrap", "landlock"])
def test_what_a_compiler_made_comes_without_links_and_within_its_disk(sandbox):
    if reason := {found.name: found.reason for found in sandboxes()}[sandbox]:
        pytest.skip(reason)
    script = (
        "mkdir -p made/deep; echo hi > made/deep/a; ln -s /usr/bin/env made/b\n"
        "mkdir other; echo hi > other/a; ln -s ../other made/c; mkfifo made/d\n"
        "truncate -s 7M made/e; truncate -s 7M made/f; [ -p made/d ]"
    )
    bash = ["/usr/bin/bash", "make.sh"]
    limits = Limits(files_mb=8)
    task = Task("m", limits, files={"make.sh": script.encode()}, command=bash, made="made")
    server = Server(choose_sandbox(sandbox), (), slot=1)
    try:
        outcome, made = server.do(task)
    finally:
        server.close()
    assert outcome.status == "ok"
    assert made.pop("made/deep/a") == b"hi\n"
    assert [len(content) for content in made.values()] == [7 << 20]


def test_a_loop_is_stopped_by_processor_time_in_any_language():
    outcome = run("int main() { for (;;); }", "cpp", Limits(cpu_seconds=1))
    assert (outcome.status, outcome.error) == ("timeout", "ProcessorTime")


def test_a_compiler_that_never_ends_is_stopped_and_what_it_left_is_not_run(monkeypatch):
    bound = _worker.replace(_worker._COMPILER, cpu_seconds=1)
    monkeypatch.setattr(_worker, "_COMPILER", bound)
    endless = (
        "template<int N> struct F { static const long v = F<N-1>::v + F<N-2>::v; };\n"
        "template<int N, int M> struct G { typedef typename G<N-1, 2*M>::t a;"
        " typedef typename G<N-1, 2*M+1>::t t; };\n"
        "template<int M> struct G<0, M> { typedef int t; };\n"
        "int main() { G<24, 0>::t x = 0; return x; }"
    )
    outcome = run(endless, "cpp")
    assert (outcome.status, outcome.error) == ("timeout", "CompileError: ProcessorTime")


def test_a_compiler_sees_no_more_of_the_machine_than_a_program(tmp_path):
    (tmp_path / "secret.h").write_text("int main() {}")
    outcome = run(f'#include "{tmp_path / "secret.h"}"', "cpp")
    assert outcome.error.startswith("ModuleNotFound"), outcome
    assert run('#include "/etc/passwd"', "cpp").error == "ModuleNotFound: /etc/passwd"


def test_a_compiled_program_cannot_open_a_socket():
    code = (
        "#include <sys/socket.h>\n#include <cassert>\n#include <cerrno>\n"
        "int main() { assert(socket(AF_INET, SOCK_STREAM, 0) == -1 && errno == EPERM); }"
    )
    assert run(code, "cpp").status == "ok"


def test_the_same_source_is_compiled_once():
    need("cpp")
    code = "#include <iostream>\nint main() { int x; std::cin >> x; std::cout << 2 * x; }"
    worker = Worker(choose_sandbox(), Limits(), slot=1)
    try:
        first = worker.run(Program("a", code, "cpp", "1"))
        compiled = worker._compile
        worker._compile = None  # nothing is left that could
        second = worker.run(Program("b", code, "cpp", "21"))
        worker._compile = compiled
        third = worker.run(Program("c", code + "\n", "cpp", "3"))
    finally:
        worker.close()
    assert [o.stdout for o in (first, second, third)] == ["2", "42", "6"]
    assert second.id == "b"


def test_what_is_kept_of_compilers_is_bounded(monkeypatch):
    monkeypatch.setattr(_worker, "_KEPT_BYTES", 20_000)
    compiled = _worker.Compiled()
    for name in ("a", "b", "c"):
        compiled.put(name, {"program": bytes(5_000)})
        assert compiled.get("a" if name != "c" else "b") is not None or name == "c"
    assert compiled.get("b") is None
    assert compiled.get("a") is not None
    assert compiled.get("c") is not None


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("public class Deep { public static void main(String[] a) {} }", "Deep"),
        ("class A {} class B { public static void main(String[] a) {} }", "B"),
        ("class B { public static void main(String[] a) {} }\npublic interface Shown {}", "Shown"),
        ("/* class X */ record R(int x) { public static void main(String[] a) {} }", "R"),
        ("package a.b; public class C { public static void main(String[] a) {} }", "C"),
    ],
)
def test_a_java_file_has_the_name_of_its_public_type(code, name):
    need("java")
    tools = _languages.toolchain("java")
    assert tools.names(code)["source"] == f"{name}.java"
    assert run(code, "java").status == "ok"


def test_a_go_file_of_tests_is_tested():
    test = 'package main\nimport "testing"\nfunc TestA(t *testing.T) { if 1+1 != %d { t.Fatal() } }'
    assert run(test % 2, "go").status == "ok"
    assert run(test % 3, "go").status == "error"


def test_an_error_is_known_by_its_first_words_too():
    deep = "class A { static int f(int x) { return f(x) + 1; }"
    deep += " public static void main(String[] a) { f(0); } }"
    outcome = run(deep, "java")
    assert "StackOverflowError" not in outcome.stderr  # its end is kept, a thousand lines further
    assert outcome.error == "StackOverflowError"


def test_javascript_may_be_a_module():
    assert run("import assert from 'node:assert'; assert.equal(1, 1);", "javascript").status == "ok"


def test_types_are_taken_out_by_a_process_that_stays_and_is_replaced_when_it_dies():
    need("typescript")
    worker = Worker(choose_sandbox(), Limits(), slot=1)
    try:
        assert worker.run(Program("a", "const x: number = 1;", "typescript")).status == "ok"
        process = worker._transpiling._process
        assert worker.run(Program("b", "const x: number = 2;", "typescript")).status == "ok"
        assert worker._transpiling._process is process
        process.kill()
        errors = set()
        while errors <= {""}:  # what is inside may live a moment longer
            code = f"const x: number = {time.monotonic()};"
            errors.add(worker.run(Program("c", code, "typescript")).error)
        assert errors - {""} == {"CompileError: TranspilerLost"}
        assert worker.run(Program("d", "const x: number = 4;", "typescript")).status == "ok"
        assert worker._transpiling._process is not process
    finally:
        worker.close()
    assert process.poll() is not None


def test_files_lie_beside_a_program_of_any_language():
    assert (
        run("import house\nassert house.x == 7", "python", files={"house.py": b"x = 7"}).status
        == "ok"
    )
    header = {"deep/house.h": b"const int x = 7;"}
    code = '#include "deep/house.h"\nint main() { return x - 7; }'
    assert run(code, "cpp", files=header).status == "ok"
    code = "if (require('./house').x !== 7) throw new Error();"
    assert run(code, "javascript", files={"house.js": b"exports.x = 7"}).status == "ok"


@pytest.mark.usefixtures("looked_for_anew")
def test_a_language_without_its_tools_is_unsupported_and_says_what_to_install(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    (outcome,) = execute([Program("p", "", "go")], workers=1)
    assert outcome.status == "unsupported"
    assert outcome.error == "go is not installed; apt install golang-go"
    (outcome,) = execute([Program("p", "", "cobol")], workers=1)
    assert (outcome.status, "choose one of python" in outcome.error) == ("unsupported", True)


@pytest.mark.usefixtures("looked_for_anew")
def test_tools_in_a_folder_with_other_things_of_the_home_are_not_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for prefix, shown in ((".local", False), ("", False), ("versions/node20", True)):
        folder = tmp_path / prefix / "bin"
        folder.mkdir(parents=True)
        (folder / "node").touch(0o755)
        monkeypatch.setenv("PATH", str(folder))
        _languages.toolchain.cache_clear()
        found = _languages.toolchain("javascript")
        if shown:
            assert found.readable == (str(tmp_path / prefix),)
        else:
            assert "programs in the sandbox cannot read" in found
        shutil.rmtree(folder)


def test_the_rows_of_a_file_may_bring_files_and_errors_are_counted_by_class(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"id": 1, "code": "import a", "files": {"a.py": ""}},
        {"id": 2, "code": "import b", "files": {"a.py": ""}},
        {"id": 3, "code": "import b"},
    ]
    write_jsonl(source, rows)
    facts = execute_file(source, out)
    assert facts["status"] == {"error": 2, "ok": 1}
    assert facts["errors"] == {"ModuleNotFoundError: b": 2}
    assert [row["status"] for _, row in read_jsonl(out)] == ["ok", "error", "error"]
