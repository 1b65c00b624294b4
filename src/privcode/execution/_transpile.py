"""TypeScript into JavaScript by the compiler's own `transpileModule`, in a process that stays warm.

Promises:
- Types are removed, not checked: an error in the types is no failure.
- The compiler runs in the sandbox like any program. A compiler that crashes, or takes too long over
  a file, is replaced.

Does not: resolve imports.
"""

import json
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress

# The request is a line of JSON, a string. The answer is a line: [its JavaScript, its first error].
SERVER = """
const ts = require(process.argv[2]);
const options = {module: "commonjs", target: "es2022", esModuleInterop: true};
const kinds = {compilerOptions: options, reportDiagnostics: true, fileName: "program.ts"};
let waiting = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => {
  waiting += chunk;
  for (let end; (end = waiting.indexOf("\\n")) >= 0; waiting = waiting.slice(end + 1)) {
    let answer;
    try {
      const code = JSON.parse(waiting.slice(0, end));
      const {outputText, diagnostics} = ts.transpileModule(code, kinds);
      const wrong = (diagnostics || []).map((d) =>
        `error TS${d.code}: ${ts.flattenDiagnosticMessageText(d.messageText, " ")}`);
      answer = [outputText, wrong[0] || ""];
    } catch (error) {
      answer = ["", `error TS0: ${error}`];
    }
    process.stdout.write(JSON.stringify(answer) + "\\n");
  }
});
"""


class Transpiler:
    """Asks a running `SERVER`.

    `start(asked, told)` runs `SERVER` in a sandbox, with these descriptors as its standard input
    and output. It returns what ends the server.
    """

    def __init__(self, start: Callable[[int, int], Callable[[], None]]) -> None:
        self._start = start
        self._end: Callable[[], None] | None = None
        self._ask = self._told = -1

    def __call__(self, code: str, seconds: float) -> tuple[str, str]:
        """(JavaScript, the first syntax error or nothing). Raises TimeoutError or OSError."""
        if self._end is None:
            asked, self._ask = os.pipe()
            self._told, told = os.pipe()
            os.set_blocking(self._ask, False)
            self._end = lambda: None
            try:
                self._end = self._start(asked, told)
            except BaseException:
                self.close()
                raise
            finally:
                os.close(asked)
                os.close(told)
        try:
            return self._answer(json.dumps(code).encode() + b"\n", time.monotonic() + seconds)
        except BaseException:
            self.close()
            raise

    def _answer(self, question: bytes, until: float) -> tuple[str, str]:
        answer = bytearray()
        while not answer.endswith(b"\n"):
            left = until - time.monotonic()
            wanted = [self._ask] if question else []
            can_read, can_write, _ = select.select([self._told], wanted, [], max(left, 0))
            if can_write:
                question = question[os.write(self._ask, question) :]
            if can_read:
                chunk = os.read(self._told, 1 << 16)
                if not chunk:
                    raise OSError("the transpiler ended")
                answer += chunk
            if not can_read and not can_write:
                raise TimeoutError
        javascript, error = json.loads(answer)
        return str(javascript), str(error)

    def close(self) -> None:
        if self._end is not None:
            self._end()
            self._end = None
            for fd in (self._ask, self._told):
                with suppress(OSError):
                    os.close(fd)
