"""What this machine lets a process use.

Promises: says what the process may use, which in a container or a batch job is less than there is.
Does not: see how busy the machine is.
"""

import os
import platform
from pathlib import Path


def cores() -> int:
    """The number of processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's architecture and, on Linux, its model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    return f"{platform.machine()} {model}".strip()
