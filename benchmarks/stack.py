"""Seconds per cell of stacks: `python -m benchmarks.stack bimodal|ring8_easy|vae SIZE[:cpu|:gpu|:launched] ...`.

On one core, or on a GPU, where steps are replayed or their kernels launched one by one.
"""

from __future__ import annotations

import sys
import time

import torch

import runner
from experiments import replay
from experiments.catalogue import CATALOGUE

SWEEP = """
name: stack
grids:
  - experiment: {experiment}
    fixed: {{target: {target}, {fixed}}}
seeds: {size}
"""
FIXED = {"kl_fit": "divergence: reverse_kl", "vae": "latent_dim: 2, steps: 200"}


def main() -> None:
    """A line for each size: the best of three, after a small stack to warm up."""
    torch.set_num_threads(1)
    warm = replay.WARM
    for wanted in sys.argv[2:]:
        size, _, place = wanted.partition(":")
        replay.WARM = sys.maxsize if place == "launched" else warm
        print(seconds_per_cell(sys.argv[1], int(size), "cpu" if place in ("", "cpu") else "cuda"), flush=True)


def seconds_per_cell(case: str, size: int, device: str) -> float:
    """Of one stack, training and evaluation."""
    experiment, target = ("vae", "ring8_easy") if case == "vae" else ("kl_fit", case)
    text = SWEEP.format(experiment=experiment, target=target, fixed=FIXED[experiment], size=size)
    cells = runner.plan(runner.load_sweep(text)).cells
    run = CATALOGUE.experiments[experiment].run_batch
    run(cells[:16], device)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run(cells, device)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / size


if __name__ == "__main__":
    main()
