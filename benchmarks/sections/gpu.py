"""How long one cell takes on a GPU in stacks of different sizes, training and evaluation, beside a core of the same
machine; then a sweep of ten thousand fits there, and on all of that machine's cores. Without a GPU nothing is measured.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.commands import ROOT, modesweep, phases
from benchmarks.figures import Figure
from benchmarks.sections.fits import SWEEP

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
        for size in (32, 512) if quick else (32, 128, 512, 2048):
            stacks.append(Figure(what, _milliseconds(case, size, "cuda"), "ms", stack=size))
        beside += [
            Figure(f"{what}, stack of {usual}: a cell on a core", _milliseconds(case, usual, "cpu"), "ms"),
            Figure("... on the GPU", _milliseconds(case, usual, "cuda"), "ms"),
            Figure("... where kernels are launched one by one", _milliseconds(case, usual, "cuda", "launched"), "ms"),
        ]
    return [*stacks, *beside, *_sweeps(folder, 1000 if quick else 10_000)]


def _milliseconds(*arguments: object) -> float:
    usage = measure.run([sys.executable, "-m", "benchmarks.stack", *map(str, arguments)], cwd=ROOT)
    if usage.exit_code:
        raise RuntimeError(usage.errors)
    return 1e3 * float(usage.output)


def _sweeps(folder: Path, fits: int) -> list[Figure]:
    figures = []
    for name, where, resources in (
        ("gpu", "each batch on a quarter of the GPU", "{cpu: 1, gpu: 0.25}"),
        ("cpu", f"on {len(os.sched_getaffinity(0))} cores", "{cpu: 1}"),
    ):
        text = SWEEP.format(seeds=fits // 4).replace("name: fits", f"name: {name}")
        (folder / f"{name}.yaml").write_text(text.replace("    fixed", f"    resources: {resources}\n    fixed"))
        usage = modesweep("run", f"{name}.yaml", folder=folder)
        figures += [
            Figure(f"modesweep run, {fits:,} fits, {where}: from start to end", usage.wall, "s"),
            Figure("... of which until the last cell", phases(folder, name)["cells"], "s"),
            Figure("... CPU of all its processes", usage.cpu, "s"),
        ]
    return figures
