"""Seconds per cell of one stack: `python -m benchmarks.stack bimodal|ring8_easy|vae SIZE [cuda [launched]]`.

On one core, or on a GPU, whose steps are replayed unless they are to be launched one by one.
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
    """The best of three, the first of which warms up."""
    case, size, device = sys.argv[1], int(sys.argv[2]), (*sys.argv[3:], "cpu")[0]
    if "launched" in sys.argv:
        replay.WARM = sys.maxsize
    torch.set_num_threads(1)
    experiment, target = ("vae", "ring8_easy") if case == "vae" else ("kl_fit", case)
    text = SWEEP.format(experiment=experiment, target=target, fixed=FIXED[experiment], size=size)
    cells = runner.plan(runner.load_sweep(text)).cells
    run = CATALOGUE.experiments[experiment].run_batch
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run(cells, device)
        seconds.append(time.perf_counter() - started)
    print(min(seconds) / size)


if __name__ == "__main__":
    main()
