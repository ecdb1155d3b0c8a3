"""A sweep of ten thousand fits whose batches share a GPU, and the same on all cores of that machine, from start to end.
Without a GPU nothing is measured.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmarks.commands import modesweep, phases
from benchmarks.figures import Figure
from benchmarks.sections.fits import SWEEP


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    if not torch.cuda.is_available():
        return []
    figures, fits = [], 1000 if quick else 10_000
    for name, where, resources in (
        ("gpu", "each batch on a quarter of the GPU", "{cpu: 1, gpu: 0.25}"),
        ("cpu", f"on {len(os.sched_getaffinity(0))} cores", "{cpu: 1}"),
    ):
        text = SWEEP.format(seeds=fits // 4).replace("name: fits", f"name: {name}")
        (folder / f"{name}.yaml").write_text(text.replace("    fixed", f"    resources: {resources}\n    fixed"))
        usage = modesweep("run", f"{name}.yaml", folder=folder)
        figures += [
            Figure(f"{fits:,} fits, {where}: from start to end", usage.wall, "s"),
            Figure("... until the last cell", phases(folder, name)["cells"], "s"),
            Figure("... CPU of all its processes", usage.cpu, "s"),
        ]
    return figures
