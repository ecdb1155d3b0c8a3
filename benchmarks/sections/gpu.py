"""How long one cell takes on a GPU in stacks of different sizes, training and evaluation, beside a core of the same
machine. Without a GPU nothing is measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.commands import measured
from benchmarks.figures import Figure

CASES = {
    "bimodal": ("reverse KL on bimodal, 1000 steps", 512),
    "ring8_easy": ("reverse KL on ring8_easy, 1000 steps", 512),
    "vae": ("VAE on ring8_easy, 200 steps", 64),
}
"""What is measured, and the stack whose size suits a core."""


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    if not torch.cuda.is_available():
        return []
    stacks, beside = [], []
    for case, (what, usual) in CASES.items():
        sizes = (32, usual) if quick else (32, 64, 128, 512, 2048)
        *on_gpu, launched, core = _milliseconds(case, *(f"{s}:gpu" for s in sizes), f"{usual}:launched", f"{usual}:cpu")
        stacks += [Figure(what, each, "ms", stack=size) for size, each in zip(sizes, on_gpu, strict=True)]
        beside += [
            Figure(f"{what}, stack of {usual} on a core: a cell", core, "ms"),
            Figure("... on the GPU, its kernels launched one by one", launched, "ms"),
            Figure("... replayed", on_gpu[sizes.index(usual)], "ms"),
        ]
    return [*stacks, *beside]


def _milliseconds(case: str, *stacks: str) -> list[float]:
    usage = measured([sys.executable, "-m", "benchmarks.stack", case, *stacks])
    return [1e3 * float(line) for line in usage.output.split()]
