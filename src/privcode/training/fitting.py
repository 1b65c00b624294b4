"""How many records of a micro-batch fit in memory: `sanitize.micro_batch: auto`.

Promises:
- Found before any budget is spent, with made-up tokens of the greatest length. So the answer
  depends on the model, the machine and public settings alone.
- Passes of one and of three records are measured. The memory of more follows from these. No pass is
  made that may not fit.
- Of what is free, a share is left: see `SHARE`. What the trial of the model keeps is counted too.
- Every rank gets the same answer, the least that a rank found. It is a power of two.

Does not:
- Write down the answer. The stage does, so that a run goes on with the same one.
- See what other programs on the machine will take later.
"""

import ctypes
import gc
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from privcode.distributed import least
from privcode.errors import UserError
from privcode.launcher import on_this_machine

SHARE = {"cpu": 0.7, "cuda": 0.85}
"""Of the free memory, what micro-batches may take. A processor's memory has other users, and what a
pass took is measured there in pages of the process."""
_KEPT = 4
"""Copies of a record's gradient that a trial of the model keeps (`independence._pairs`)."""
_FEW, _MORE = 1, 3
_CGROUP = Path("/sys/fs/cgroup")


def fitting(passed: Callable[[int], None], device: torch.device, parameters: int, most: int) -> int:
    """The most records of one micro-batch that fit in memory, up to `most`.

    Args:
        passed: takes a whole pass over so many made-up records of the greatest length.
        device: where the model is.
        parameters: trained ones: a record's gradient has as many numbers in fp32.
        most: no more are of use.

    Raises:
        UserError: not even one record fits, or memory cannot be measured here.
    """
    measure, free = (_on_gpu, _free_on_gpu) if device.type == "cuda" else (_on_cpu, _free_on_cpu)
    small = UserError(
        "sanitize.micro_batch: memory is too small for a few records of max_tokens; lower "
        "max_tokens, set gradient_checkpointing, or take a smaller model"
    )
    try:
        passed(_FEW)  # what is set up once is no part of what a record takes
        room = SHARE[device.type] * least(free())
        few, more = measure(partial(passed, _FEW)), measure(partial(passed, _MORE))
    except torch.OutOfMemoryError:
        raise small from None
    each = max(0.0, more - few) / (_MORE - _FEW) + _KEPT * 4 * parameters
    found = least(math.floor((room - few) / each) + _FEW)
    if found < 1:
        raise small
    return 1 << (min(found, most).bit_length() - 1)


def _on_gpu(run: Callable[[], None]) -> int:
    """Bytes that `run` takes at its most, on top of what was taken."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def _free_on_gpu() -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def _on_cpu(run: Callable[[], None]) -> int:
    """As `_on_gpu`, by the process's pages: Linux notes the most that a process held."""
    _give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the most, from now on
        before = _held("VmHWM")
        run()
        return _held("VmHWM") - before
    except (OSError, StopIteration) as error:
        raise UserError(
            "sanitize.micro_batch: auto cannot measure memory here (no /proc of Linux); give a "
            "number"
        ) from error


def _give_back() -> None:
    """Return freed memory to the system. Otherwise a pass would use it, and seem to take none."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def _held(field: str, file: str = "/proc/self/status") -> int:
    lines = Path(file).read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _free_on_cpu() -> int:
    """Bytes for each process here: what the machine has, within the limit of its container."""
    _give_back()
    try:
        free = _held("MemAvailable", "/proc/meminfo")
    except (OSError, StopIteration) as error:
        raise UserError(
            "sanitize.micro_batch: auto cannot read the free memory here (no /proc of Linux); "
            "give a number"
        ) from error
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            texts = [(_CGROUP / name).read_text() for name in (limit, used)]
        except OSError:
            continue
        if texts[0].strip().isdecimal():  # or "max": no limit
            free = min(free, max(0, int(texts[0]) - int(texts[1])))
    return free // on_this_machine()
