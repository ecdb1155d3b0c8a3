"""CPU seconds of a sweep's stacked fits alone, without Ray, evaluation or records: `python -m benchmarks.bare FILE N`.

By N processes at once, as the sweep's own workers run: they share the last cache and the way to memory, and their heaps
are set alike.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

import runner
from experiments.kl_fit import batch
from experiments.kl_fit.cost import trained_at_once


def main() -> None:
    """Share the slices that workers would train among the processes; print the sum of their CPU seconds."""
    cells, processes = runner.plan(runner.load_sweep(sys.argv[1])).cells, int(sys.argv[2])
    groups: dict[object, list[Any]] = {}
    for cell in cells:
        groups.setdefault((cell.params.target, cell.params.divergence), []).append(cell)
    slices = []
    for group in groups.values():
        size = trained_at_once(group[0].params, group[0].target, "cpu")
        slices += [group[start : start + size] for start in range(0, len(group), size)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        print(sum(pool.map(train, slices, chunksize=1)))


def train(cells: Sequence[Any]) -> float:
    """CPU seconds of one slice, on one thread."""
    torch.set_num_threads(1)
    started = time.process_time()
    batch.train(batch.padded_to_stack(cells), "cpu")
    return time.process_time() - started


if __name__ == "__main__":
    main()
