"""Where numbered pieces of work are done: in this process, or on a Ray cluster.

Promises:
- A result depends on the piece and its number alone. So it does not matter where it is made.
- A stage is written once: `Engine` is the same for one process and for many machines.
- A worker that dies costs the piece that it had, which is done again elsewhere.
- An error of a worker comes out as the `UserError` that it was.

Does not:
- Choose machines, or start any. Ray does.
- See a private record. Three stages use it: `synthesize`, `validate` and `evaluate`. What leaves
  this machine is public (prompts, tasks, files next to programs), sampled from a DP model, or such
  a model. `sanitize` and `audit`, which read private records, never come here.

Ray Data would do less for us. It numbers no blocks, cannot go on with half of them, and holds an
actor's block until that actor has a place again. So plain actors and tasks are used.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Lock
from typing import Protocol, TypeVar

from privcode.cluster.settings import Scale

T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item")
_T_co = TypeVar("_T_co", covariant=True)
Finished = Generator[tuple[int, R], None, None]
"""Numbers and results, as they are finished."""


class Workers(Protocol[_T_co]):
    """Processes that each hold one thing, for example a loaded model."""

    def __call__(self, use: Callable[[_T_co], R]) -> R:
        """`use(thing)`, done by a worker that is free. Threads may call it at the same time.

        Raises:
            UserError: `use` or the making of the thing raised it, or workers keep dying.
        """
        ...


class Engine(Protocol):
    """Does work here or elsewhere."""

    def workers(self, make: Callable[[], T]) -> AbstractContextManager[Workers[T]]:
        """Workers that each hold what `make` returns. They end with the context."""
        ...

    def spread(
        self, work: Callable[[Iterable[Item], int | None], Iterable[R]], items: Iterable[Item]
    ) -> Iterator[R]:
        """One result for each item, lazily and in order.

        Args:
            work: takes items, and how many it may do at a time (None: as many as it likes).
                Returns one result for each. It may be called with any part of the items.
            items: read a few ahead of the results taken.
        """
        ...

    def each(self, work: Callable[[int], R], numbers: Sequence[int]) -> Finished[R]:
        """(number, work(number)) as they are finished. `work` is called in this process."""
        ...


class Here:
    """The `Engine` of one process: one piece after the other."""

    @contextmanager
    def workers(self, make: Callable[[], T]) -> Iterator[Workers[T]]:
        """See `Engine.workers`. The thing is made when it is first used. Threads take turns."""
        made, turn = cache(make), Lock()

        def one(use: Callable[[T], R]) -> R:
            with turn:
                return use(made())

        yield one

    def spread(
        self, work: Callable[[Iterable[Item], int | None], Iterable[R]], items: Iterable[Item]
    ) -> Iterator[R]:
        """See `Engine.spread`."""
        yield from work(items, None)

    def each(self, work: Callable[[int], R], numbers: Sequence[int]) -> Finished[R]:
        """See `Engine.each`."""
        return ((number, work(number)) for number in numbers)


@contextmanager
def engine(scale: Scale) -> Iterator[Engine]:
    """The engine that a config names.

    Raises:
        UserError: the extra is not installed, or the cluster cannot be reached.
    """
    if scale.engine == "local":
        yield Here()
        return
    from privcode.cluster._ray import connected

    with connected(scale) as found:
        yield found


def check_nodes(scale: Scale, check: Callable[[], object]) -> None:
    """Call `check` on every machine of a cluster. Of one process nothing is asked.

    Raises:
        UserError: `check` raised it, or a machine has other packages than this one. The message
            names the machine.
    """
    if scale.engine == "local":
        return
    from privcode.cluster._ray import connected

    with connected(scale) as found:
        found.on_every_node(check)


__all__ = ["Engine", "Here", "Scale", "Workers", "check_nodes", "engine"]
