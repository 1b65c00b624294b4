"""What runs in the sandbox for tasks with structured inputs: one process answers, one judges.

Promises:
- The process that compares has never run the solution.
- The process that runs the solution has never held an expected value, the reference, or a way to
  the judge's output. It is forked before the reference is read. Every descriptor but its two
  pipes is closed. The judge cannot be traced or read.
- What comes back from the answering process is plain data, so no `__eq__` of the solution is
  called.
- Processor time is counted per input. The limit is `FLOOR` seconds or `FACTOR` times the
  reference's time, whichever is more. So a busy machine changes no verdict.
- It uses the standard library only, because it is sent as text.

Does not:
- Confine: the sandbox around it does.
- Stop a solution from killing the judge. That is then not a pass.

Comparisons are evalplus's (https://github.com/evalplus/evalplus, `eval/__init__.py`), with its
special oracles, so that scores can be compared.
"""

import collections.abc
import contextlib
import copy
import ctypes
import fcntl
import io
import json
import math
import numbers
import os
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

FLOOR, FACTOR, SETUP = 1.0, 4.0, 10.0  # seconds, times the reference, seconds to define things
TRANSPORT = 10.0  # seconds to serialise an answer and send it
PATIENCE = 60.0  # seconds of wall time on top of ten times the limit, for a solution that sleeps
_SCALARS = {int, float, bool, str, type(None)}


_NUMBERS = (int, float, complex)
_WIDE = 1 << 256  # the time to write wider integers in decimal is quadratic in their digits


class _Opaque:
    """Stands for an answer that is not plain data. It equals nothing."""


def _flat(items: Sequence[Any]) -> bool:
    """Whether JSON can hold all items: the fast path for long lists of one kind."""
    kinds = set(map(type, items))
    if kinds == {int}:
        return bool(min(items) > -_WIDE and max(items) < _WIDE)
    return kinds <= _SCALARS - {int}


def encode(value: Any) -> Any:
    """Plain data as JSON can hold it. What JSON lacks becomes {"t": kind, "v": content}."""
    kind = type(value)
    if kind is int and not -_WIDE < value < _WIDE:
        return {"t": "wide", "v": hex(value)}
    if kind in _SCALARS:
        return value
    if isinstance(value, (list, tuple)):
        items = list(value) if _flat(value) else [encode(item) for item in value]
        return items if isinstance(value, list) else {"t": "tuple", "v": items}
    if isinstance(value, dict):
        return {"t": "dict", "v": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, collections.abc.Set):
        return {"t": "set", "v": [encode(item) for item in value]}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return {"t": "bytes", "v": value.decode("latin-1")}
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (Fraction, Decimal)) and math.isfinite(value):
        return {"t": "ratio", "v": list(value.as_integer_ratio())}
    if isinstance(value, complex):
        return {"t": "complex", "v": [value.real, value.imag]}
    if kind.__module__ == "numpy" and not getattr(value, "shape", (0,)):  # a numpy scalar
        return encode(value.item())
    return {"t": "opaque", "v": None}


_DECODE: dict[str, Callable[[Any], Any]] = {
    "wide": lambda text: int(text, 16),
    "tuple": tuple,
    "set": set,
    "dict": lambda pairs: dict(pairs),
    "bytes": lambda text: text.encode("latin-1"),
    "ratio": lambda pair: Fraction(*pair),
    "complex": lambda pair: complex(*pair),
    "opaque": lambda _: _Opaque(),
}


def decode(text: str) -> Any:
    """The value that `encode` was given, read back from JSON."""
    return json.loads(text, object_hook=lambda tagged: _DECODE[tagged["t"]](tagged["v"]))


# --- the process that answers ---------------------------------------------------------------

VIEWS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda out: out,
    "set": set,
    "not none": lambda out: out if isinstance(out, bool) else out is not None,
}


def _answer(solution: str, entry: str, inputs: Sequence[Any], view: str) -> None:
    """Run the solution on each input when asked.

    Descriptor 3 carries the questions, one byte for each input. Descriptor 4 carries the answers:
    one byte when there is an answer, then eight bytes of length, then the answer as JSON. The time
    to serialise an answer does not count as the solution's time.
    """

    def tell(*content: Any) -> None:
        data = json.dumps(content).encode()
        data = len(data).to_bytes(8, "big") + data
        while data:
            data = data[os.write(4, data) :]

    os.read(3, 1)
    try:
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        exec(compile(solution, "solution.py", "exec", dont_inherit=True), module.__dict__)
        function = module.__dict__[entry]
    except BaseException as error:
        os.write(4, b".")
        tell(False, "NameError" if isinstance(error, KeyError) else type(error).__name__)
        return
    os.write(4, b".")
    tell(True, None)
    for arguments in inputs:
        if not os.read(3, 1):
            return
        try:
            answer = VIEWS[view](function(*arguments))
        except BaseException as error:
            os.write(4, b".")
            tell(False, type(error).__name__)
            continue
        os.write(4, b".")
        try:
            tell(True, encode(answer))
        except (RecursionError, MemoryError) as error:
            tell(False, type(error).__name__)


def _start(solution: str, entry: str, inputs: Sequence[Any], view: str) -> tuple[int, int, int]:
    """Fork an answering process: (its id, descriptor for questions, descriptor for answers)."""
    asked, ask = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(nothing, fd)
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 5) for fd in (asked, tell)]  # not 3, not 4
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)
            os.closerange(5, 1 << 16)
            _answer(solution, entry, inputs, view)
        finally:
            os._exit(0)
    os.close(asked)
    os.close(tell)
    return pid, ask, told


# --- the process that judges ----------------------------------------------------------------


