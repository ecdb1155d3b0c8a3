"""How glibc's allocator is to keep memory, in workers that start and in a process that runs already.

Batches allocate and free tensors of some megabytes all the time. Pages that are given back and fetched again cost a
worker of Ray's 2 % of its time, and VAEs in the driver's own process 6 %.
"""

from __future__ import annotations

import ctypes
import os

# Tune runs each trial in a thread of its own, and glibc gives threads heaps of their own, up to eight for each core,
# which keep what a trial has freed: after eighty batches a worker held 3 GB. Here all threads share one, so a worker
# holds 1 GB after any number.
SHARED = {"MALLOC_ARENA_MAX": "1"}
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # bytes, the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
ENVIRONMENT = SHARED | KEPT
OPTIONS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}  # in malloc.h


def keep() -> None:
    """From now on keep what is freed, in this process; nothing happens where the allocator is not glibc's.

    What the user has set in the environment stays.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    for name, value in KEPT.items():
        if os.environ.get(name, value) == value:  # Ray's workers of an earlier run may have been given it
            mallopt(OPTIONS[name], int(value))
