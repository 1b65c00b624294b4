"""One worker: what is done with each program that it is given, in its language.

Promises:
- A source that was compiled before is not compiled again, as long as `Compiled` keeps the result.
- Compilers run in the sandbox, within limits of their own.

Does not: look at what a program does (`_server` does).
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from privcode.execution._choice import choose_sandbox
from privcode.execution._languages import Toolchain, error_of, toolchain
from privcode.execution._program import Limits, Outcome, Program, Status
from privcode.execution._sandboxes import Sandbox
from privcode.execution._server import Server, Task
from privcode.execution._transpile import SERVER, Transpiler
from privcode.languages import canonical_language, languages

_COMPILER = Limits(
    cpu_seconds=60,
    wall_seconds=300,
    memory_mb=2048,
    output_kb=1024,
    processes=128,
    files_mb=256,
    open_files=1024,
)
# It serves many programs; one of them may take as long as a compiler may.
_TRANSPILER = replace(_COMPILER, cpu_seconds=3600, wall_seconds=1e9, output_kb=1 << 30)
_KEPT_BYTES = 256 << 20

Made = Mapping[str, bytes]


class Compiled:
    """The latest results of compilers, up to 256 MB. Workers share them."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, Made] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Made | None:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            return self._made.get(key)

    def put(self, key: str, made: Made) -> None:
        with self._lock:
            if key not in self._made:  # another worker's result may have come first
                self._made[key] = made
                self._bytes += _size(made)
            while self._bytes > _KEPT_BYTES:
                self._bytes -= _size(self._made.popitem(last=False)[1])


def _size(made: Made) -> int:
    return 4096 + sum(map(len, made.values()))


def _key(name: str, files: Mapping[str, bytes]) -> str:
    parts = [name.encode(), *(part for k in sorted(files) for part in (k.encode(), files[k]))]
    return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()


def tools_for(name: str, sandbox: Sandbox) -> Toolchain | str:
    """What compiles and runs a language other than Python, or why nothing does and what to do."""
    language = canonical_language(name)
    if language is None:
        return f"{name!r} is not a known language; choose one of {', '.join(languages())}"
    found = toolchain(language)
    if isinstance(found, Toolchain) and found.commands.proc and not sandbox.namespaces:
        return f"its runtime needs /proc, which {sandbox.name} does not show; use bubblewrap"
    return found


def unsupported(language: str, sandbox: str = "auto") -> str:
    """Why programs of a language cannot be run here and what to do. Empty if they can.

    Raises:
        UserError: there is no sandbox.
    """
    if canonical_language(language) == "python":
        return ""
    found = tools_for(language, choose_sandbox(sandbox))
    return found if isinstance(found, str) else ""


class Worker:
    """Runs one program at a time. `slot` separates the users of workers that run side by side."""

    def __init__(
        self, sandbox: Sandbox, limits: Limits, slot: int, compiled: Compiled | None = None
    ) -> None:
        self.sandbox, self.limits = sandbox, limits
        self._compiled = Compiled() if compiled is None else compiled
        self._server = Server(sandbox, limits.preload, slot)
        # A separate server: the first one serves the program.
        self._transpiling = Server(sandbox, (), slot + 128)
        self._transpile = Transpiler(self._begin_transpiler)

    def run(self, program: Program, stop: threading.Event | None = None) -> Outcome:
        """Run one program until it ends or breaks a limit.

        Raises:
            SandboxFailure: the sandbox did not start.
            UserError: a module to be preloaded cannot be imported, or starts threads.
        """
        name = canonical_language(program.language)
        if name == "python":
            task = Task(
                program.id,
                self.limits,
                code=program.code,
                files=program.files,
                stdin=program.stdin,
                checked=program.checked,
            )
            return self._server.do(task, (), stop)[0]
        tools = tools_for(program.language, self.sandbox)
        if isinstance(tools, str):
            return Outcome(program.id, "unsupported", None, 0.0, "", "", tools)
        language, code = tools.commands, tools.commands.complete(program.code)
        names = tools.names(code)
        files = {**program.files, names["source"]: code.encode("utf-8", "surrogatepass")}
        if language.made:
            key = _key(str(name), files)
            made = self._compiled.get(key)
            if made is None:
                outcome, made = self._compile(tools, code, names, files, stop)
                if outcome.status != "ok":
                    return replace(outcome, id=program.id)
                self._compiled.put(key, made)
            files = {**program.files, **made}
        task = _task(tools, self.limits, language.run, names, files)
        task = replace(task, id=program.id, stdin=program.stdin)
        return self._server.do(task, tools.readable, stop)[0]

    def close(self) -> None:
        """End everything that the worker runs."""
        self._transpile.close()
        self._server.close()

    def _compile(
        self,
        tools: Toolchain,
        code: str,
        names: Mapping[str, str],
        files: Mapping[str, bytes],
        stop: threading.Event | None,
    ) -> tuple[Outcome, Made]:
        if not tools.commands.compile:
            return self._to_javascript(code)
        task = _task(tools, _COMPILER, tools.commands.compile, names, files, compiling=True)
        outcome, made = self._server.do(task, tools.readable, stop)
        if outcome.status == "ok" and not made:
            outcome = replace(outcome, status="error", error="CompileError")
        elif outcome.status != "ok" and not outcome.error.startswith(("Module", "Compile")):
            outcome = replace(outcome, error=f"CompileError: {outcome.error}")
        return outcome, made

    def _to_javascript(self, code: str) -> tuple[Outcome, Made]:
        begin = time.monotonic()
        javascript, error = "", ""
        status: Status = "error"
        try:
            javascript, error = self._transpile(code, _COMPILER.cpu_seconds)
        except TimeoutError:
            status, error = "timeout", "WallTime"
        except OSError:
            error = "TranspilerLost"
        seconds = round(time.monotonic() - begin, 4)
        if not error:
            javascript_file = {"program.js": javascript.encode("utf-8", "surrogatepass")}
            return Outcome("", "ok", None, seconds, "", "", ""), javascript_file
        word = error.partition(":")[0].removeprefix("error ")
        return Outcome("", status, None, seconds, "", error, f"CompileError: {word}"), {}

    def _begin_transpiler(self, stdin: int, stdout: int) -> Callable[[], None]:
        tools = toolchain("typescript")
        assert isinstance(tools, Toolchain)  # otherwise there would be nothing to transpile
        package = str(Path(tools.paths["tsc"]).parent.parent)
        server = {"server.js": SERVER.encode()}
        task = _task(tools, _TRANSPILER, "{node} server.js", tools.paths, server)
        task = replace(task, command=[*task.command, package])
        self._transpiling.hold(task, tools.readable, stdin, stdout)
        return self._transpiling.close


def _task(
    tools: Toolchain,
    limits: Limits,
    command: str,
    names: Mapping[str, str],
    files: Mapping[str, bytes],
    *,
    compiling: bool = False,
) -> Task:
    """The task for the server. `names` fill the command, and a runtime's heap is 3/4 of memory."""
    language, heap = tools.commands, str(limits.memory_mb * 3 // 4)
    return Task(
        "",
        replace(limits, processes=limits.processes + language.threads),
        files=files,
        judge=partial(error_of, language, compiling=compiling),
        command=[word.format(heap=heap, **names) for word in command.split()],
        environment=language.environment,
        reserves=language.reserves,
        made=language.made if compiling else "",
    )