class _Stop(Exception):
    """The answering process gives no more answers: (status, error)."""


class _Answers:
    """The judge's end of an answering process."""

    def __init__(self, pid: int, ask: int, told: int) -> None:
        self.pid, self.ask, self.told = pid, ask, told

    def _clock(self) -> float:
        return time.clock_gettime((~self.pid << 3) | 2)  # clock_getcpuclockid(3)

    def next(self, limit: float) -> tuple[bool, Any]:
        """Ask for one answer within `limit` seconds of processor time."""
        begin, until = self._clock(), time.monotonic() + 10 * limit + PATIENCE
        try:
            os.write(self.ask, b".")
        except BrokenPipeError:
            raise self._ended() from None
        self._read(1, begin + limit, until)
        size = int.from_bytes(self._read(8, begin + limit + TRANSPORT, until), "big")
        found = decode(self._read(size, begin + limit + TRANSPORT, until).decode("ascii"))
        return bool(found[0]), found[1]

    def _read(self, size: int, cpu: float, until: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = cpu - self._clock()
            if left < 0 or time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                raise _Stop("timeout", "ProcessorTime" if left < 0 else "WallTime")
            if not select.select([self.told], [], [], min(max(left, 0.01), 0.5))[0]:
                if os.waitpid(self.pid, os.WNOHANG)[0]:  # a grandchild may hold the pipe open
                    raise _Stop("fail", "NoVerdict")
                continue
            chunk = os.read(self.told, min(size - len(data), 1 << 20))
            if not chunk:
                raise self._ended()
            data += chunk
        return bytes(data)

    def _ended(self) -> _Stop:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        late = code == -signal.SIGXCPU
        return _Stop("timeout", "ProcessorTime") if late else _Stop("fail", "NoVerdict")


def _floats(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(out: Any, expected: Any, atol: float) -> bool:
    """The same test as numpy's allclose with rtol 1e-7, for numbers and lists of the same shape."""
    if isinstance(expected, (list, tuple)):
        same = isinstance(out, (list, tuple)) and len(out) == len(expected)
        return same and all(_close(o, e, atol) for o, e in zip(out, expected, strict=True))
    if not isinstance(out, _NUMBERS) or not isinstance(expected, _NUMBERS):
        return False
    return out == expected or bool(
        math.isfinite(abs(expected)) and abs(out - expected) <= atol + 1e-7 * abs(expected)
    )


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    return sum(c * math.pow(x, power) for power, c in enumerate(coefficients))


def _pyramid(base: float, height: float) -> int:
    """Surface of a square pyramid from its base and its perpendicular height."""
    return round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))


def _digit_distance(first: int, second: int) -> int:
    """Sum of the differences digit by digit, with the shorter number padded with zeros."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)


ORACLES: dict[str, Callable[[Any, Sequence[Any], float], bool]] = {
    "any": lambda out, given, atol: True,
    "zero": lambda out, given, atol: bool(out == 0),
    "root": lambda out, given, atol: abs(_polynomial(given[0], out)) <= atol,
    "pyramid": lambda out, given, atol: abs(out - _pyramid(*given)) <= atol,
    "digits": lambda out, given, atol: bool(out == _digit_distance(*given)),
    "none": lambda out, given, atol: False,
}
"""Answers that are right in addition to the reference's own. `root` replaces the reference's."""


def _judge(
    answers: _Answers, inputs: Sequence[Any], reference: Callable[..., Any], how: dict[str, Any]
) -> list[Any]:
    """[status, index of the input that failed or None, error class]."""
    atol, index = float(how["atol"]), None
    try:
        ready, error = answers.next(SETUP)
        if not ready:
            return ["fail", None, error]
        for index, given in enumerate(inputs):
            begin = time.process_time()
            expected = VIEWS[how["view"]](reference(*copy.deepcopy(given)))
            took = time.process_time() - begin
            returned, out = answers.next(max(FLOOR, FACTOR * took))
            if not returned:
                return ["fail", index, str(out)]
            if not atol and _floats(expected):
                atol = 1e-6  # also for the inputs that follow, as in evalplus
            try:
                right = how["oracle"] != "root" and bool(out == expected)
                right = right or ORACLES[how["oracle"]](out, given, atol)
                if not right and atol and how["oracle"] != "root" and type(out) is type(expected):
                    right = _close(out, expected, atol)
            except Exception:  # an answer of another kind
                right = False
            if not right:
                return ["fail", index, "AssertionError"]
    except _Stop as stop:
        return [stop.args[0], index, stop.args[1]]
    return ["pass", None, ""]


def _take(size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            raise EOFError("request")
        data += chunk
    return data


def main() -> None:
    """Standard input: two JSON documents, each after its length. The second is the judge's own."""
    sys.set_int_max_str_digits(0)
    request = decode(_take(int(_take(16), 16)).decode())
    how, phases = request["how"], request["phases"]
    started = [
        _Answers(*_start(request["solution"], request["entry_point"], inputs, how["view"]))
        for _, inputs in phases
    ]
    # PR_SET_DUMPABLE: closes the way in through /proc. Landlock refuses this call, but it hides
    # /proc anyway, except descriptors that are not files. Hence the next line but one.
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    secret = decode(_take(int(_take(16), 16)).decode())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the solution has not been started yet
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        names: dict[str, Any] = {"__name__": "reference"}
        exec(compile(secret["reference"], "reference.py", "exec", dont_inherit=True), names)
        reference = names[request["entry_point"]]
        verdicts = {
            name: _judge(answers, inputs, reference, how)
            for (name, inputs), answers in zip(phases, started, strict=True)
        }
    print(json.dumps(verdicts))
