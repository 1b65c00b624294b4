"""The engine on a Ray cluster: actors that hold a model, and tasks for the sandbox.

Promises:
- Ray places tasks, and actors that need a GPU. A task goes to a processor that is free, and gives
  it back. So two runs on one cluster cannot block each other. Actors without a GPU go to the
  machine that has the fewest.
- A call whose actor died is made again on another one, and Ray is asked for a new actor. So work
  goes on where the lost place does not come back, and also uses machines that join later.
- Every worker has the packages, and privcode's own source, of the machine that started the run.
- When the context ends, also by Ctrl-C, nothing of the run is left on the cluster.

Does not: read or write a file of a run. What the run made is sent; see `pipeline.scale`.
"""

import hashlib
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import distributions
from itertools import islice
from math import ceil
from pathlib import Path
from platform import python_version
from queue import SimpleQueue
from typing import Any, TypeVar

from privcode.cluster import Finished
from privcode.cluster.settings import Scale
from privcode.errors import UserError

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise UserError("scale.engine: ray is not installed; pip install 'privcode[ray]'") from None

T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item")

PIECE = 32
"""Items of `Ray.spread` that one task does. Starting a sandbox takes as long as a few programs."""
TRIES = 4
"""How often the same work may lose its worker."""
_PASSED_ON = ("HF_", "OMP_", "MKL_", "TOKENIZERS_", "TRANSFORMERS_", "CUBLAS_", "NVIDIA_TF32")


@cache
def packages() -> dict[str, str]:
    """What a result depends on, by name: Python, all installed packages, privcode's source."""
    found = {d.name: d.version for d in distributions() if d.name}
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    return found | {"Python": python_version(), "privcode": source.hexdigest()[:12]}


def _insist(expected: Mapping[str, str]) -> None:
    """Refuse to work with other packages than the machine that started the run."""
    own = packages()
    for name in sorted({*own, *expected}, key=lambda name: (name not in _FIRST, name)):
        if own.get(name) != expected.get(name):
            raise UserError(
                f"machine {ray.util.get_node_ip_address()} of the cluster: {name} is "
                f"{own.get(name, 'missing')}, and {expected.get(name, 'missing')} where the run "
                "was started; install the same packages on all machines"
            )


_FIRST = ("Python", "privcode", "torch", "transformers")
"""What is named before others that differ."""


class _Worker:
    """An actor. It makes its thing once."""

    def begin(self, make: Callable[[], Any], threads: int, expected: Mapping[str, str]) -> None:
        _insist(expected)
        _use_threads(threads)
        self._thing = make()

    def do(self, use: Callable[[Any], Any]) -> Any:
        return use(self._thing)


def _piece(
    work: Callable[..., Iterable[R]], items: Sequence[Any], expected: Mapping[str, str]
) -> list[R]:
    _insist(expected)
    return list(work(items, 1))


def _checked(check: Callable[[], object], expected: Mapping[str, str]) -> None:
    _insist(expected)
    try:
        check()
    except UserError as error:
        raise UserError(f"machine {ray.util.get_node_ip_address()}: {error}") from None


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _use_threads(count: int) -> None:
    """Sums depend on how many threads make them."""
    import torch

    torch.set_num_threads(count)


class _Crew:
    """The actors that hold one thing."""

    def __init__(self, make: Callable[[], Any], count: int, gpus: float) -> None:
        self._gpus = gpus
        self._begin = (ray.put(make), _threads(), packages())
        self._idle: SimpleQueue[Any] = SimpleQueue()  # actors, or the error that ends the work
        self._actors: dict[Any, str | None] = {}  # that live, and the machine, where it was chosen
        self._lock = threading.Lock()
        self._closed = False
        for _ in range(count):
            self._add()

    def __call__(self, use: Callable[[Any], R]) -> R:
        for _ in range(TRIES):
            actor = self._idle.get()
            if isinstance(actor, BaseException):
                self._idle.put(actor)  # for the other threads
                raise actor
            try:
                result: R = ray.get(actor.do.remote(use))
            except RayTaskError as error:
                self._idle.put(actor)
                raise _raised(error) from None
            except RayError:  # it is gone, with its process or its machine, or its result is
                self._remove(actor)
                self._add()
                continue
            self._idle.put(actor)
            return result
        raise UserError(_DYING)

    def _add(self) -> None:
        def bring_up() -> None:
            try:
                self._bring_up()
            except Exception as error:  # a thread that dies would leave the others waiting
                self._idle.put(error)

        threading.Thread(target=bring_up, daemon=True).start()

    def _bring_up(self) -> None:
        for _ in range(TRIES):
            with self._lock:
                if self._closed:
                    return
                actor = self._placed()
            try:
                ray.get(actor.begin.remote(*self._begin))
            except RayTaskError as error:
                self._idle.put(_raised(error))
                return
            except RayError:
                self._remove(actor)
                continue
            self._idle.put(actor)
            return
        self._idle.put(UserError(_DYING))

    def _placed(self) -> Any:
        """A new actor. Ray's own way to spread actors puts some on one machine, others idle."""
        machines = [] if self._gpus else list(_nodes())
        least = min(machines, key=list(self._actors.values()).count, default=None)
        place: Any = "SPREAD"
        if least:
            # A soft wish is not always granted. If the machine is gone, the next try has another.
            place = NodeAffinitySchedulingStrategy(least, soft=False)
        # No processor is kept for an actor, so tasks always have a place.
        named = {"num_cpus": 0, "num_gpus": self._gpus, "scheduling_strategy": place}
        actor = ray.remote(_Worker).options(**named).remote()
        self._actors[actor] = least
        return actor

    def _remove(self, actor: Any) -> None:
        ray.kill(actor)
        with self._lock:
            self._actors.pop(actor, None)

    def close(self, patience: float = 5.0) -> None:
        """End the actors. Within `patience` (seconds) they can remove what they have on disk."""
        with self._lock:
            self._closed = True
            living = list(self._actors)
        self._idle.put(UserError("the work on the cluster was stopped; run again to go on"))
        if patience and living:
            ends = [actor.__ray_terminate__.remote() for actor in living]
            ray.wait(ends, num_returns=len(ends), timeout=patience)
        for actor in living:
            ray.kill(actor)


