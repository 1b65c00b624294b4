"""How a program tries to pass without reaching its end, in every sandbox, as root and not."""

import pytest

from privcode.execution import Limits

SMALL = Limits(cpu_seconds=1, wall_seconds=2)
_LAST = "\nassert 1 == 2\n"  # what a right verdict must notice

FAKES = {
    "os._exit": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit",
    "kill": "import os; os.kill(os.getpid(), 9)",
    "exec": "import os; os.execv('/bin/true', ['true'])",
    "marker": "print('s'); print('ok'); print('1 1 0 0 '); import os; os._exit(0)",
    "writes to all": """
import os
for fd in range(3, 64):
    for words in (b's', b'started\\n', b'1 1 0 0 \\n', bytes(16)):
        try: os.write(fd, words)
        except OSError: pass
os._exit(0)
""",
    "echoes all": """
import os
found = []
for fd in range(3, 64):
    try: os.set_blocking(fd, False); os.lseek(fd, 0, 0)
    except OSError: pass
    try: found.append(os.read(fd, 99))
    except OSError: pass
for fd in range(3, 64):
    for words in found:
        try: os.write(fd, words)
        except OSError: pass
os._exit(0)
""",
    "child reaches the end": "import os\nif os.fork(): os.wait(); os._exit(0)",
    "child with its parent's number": """
import os
me = os.getpid()
if os.fork(): os.wait(); os._exit(0)
os.getpid = lambda: me
""",
    "replaced builtins": """
import builtins, os, sys, threading
def stop(*_): os._exit(0)
builtins.AssertionError = stop
sys.excepthook = stop
builtins.print = stop
""",
    "replaced os functions": "import os\nleave = os._exit\nos._exit = lambda _: leave(0)\n"
    "os.write = lambda *_: 0\nraise ValueError",
    "excepthook": "import os, sys\nsys.excepthook = lambda *_: os._exit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)",
    "thread": "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\n"
    "import time; time.sleep(1)",
    "late thread": "import os, threading, time\nthreading.Timer(0.2, os._exit, (0,)).start()\nif 1:"
    " time.sleep(2)",
    "trace": "import os, sys\nsys.settrace(lambda *_: os._exit(0))\n(lambda: 0)()",
    "stdout that leaves": """
import os, sys
class Out:
    def write(self, text): os._exit(0)
    def flush(self): os._exit(0)
sys.stdout = sys.stderr = Out()
""",
    "swallowed signal": "import signal, os\nsignal.signal(signal.SIGXCPU, lambda *_: os._exit(0))\n"
    "while True: pass",
    "__del__": "import os\nclass D:\n    def __del__(self): os._exit(0)\nd = D()\ndel d",
}


@pytest.mark.parametrize("fake", FAKES)
def test_a_faked_end_is_no_pass(box, fake):
    last = "" if "child" in fake else _LAST
    outcome = box.run(FAKES[fake] + last, SMALL, checked=True)
    assert outcome.status != "ok", outcome


def test_a_thread_left_running_is_waited_for(box):
    code = "import os, threading, time\nthreading.Thread(target=lambda: {}).start()"
    late = code.format("(time.sleep(0.3), os._exit(0))")
    assert box.run(late, SMALL, checked=True).error == "NoVerdict"
    assert box.run(code.format("time.sleep(60)"), SMALL, checked=True).status == "timeout"


@pytest.mark.parametrize(
    "code",
    [
        "assert True",
        "import atexit; atexit.register(print, 'bye')",
        "import threading; threading.Thread(target=print, daemon=True).start()",
        "import sys; sys.stdout.close()",
        "import os\nif os.fork(): os.wait()",
        "import os\npid = os.fork()\nif not pid: os._exit(3)\nos.waitpid(pid, 0)",
        "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(2).submit(print)",
        "class Odd:\n    def __eq__(self, other): return True\nassert Odd() == 1",
    ],
)
def test_a_program_that_reaches_its_end_is_ok(box, code):
    outcome = box.run(code, SMALL, checked=True)
    assert (outcome.status, outcome.error) == ("ok", ""), outcome


def test_a_program_that_kills_all_it_can_is_not_ok(box):
    code = "import os\nos.kill(-1, 9)\nos.kill(os.getppid(), 9)\nos.killpg(0, 9)"
    first, second = box.all([code, "print(1)"])
    assert first.status in ("error", "blocked")
    assert second.status == "ok"
