"""How long one cell takes in stacks of different sizes, training and evaluation, on one core: too small a stack pays
for dispatch, too large a one leaves the cache, and large ones also leave workers idle at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.commands import measured
from benchmarks.figures import Figure

CASES = ("bimodal", "ring8_easy", "vae")


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    sizes = (16, 128) if quick else (1, 16, 32, 64, 128, 256, 512)
    figures = []
    for case in CASES:
        for size in sizes:
            if case == "vae" and size > 128:
                continue
            usage = measured([sys.executable, "-m", "benchmarks.stack", case, str(size)])
            what = {"vae": "VAE on ring8_easy, 200 steps"}.get(case, f"reverse KL on {case}, 1000 steps")
            figures.append(Figure(what, 1e3 * float(usage.output), "ms", stack=size))
    return figures