_DYING = (
    "scale: the workers on the cluster keep dying; look at their memory (ray status), lower "
    "batch_size, or take larger machines"
)


class Ray:
    """The `Engine` on a cluster. Made by `connected`."""

    def __init__(self, scale: Scale) -> None:
        resources = ray.cluster_resources()
        gpus = resources.get("GPU", 0.0)
        self._gpus = min(1.0, gpus) if scale.gpus is None else scale.gpus
        machines = len(_nodes())
        self._count = scale.workers or max(1, int(gpus / self._gpus) if self._gpus else machines)
        self._cpus = max(1, int(resources.get("CPU", 0)))
        self._crews: list[_Crew] = []
        self._tasks: set[Any] = set()

    @contextmanager
    def workers(self, make: Callable[[], T]) -> Iterator[Callable[[Callable[[T], Any]], Any]]:
        """See `Engine.workers`."""
        crew = _Crew(make, self._count, self._gpus)
        self._crews.append(crew)
        try:
            yield crew
        finally:
            crew.close()
            self._crews.remove(crew)

    def spread(
        self, work: Callable[[Iterable[Item], int | None], Iterable[R]], items: Iterable[Item]
    ) -> Iterator[R]:
        """See `Engine.spread`."""
        task = ray.remote(_piece).options(num_cpus=1, max_retries=TRIES - 1)
        expected, source = ray.put(packages()), iter(items)
        shared = ray.put(work)
        waiting: deque[Any] = deque()
        while True:
            while len(waiting) < 2 * self._cpus and (piece := list(islice(source, PIECE))):
                waiting.append(task.remote(shared, piece, expected))
                self._tasks.add(waiting[-1])
            if not waiting:
                return
            try:
                results = ray.get(waiting[0])
            except RayTaskError as error:
                raise _raised(error) from None
            except RayError:
                raise UserError(_DYING) from None
            self._tasks.discard(waiting.popleft())
            yield from results

    def each(self, work: Callable[[int], R], numbers: Sequence[int]) -> Finished[R]:
        """See `Engine.each`. Enough numbers are in progress that no worker has to wait."""
        pool = ThreadPoolExecutor(2 * max(self._count, ceil(self._cpus / 8)))
        running = {pool.submit(work, number): number for number in numbers}
        try:
            for done in as_completed(list(running)):
                yield running.pop(done), done.result()
        except BaseException:
            self._stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def on_every_node(self, check: Callable[[], object]) -> None:
        """Call `check` on every machine; see `check_nodes`."""
        task, nodes = ray.remote(_checked), _nodes()
        asked = [
            task.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(check, packages())
            for node in nodes
        ]
        for node, answer in zip(nodes.values(), asked, strict=True):
            try:
                ray.get(answer, timeout=_PATIENCE)
            except RayTaskError as error:
                raise _raised(error) from None
            except (GetTimeoutError, RayError):
                raise UserError(
                    f"machine {node} of the cluster does not answer; look at ray status"
                ) from None

    def _stop(self) -> None:
        """End what is being done, so that nobody waits for it."""
        for crew in self._crews:
            crew.close(patience=0)
        for task in list(self._tasks):
            with suppress(RayError):
                ray.cancel(task)


_PATIENCE = 300
"""Seconds that a machine may take for its check, in which it may load a tokenizer."""


def _nodes() -> dict[str, str]:
    """The machines that have a processor for us: id -> address."""
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU")
    }


def _raised(error: RayTaskError) -> BaseException:
    """What the worker raised. What is no `UserError` stays with Ray's account of where it was."""
    return error.cause if isinstance(error.cause, UserError) else error


@contextmanager
def connected(scale: Scale) -> Iterator[Ray]:
    """The engine on the cluster at this address. Within another connection it is the same one.

    Raises:
        UserError: the cluster cannot be reached, or runs another version of Ray or Python.
    """
    if ray.is_initialized():
        yield Ray(scale)
        return
    _check_address(scale.address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # privcode reports to nobody
    handlers = _handlers()
    try:
        ray.init(
            address=scale.address,
            log_to_driver=False,
            logging_level="CRITICAL",
            runtime_env={"env_vars": _environment()},
        )
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        raise UserError(f"scale.address {scale.address}: {_why(error)}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray puts its own in their place
    try:
        yield Ray(scale)
    finally:
        ray.shutdown()


def _environment() -> dict[str, str]:
    """What decides how models are loaded and sums are made. Ray shows it to all of the cluster."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and name != "HF_TOKEN"
    }


def _handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _check_address(address: str) -> None:
    """Refuse an address where nothing listens, which Ray would wait for."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise UserError(
            f"scale.address: is {address}; write auto, or HOST:PORT of the cluster's head (start "
            "privcode on a machine of the cluster; ray:// is not supported)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError):
        raise UserError(
            f"scale.address: nothing answers at {address}; start the cluster (ray start --head), "
            "or write its head's HOST:PORT"
        ) from None


def _why(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return f"the cluster runs other versions of Ray or Python than this machine: {text[:200]}"
    if isinstance(error, ConnectionError):
        return "there is no cluster on this machine; start one (ray start --head) or join one"
    return f"the cluster cannot be joined ({text[:200]})"
