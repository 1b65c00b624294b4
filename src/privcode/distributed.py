"""One training run over several processes, started by `torchrun` or `accelerate launch`.

Promises:
- In a single process, every function is trivial (rank 0 of 1, a value is its own).
- With more processes, what must happen once (a draw of units, a ledger line, a file) happens on the
  first rank. The others cannot continue before it has happened.

Does not:
- Distribute the model: each rank holds all of it.
- Hide what passes between the ranks. The drawn units and the clipped sums before the noise pass
  between them. So the ranks and their network are as private as the directory `private/`.
"""

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

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
            f"{command}: runs in one process; only privcode sanitize runs under torchrun"
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


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, replaced in place by its sum over the ranks, with the same bits on each."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor
