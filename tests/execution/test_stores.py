"""Where a hostile program could keep memory that is in none of its own pages, in every sandbox.

Each store is filled by fourteen children; each child says how much it holds, by the sizes measured
on Linux 6.18 (x86-64). A store is closed, counted for the limit, or too small to matter.
"""

import re

import pytest

from privcode.execution import Limits

LIMIT_MB = 128
FACTOR = 1.5
"""What a program holds in all, between two looks and unseen, is at most so many limits."""

_FRAME = """
import array, ctypes, errno, fcntl, mmap, os, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = libc.madvise.argtypes
MB, CHUNK, MOST = 1 << 20, bytes(1 << 16), 60 << 20
kept = []
def call(result):
    if result in (-1, 2 ** 64 - 1): raise OSError(ctypes.get_errno(), 'refused')
    return result
def pair():
    kept.extend(made := socket.socketpair())
    for end in made: end.setblocking(False)
    return made
def filled(end):
    sent = 0
    try:
        while sent < MOST: sent += end.send(CHUNK)
    except OSError: pass
    return sent
def holds(fill):
    size = 0
    try:
        for more in fill():
            size += more
            if size > MOST: break
    except OSError as e: pass
    return size
"""
_CHILDREN = """
heard, said = os.pipe()
for _ in range(CHILDREN):
    if os.fork() == 0:
        held = holds(fill)
        os.write(said, b'%d ' % held)
        time.sleep(SECONDS)
        os._exit(0)
os.close(said)
time.sleep(0.1)
total = 0
for _ in range(CHILDREN): total += int(b''.join(iter(lambda: os.read(heard, 1), b' ')) or 0)
print('held', total // MB, flush=True)
time.sleep(0.7)
print('DONE')
"""
STORES = {
    "socket pairs": """
def fill():
    while True:
        for end in pair(): yield filled(end)
""",
    "socket pairs with large buffers": """
def fill():
    while True:
        for end in pair():
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 23)
            yield filled(end)
""",
    "sockets on their way through a socket": """
def fill():
    ours, theirs = pair()
    while True:
        ends = socket.socketpair()
        for end in ends: end.setblocking(False)
        size = sum(map(filled, ends))
        socket.send_fds(ours, [b'x'], [end.fileno() for end in ends])
        for end in ends: end.close()
        yield size
""",
    "sockets of a thread with files of its own": """
run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
def own(_):
    while True: time.sleep(1)
def fill():
    while True:
        size = 0
        for _ in range(20): size += sum(map(filled, pair()))
        stack = libc.mmap(None, 1 << 20, 3, 0x22, -1, 0)
        kept.append(run(own))
        libc.clone.argtypes = [run, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        call(libc.clone(kept[-1], stack + (1 << 20), 0x100 | 0x200 | 0x800 | 0x10000, None))
        for one in kept:
            if isinstance(one, socket.socket): one.close()
        yield size
""",
    "sockets of a process that cannot be looked into": """
def fill():
    size = sum(filled(end) for _ in range(55) for end in pair())
    for end in kept: end.set_inheritable(True)
    fd = os.open('hidden%d' % os.getpid(), os.O_CREAT | os.O_WRONLY, 0o111)
    with open('/bin/sleep', 'rb') as tool, open(fd, 'wb') as copy: copy.write(tool.read())
    os.write(said, b'%d ' % size)
    os.execv('hidden%d' % os.getpid(), ['sleep', '2'])
    yield 0
""",
    "sockets that a dead first thread hides": """
def fill():
    done = threading.Event()
    def go():
        done.size = sum(filled(end) for _ in range(55) for end in pair())
        os.write(said, b'%d ' % done.size)
        time.sleep(SECONDS); os._exit(0)
    threading.Thread(target=go).start()
    libc.syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
    yield 0
""",
    "pages that a dead first thread hides": """
def fill():
    def go():
        kept.append(bytes(MB) * 50)
        os.write(said, b'%d ' % len(kept[-1]))
        time.sleep(SECONDS); os._exit(0)
    threading.Thread(target=go).start()
    libc.syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
    yield 0
""",
    "filters on sockets": """
def fill():
    while True:
        for end in pair():
            code = (ctypes.c_uint64 * 4096)(*[6] * 4096)
            value = struct.pack('HxxxxxxQ', 4096, ctypes.addressof(code))
            end.setsockopt(socket.SOL_SOCKET, 26, value)
            yield 4096 * 16
""",
    "pipes": """
def fill():
    while True:
        r, w = os.pipe()
        os.set_blocking(w, False)
        yield os.write(w, CHUNK)
""",
    "large pipes": """
def fill():
    while True:
        r, w = os.pipe()
        fcntl.fcntl(w, 1031, 1 << 20)
        os.set_blocking(w, False)
        yield os.write(w, bytes(1 << 20))
""",
    "fifos": """
def fill():
    while True:
        name = 'f%d.%d' % (os.getpid(), len(kept))
        os.mkfifo(name)
        kept.append(os.open(name, os.O_RDWR | os.O_NONBLOCK))
        yield os.write(kept[-1], CHUNK)
""",
    "huge pages given to a pipe": """
def fill():
    r, w = os.pipe()
    while True:
        place = call(libc.mmap(None, 4 * MB, 3, 0x22, -1, 0))
        huge = (place + 2 * MB - 1) & -(2 * MB)
        libc.madvise(huge, 2 * MB, 14)
        ctypes.memset(huge, 1, 2 * MB)
        vector = struct.pack('QQ', huge, 1)
        call(libc.vmsplice(w, vector, 1, 2))
        libc.munmap(place, 4 * MB, 0)
        yield 2 * MB
""",
    "pages of a file cut short, in a pipe": """
def fill():
    fd = os.open('cut%d' % os.getpid(), os.O_CREAT | os.O_RDWR)
    while True:
        r, w = os.pipe()
        os.ftruncate(fd, 0); os.pwrite(fd, CHUNK, 0)
        yield os.splice(fd, w, 1 << 16, offset_src=0)
""",
    "pages of a file cut short, in a socket": """
def fill():
    fd = os.open('cut%d' % os.getpid(), os.O_CREAT | os.O_RDWR)
    while True:
        ours, theirs = pair()
        for _ in range(50):
            os.ftruncate(fd, 0); os.pwrite(fd, CHUNK, 0)
            os.sendfile(ours.fileno(), fd, 0, 1)
            yield 4096
""",
    "shared pages that no process maps": """
def fill():
    place = call(libc.mmap(None, 50 * MB, 3, 0x21, -1, 0))
    ctypes.memset(place, 1, 50 * MB)
    libc.madvise(place, 50 * MB, 4)
    yield 50 * MB
""",
    "shared pages beyond their mapping": """
def fill():
    while True:
        place = call(libc.mmap(None, 40 * MB, 3, 0x21, -1, 0))
        ctypes.memset(place, 1, 40 * MB)
        libc.munmap(place + 4096, 40 * MB - 4096, 0)
        yield 40 * MB
""",
    "shared pages of /dev/zero": """
def fill():
    fd = os.open('/dev/zero', os.O_RDONLY)
    while True:
        place = call(libc.mmap(None, 40 * MB, 1, 0x1, fd, 0))
        for at in range(0, 40 * MB, 4096): ctypes.string_at(place + at, 1)
        libc.munmap(place + 4096, 40 * MB - 4096, 0)
        yield 40 * MB
""",
    "mappings": """
def fill():
    place = call(libc.mmap(None, 100 * MB, 3, 0x22, -1, 0))
    for at in range(0, 100 * MB, 8192):
        call(libc.mprotect(place + at, 4096, 1))
        yield 2 * 195
""",
    "watches of one file under many numbers": """
def fill():
    watched = [os.eventfd(0) for _ in range(25)]
    while True:
        epoll = select.epoll()
        kept.append(epoll)
        for one in watched:
            for number in range(122, 128):
                os.dup2(one, number)
                epoll.register(number, select.EPOLLIN)
                yield 213
""",
    "watches of files": """
def fill():
    fd = call(libc.inotify_init())
    for folder, _, names in os.walk('/usr'):
        for name in names:
            libc.inotify_add_watch(fd, os.path.join(folder, name).encode(), 0x200)
            yield 1200
            if len(kept) > 200: return
            kept.append(name)
""",
    "locks": """
def fill():
    for number in range(40):
        kept.append(open('lock%d.%d' % (os.getpid(), number), 'w+'))
        for at in range(200):
            fcntl.lockf(kept[-1], fcntl.LOCK_EX, 1, 2 * at)
            yield 192
""",
    "locks of open files": """
def fill():
    for number in range(40):
        kept.append(open('lock%d.%d' % (os.getpid(), number), 'w+'))
        for at in range(200):
            fcntl.fcntl(kept[-1], 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 2 * at, 1, 0))
            yield 192
""",
    "rules of a Landlock ruleset": """
def fill():
    while True:
        fd = call(libc.syscall(444, struct.pack('QQ', 0, 3), 16, 0))
        for port in range(1000):
            call(libc.syscall(445, fd, 2, struct.pack('QQ', 1, port), 0))
        yield 64 * 65536
""",
    "filters of system calls": """
def fill():
    libc.prctl(38, 1, 0, 0, 0)
    code = (ctypes.c_uint64 * 4096)(*[0x7FFF0000 << 32 | 6] * 4096)
    value = struct.pack('HxxxxxxQ', 4096, ctypes.addressof(code))
    for _ in range(7):
        call(libc.prctl(22, 2, ctypes.c_char_p(value), 0, 0))
        yield 4096 * 30
""",
    "rings of asynchronous input and output": """
def fill():
    while True:
        ring = ctypes.c_ulong()
        number = 206 if os.uname().machine == 'x86_64' else 0
        call(libc.syscall(number, 1000, ctypes.byref(ring)))
        yield 64000
""",
    "timers": """
def fill():
    while True:
        number, timer = 222 if os.uname().machine == 'x86_64' else 107, ctypes.c_int()
        call(libc.syscall(number, 1, None, ctypes.byref(timer)))
        yield 500
""",
    "signals that wait": """
def fill():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
    while True:
        call(libc.sigqueue(os.getpid(), 40, None))
        yield 80
""",
    "empty files with long names": """
def fill():
    for number in range(1000):
        os.close(os.open('%d.%d' % (os.getpid(), number) + 'x' * 200, os.O_CREAT))
        yield 1500
""",
    "attributes of files": """
def fill():
    open('f%d' % os.getpid(), 'w').close()
    for number in range(1000):
        os.setxattr('f%d' % os.getpid(), 'user.a%d' % number, bytes(60000))
        yield 60000
""",
    "files in memory": """
def fill():
    fd = os.memfd_create('x')
    while True: yield os.write(fd, CHUNK)
""",
    "shared memory of System V": """
def fill():
    while True:
        number = call(libc.shmget(0, 10 * MB, 0o600))
        libc.shmat.restype = ctypes.c_void_p
        ctypes.memset(call(libc.shmat(number, None, 0)), 1, 10 * MB)
        yield 10 * MB
""",
    "messages of System V": """
def fill():
    while True:
        number = call(libc.msgget(0, 0o600))
        call(libc.msgsnd(number, struct.pack('q', 1) + bytes(8000), 8000, 0o4000))
        yield 8000
""",
    "message queues": """
def fill():
    while True:
        kept.append(call(libc.mq_open(b'/q%d' % len(kept), 0o102, 0o600, None)))
        yield 80000
""",
    "keys": """
def fill():
    while True:
        number = 248 if os.uname().machine == 'x86_64' else 217
        name = b'k%d' % len(kept)
        kept.append(call(libc.syscall(number, b'user', name, bytes(30000), 30000, -2)))
        yield 30000
""",
    "rings of io_uring": """
def fill():
    while True:
        call(libc.syscall(425, 4096, ctypes.create_string_buffer(120)))
        yield 400000
""",
    "maps of bpf": """
def fill():
    number = 321 if os.uname().machine == 'x86_64' else 280
    while True:
        call(libc.syscall(number, 0, struct.pack('5I', 2, 4, 4096, 1000, 0) + bytes(100), 120))
        yield 4096000
""",
    "buffers of perf": """
def fill():
    number = 298 if os.uname().machine == 'x86_64' else 241
    while True:
        value = struct.pack('II', 1, 112) + bytes(104)
        call(libc.syscall(number, value, 0, -1, -1, 0))
        yield 100000
""",
    "network, netlink, packet and cipher sockets": """
def fill():
    for family, kind in ((2, 2), (10, 2), (16, 3), (17, 3), (38, 5), (1, 2), (1, 1), (40, 1)):
        try: kept.append(socket.socket(family, kind)); yield 1 << 26
        except OSError: pass
""",
    "datagram and packet pairs": """
def fill():
    for kind in (2, 5):
        try: kept.extend(socket.socketpair(1, kind)); yield 1 << 26
        except OSError: pass
""",
    "faults that wait": """
def fill():
    kept.append(call(libc.syscall(323 if os.uname().machine == 'x86_64' else 282, 1)))
    yield 1 << 26
""",
}


def held(box, fill: str, seconds: float = 2.5):
    code = _FRAME + fill + _CHILDREN
    for name, value in {"CHILDREN": 14, "SECONDS": seconds}.items():
        code = code.replace(name, str(value))
    limits = Limits(memory_mb=LIMIT_MB, open_files=128, cpu_seconds=20, wall_seconds=15)
    return box.run(code, limits)


QUICK = ("socket pairs", "huge pages given to a pipe", "shared pages of /dev/zero")


@pytest.mark.parametrize(
    "store",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STORES],
)
def test_no_store_of_the_kernel_goes_past_the_memory_limit(box, store):
    outcome = held(box, STORES[store])
    if outcome.status in ("memory", "output"):
        assert "DONE" not in outcome.stdout
        return
    size = re.search(r"held (\d+)\n", outcome.stdout)
    assert size, outcome
    assert int(size[1]) <= FACTOR * LIMIT_MB, outcome
