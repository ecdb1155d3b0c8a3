"""CPU seconds of a sweep's stacked fits alone, without Ray, evaluation or records: `python -m benchmarks.bare FILE`."""

from __future__ import annotations

import sys
import time

import torch

import runner
from experiments.kl_fit import batch


def main() -> None:
    """Train every cell, in the slices that a worker would train them in, on one thread."""
    torch.set_num_threads(1)
    groups: dict[object, list[object]] = {}
    for cell in runner.plan(runner.load_sweep(sys.argv[1])).cells:
        groups.setdefault((cell.params.target, cell.params.divergence), []).append(cell)
    started = time.process_time()
    for cells in groups.values():
        size = batch.slice_size(cells[0])
        for start in range(0, len(cells), size):
            batch.train(batch.padded_to_stack(cells[start : start + size]), "cpu")
    print(time.process_time() - started)


if __name__ == "__main__":
    main()
