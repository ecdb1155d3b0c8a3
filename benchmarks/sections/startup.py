"""How long it takes to begin: planning, and the time from the command to the first finished batch."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from statistics import median

from benchmarks.commands import MODESWEEP, ROOT, modesweep
from benchmarks.figures import Figure

SWEEP = """
name: {name}
grids:
  - experiment: kl_fit
    axes: {{target: [bimodal], divergence: [forward_kl, reverse_kl]}}
    fixed: {{steps: 100}}
seeds: 64
"""


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    times = 1 if quick else 3
    plan = median(modesweep("plan", "quickstart", folder=folder).wall for _ in range(times))
    tune, inline = (
        median(_first_batch(folder, executor, f"{executor}{i}") for i in range(times))
        for executor in ("tune", "inline")
    )
    return [
        Figure("modesweep plan quickstart", plan, "s", 1),
        Figure("modesweep run --executor tune, until the first batch is kept", tune, "s", 8),
        Figure("modesweep run --executor inline, until the first batch is kept", inline, "s", 3),
    ]


def _first_batch(folder: Path, executor: str, name: str) -> float:
    path = folder / f"{name}.yaml"
    path.write_text(SWEEP.format(name=name))
    records = folder / "results" / name / "records"
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    said = folder / f"{name}.log"
    with said.open("w") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*MODESWEEP, "run", str(path), "--executor", executor], cwd=folder, env=environment, stdout=log, stderr=log
        )
        while process.poll() is None and not list(records.glob("*.parquet")):
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        process.wait()
    if process.returncode:
        raise RuntimeError(f"modesweep run {path} ended with {process.returncode}:\n{said.read_text()}")
    return seconds
