"""One training run over several processes, started by `torchrun` or `accelerate launch`.

Promises:
- In a single process, every function is trivial (rank 0 of 1, a value is its own).
- With more processes, what must happen once (a draw of units, a ledger line, a file) happens on the
  first rank. The others cannot continue before it has happened.

- An error that ends a rank is told once, by whichever rank can still tell it.

Does not:
- Divide a model over the ranks (`models.sharding` does).
- Hide what passes between the ranks. The drawn units and the clipped sums before the noise pass
  between them. So the ranks and their network are as private as the directory `private/`.
"""

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from privcode import launcher
from privcode.errors import UserError
from privcode.launcher import check, launched

T = TypeVar("T")


def start() -> None:
    """Join the other processes, where a launcher started some (gloo on CPUs, nccl on GPUs).

    When called again, or without a launcher, it does nothing.

    Raises:
        UserError: the launcher's environment is incomplete, or the others cannot be reached.
    """
    if launched() == 1 or dist.is_initialized():
        return
    check()
    gpu = torch.cuda.is_available()
    try:
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        atexit.register(dist.destroy_process_group)  # its threads may outlive the interpreter
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"WORLD_SIZE is {launched()}, but the processes cannot join ({reason}); "
            "start them with torchrun, or unset WORLD_SIZE"
        ) from error


def alone(command: str) -> None:
    """Insist on a single process.

    Raises:
        UserError: a launcher started several.
    """
    if launched() > 1:
        raise UserError(
            f"{command}: runs in one process; only privcode sanitize and privcode boost run under "
            "torchrun"
        )


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def from_first(make: Callable[[], T]) -> T:
    """The result of `make` on the first rank, returned on every rank. The others do not call it.

    No rank has the value before `make` has returned. So what `make` writes is written before its
    value is used.

    Raises:
        UserError: the error that `make` raised, on every rank.
    """
    if world() == 1:
        return make()
    told: list[Any] = [None, None]
    if rank() == 0:
        try:
            told[0] = make()
        except UserError as error:
            told[1] = error
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    value: T = told[0]
    return value


def in_turn(make: Callable[[], T]) -> T:
    """The result of `make`, which one rank calls after the other: for what takes much memory.

    Raises:
        UserError: the error that `make` raised on some rank, on every rank.
    """
    if world() == 1:
        return make()
    made: list[T] = []
    for turn in range(world()):
        told: list[Any] = [None]
        if turn == rank():
            try:
                made.append(make())
            except UserError as error:
                told[0] = error
        dist.broadcast_object_list(told, src=turn)
        if told[0] is not None:
            raise told[0]
    return made[0]


def everywhere(true: bool) -> bool:
    """Whether it is true on every rank."""
    return int(sum_(torch.tensor(int(true)))) == world()


def alike(text: str) -> bool:
    """Whether it is the same on every rank."""
    return everywhere(text == from_first(lambda: text))


def least(number: int) -> int:
    """The smallest of the ranks' numbers."""
    found = torch.tensor(number)
    if world() > 1:
        dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another rank went away."""
    if isinstance(error, dist.DistError):
        return True
    return world() > 1 and isinstance(error, RuntimeError) and "gloo" in str(error)


def first_to_tell() -> bool:
    """Whether no other rank has asked this before. The launcher keeps count, if it is reached."""
    if not dist.is_initialized():
        return launcher.rank() == 0
    try:
        store = dist.distributed_c10d._get_default_store()
        return int(store.add("privcode/told", 1)) == 1
    except RuntimeError:
        return rank() == 0


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, replaced in place by its sum over the ranks, with the same bits on each."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor
