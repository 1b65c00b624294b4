"""Run programs inside a sandbox, many at a time.

Promises:
- Outcomes come lazily and in input order, with a bounded number of programs in progress.
- There are at most as many workers as cores, each with one program at a time. So the verdict of a
  correct program does not depend on what else the machine does.
- When the last outcome is taken, or the iterator is closed, nothing runs any more.

Does not: know how a program is confined (`_sandboxes`) or judged (`_server`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from privcode.errors import UserError
from privcode.execution._choice import choose_sandbox
from privcode.execution._program import Limits, Outcome, Program
from privcode.execution._sandboxes import Sandbox
from privcode.execution._server import SandboxFailure
from privcode.execution._worker import Compiled, Worker
from privcode.machine import cores


def execute(
    programs: Iterable[Program],
    limits: Limits | None = None,
    *,
    sandbox: str = "auto",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Outcome]:
    """Run each program by itself in a sandbox. Outcomes come lazily, in input order.

    Args:
        programs: read a few ahead of the outcomes taken.
        limits: the same for every program; default `Limits()`.
        sandbox: "auto", or the name of one that `sandboxes` lists.
        workers: programs at a time, at most and by default the machine's cores.
        progress: called with 1 for every outcome.

    Raises:
        UserError: no sandbox works on this machine, it stopped working, or a module cannot be
            preloaded.
    """
    chosen = choose_sandbox(sandbox)
    return _execute(programs, limits or Limits(), chosen, workers, progress)


def _execute(
    programs: Iterable[Program],
    limits: Limits,
    sandbox: Sandbox,
    workers: int | None,
    progress: Callable[[int], None] | None,
) -> Iterator[Outcome]:
    most = cores()
    compiled = Compiled()
    slots = range(max(1, min(workers or most, most)))
    crew = [Worker(sandbox, limits, slot, compiled) for slot in slots]
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in crew:
        idle.put(worker)
    stop = threading.Event()

    def run(program: Program) -> Outcome:
        worker = idle.get()
        try:
            return worker.run(program, stop)
        except SandboxFailure:  # a shortage that may pass: try once more, then give up
            time.sleep(0.5)
            return worker.run(program, stop)
        finally:
            idle.put(worker)

    pending: deque[Future[Outcome]] = deque()
    pool = ThreadPoolExecutor(len(crew))
    try:
        source = iter(programs)
        exhausted = False
        while True:
            while not exhausted and len(pending) < 4 * len(crew):
                program = next(source, None)
                if program is None:
                    exhausted = True
                else:
                    pending.append(pool.submit(run, program))
            if not pending:
                return
            try:
                outcome = pending.popleft().result()
            except SandboxFailure as failure:
                raise UserError(
                    f"sandbox: {sandbox.name} stopped working ({failure}); free memory and "
                    "processes, then run again"
                ) from failure
            if progress is not None:
                progress(1)
            yield outcome
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for worker in crew:
            worker.close()
