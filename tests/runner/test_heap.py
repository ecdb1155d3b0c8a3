"""What the allocator keeps, by the pages that a process has to fetch again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from runner.executors import heap

# Memory is used and freed ten times over, by more at once than glibc keeps by itself; the numbers of pages fetched
# meanwhile, without and with what is kept.
PROGRAM = """
import resource
from runner.executors import heap

def fetched():
    size = 16 << 20
    held = [b"x" * size for _ in range(6)]
    del held
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [b"x" * size for _ in range(6)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(fetched())
heap.keep()
fetched()
print(fetched())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize(
    "own",
    [{}, {"MALLOC_MMAP_THRESHOLD_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}, heap.KEPT],
    ids=["unset", "set", "tuned", "as here"],
)
def test_freed_memory_is_kept_unless_the_user_says_otherwise(own: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in heap.ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=environment | own,
    )
    without, with_it = map(int, done.stdout.split())
    if own == heap.KEPT:  # as in a worker of Ray's, or after one
        assert max(without, with_it) < 30_000
    else:
        assert without > 100_000
        assert (with_it < without / 10) == (not own)
