"""What this machine lets a process use.

Promises: says what the process may use, which in a container or a batch job is less than there is.
Does not: see how busy the machine is.
"""

import os


def cores() -> int:
    """The number of processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
