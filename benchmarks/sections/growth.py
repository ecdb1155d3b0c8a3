"""Cost per cell from a hundred cells to a hundred thousand (bimodal, 20 steps of 16 samples, so that what surrounds the
fits shows), and the tables of a million cells from simulated records.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.commands import MODESWEEP, ROOT, measured, modesweep
from benchmarks.figures import Figure

SWEEP = """
name: {name}
grids:
  - experiment: kl_fit
    axes: {{target: [bimodal], divergence: [forward_kl, reverse_kl], learning_rate: [0.01, 0.02, 0.03, 0.04, 0.05]}}
    fixed: {{steps: 20, samples: 16}}
seeds: {seeds}
"""


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    figures: list[Figure] = []
    for cells in (100, 1000) if quick else (100, 1000, 10_000, 100_000):
        name = f"cells{cells}"
        (folder / f"{name}.yaml").write_text(SWEEP.format(name=name, seeds=cells // 10))
        usage = modesweep("run", f"{name}.yaml", folder=folder)
        figures += [
            Figure(f"{cells:,} cells: a cell", 1e3 * usage.wall / cells, "ms"),
            Figure("... peak memory of the driver", usage.driver_peak / 1e6, "MB"),
            Figure("... of the largest process", usage.largest_peak / 1e6, "MB"),
        ]
    return figures + _simulated(folder, 10_000 if quick else 1_000_000)


def _simulated(folder: Path, cells: int) -> list[Figure]:
    """Plan a sweep of that many cells, then make tables and summary of records that no fit has made."""
    path = folder / "simulated.yaml"
    path.write_text(SWEEP.format(name="simulated", seeds=cells // 10))
    planned = modesweep("plan", str(path), folder=folder)
    script = [MODESWEEP[0], "-m", "benchmarks.simulated"]
    environment = {"HOME": str(folder), "PYTHONPATH": str(ROOT)}
    for step in ("records", "tables"):
        usage = measured([*script, step, str(path), "results"], cwd=folder, env=environment)
    return [
        Figure(f"{cells:,} cells, simulated: modesweep plan", planned.wall, "s", 60),
        Figure("... its peak memory", planned.largest_peak / 1e9, "GB", 3),
        Figure("... tables and summary", usage.wall, "s", 60),
        Figure("... their peak memory", usage.largest_peak / 1e9, "GB", 3),
    ]
