"""One program after another on the same server: none sees or changes the next."""

import pytest

from privcode.execution import Limits

LOOK = """
import builtins, json, os, resource, signal, sys, threading
print(len('abc'), json.dumps({'a': 1}), os.getcwd() == os.environ['HOME'], os.listdir('.'))
print(sorted(set(vars(builtins)) & {'planted', 'len'}), sys.path.count('planted'))
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, sys.getrecursionlimit())
print(threading.active_count(), sorted(os.environ), 'planted' in sys.modules)
print(resource.getrlimit(resource.RLIMIT_NOFILE), os.umask(0o022), open(0).read())
print(sorted(name for name in globals() if not name.startswith('__'))[:3])
try: print(os.listdir('/dev/shm'))
except OSError as e: print('closed')
"""
SPOILERS = {
    "patches": """
import builtins, json, os, sys, signal, socket, gc
builtins.len = builtins.planted = json.dumps = os.fork = os.read = lambda *_: 'changed'
os.environ['PLANTED'] = 'x'; sys.path.append('planted'); sys.modules['planted'] = json
sys.setrecursionlimit(99999); signal.signal(signal.SIGINT, signal.SIG_IGN); os.umask(0)
""",
    "frames": """
import sys, gc, types
frame = sys._getframe()
while frame:
    for name, thing in list(frame.f_globals.items()):
        if isinstance(thing, (types.FunctionType, dict)): frame.f_globals[name] = None
    frame = frame.f_back
for thing in gc.get_objects():
    if isinstance(thing, dict) and 'landlock' in thing: thing.clear()
""",
    "files": "import os\nfor d in ('.', '/tmp', '/dev/shm', '/', '/var/tmp'):\n"
    "    try: open(d + '/left', 'w').write('x')\n    except OSError: pass",
    "processes": "import os, time\nfor _ in range(5):\n    if os.fork() == 0: time.sleep(60)",
    "kills": """
import os, signal
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    for pid in (-1, 1, *range(max(2, os.getppid() - 300), os.getppid() + 5)):
        if pid != os.getpid():
            try: os.kill(pid, number)
            except OSError: pass
""",
    "descriptors": """
import os
for fd in range(0, 1024):
    for words in (b'r', b'ready', b'1 1 0 0 \\n'):
        try: os.write(fd, words)
        except OSError: pass
    try: os.close(fd)
    except OSError: pass
""",
    "stops": "import os, signal\nos.kill(0, signal.SIGSTOP)",
    "priority": """
import os
for act in (lambda: os.nice(19), lambda: os.setpriority(os.PRIO_USER, 0, 19),
            lambda: os.sched_setaffinity(os.getppid(), {0})):
    try: act()
    except OSError: pass
""",
    "locks": "import fcntl, os\nkept = [open(os.__file__)]\nfcntl.flock(kept[0], 2)\n"
    "if os.fork() == 0:\n    import time; time.sleep(60)",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "keys": "import ctypes\nctypes.CDLL(None).syscall(248, b'user', b'planted', b'x', 1, -4)",
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_program_does_not_change_the_next(box, spoiler):
    limits = Limits(cpu_seconds=2, wall_seconds=2, memory_mb=256, preload=("json",))
    (before,) = box.all([LOOK], limits)
    assert before.status == "ok", before
    spoiled, after = box.all([SPOILERS[spoiler], LOOK], limits)
    assert spoiled.error != "ServerLost"
    assert after.status == "ok", after
    assert after.stdout == before.stdout


def test_a_program_finds_nothing_of_the_one_before(box):
    mark = "the-mark-of-the-first-" + "program"
    plant = "kept = 'the-mark-of-the-first-' + 'program'\nprint(len(kept))"
    search = """
import gc, sys
mark = 'the-mark-of-the-first-' + 'program'
def holds(thing):
    return mark in thing if isinstance(thing, str) else False
seen = [x for o in gc.get_objects() for x in gc.get_referents(o) if x is not mark and holds(x)]
print([x for x in seen if x != mark])
"""
    first, second = box.all([f"#{mark}\n{plant}", search])
    assert (first.status, second.status) == ("ok", "ok"), second
    assert second.stdout == "[]\n"


def test_programs_have_random_numbers_of_their_own(box):
    first, second = box.all(
        ["import random; print(random.random())"] * 2, Limits(preload=("random",))
    )
    assert first.stdout != second.stdout
