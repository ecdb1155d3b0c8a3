"""A thousand KL fits (two targets, both directions, 250 seeds; 1000 steps of 256 samples; all metrics, tables, report
and MLflow), per fit, beside the ways in which people run them today; and ten thousand beside the bare arithmetic.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from benchmarks.commands import MODESWEEP, each, measured, modesweep, phases
from benchmarks.figures import Figure, at_least
from runner.executors import heap

SWEEP = """
name: fits
grids:
  - experiment: kl_fit
    axes: {{target: [bimodal, ring8_easy], divergence: [forward_kl, reverse_kl]}}
    fixed: {{steps: 1000, samples: 256}}
seeds: {seeds}
"""


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    figures = [*_beside_others(folder, quick)]
    for fits in (1000,) if quick else (1000, 10_000):
        figures += _beside_arithmetic(folder, fits)
    return figures


def _beside_others(folder: Path, quick: bool) -> list[Figure]:
    (folder / "fits.yaml").write_text(SWEEP.format(seeds=250))
    usage = modesweep("run", "fits.yaml", folder=folder)
    own = usage.wall / 1000
    figures = [
        Figure("modesweep run, 1,000 fits, from start to end", usage.wall, "s", 60),
        Figure("... a fit", 1e3 * own, "ms"),
        Figure("... peak memory of the driver", usage.driver_peak / 1e6, "MB", 800),
        Figure("... of the largest process", usage.largest_peak / 1e6, "MB", 900),
    ]
    ratios = []
    for logged, curve in (("with a curve in MLflow as modesweep's", ["--curve"]), ("and no curve", [])):
        default = each("ray_tune", (4, 8) if quick or curve else (4, 20), "kl", *curve)
        reused = each("ray_tune", (4, 12) if quick or curve else (8, 40), "kl", "--reuse-actors", *curve)
        figures += [
            Figure(f"one Ray Tune trial per fit, MLflow callback, {logged}: a fit", default, "s"),
            Figure("... with reuse_actors: a fit", reused, "s"),
        ]
        ratios += [
            at_least(f"cheaper than one trial per fit, {logged}", default / own, 200, "times"),
            at_least("... than with reuse_actors", reused / own, 80, "times"),
        ]
    pool = each("pool", (4, 12) if quick else (8, 72), "kl")
    return [
        *figures,
        Figure("a multiprocessing pool over a plain torch loop, nothing in MLflow: a fit", pool, "s"),
        *ratios,
        at_least("... than the pool", pool / own, 20, "times"),
    ]


def _beside_arithmetic(folder: Path, fits: int) -> list[Figure]:
    path = folder / f"fits{fits}.yaml"
    path.write_text(SWEEP.format(seeds=fits // 4).replace("name: fits", f"name: fits{fits}"))
    usage = modesweep("run", path.name, folder=folder)
    cores = len(os.sched_getaffinity(0))
    bare, alone = (
        float(measured([MODESWEEP[0], "-m", "benchmarks.bare", str(path), str(count)], env=heap.ENVIRONMENT).output)
        for count in (cores, 1)
    )
    where = ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases(folder, f"fits{fits}").items())
    return [
        Figure(f"{fits:,} fits: wall x cores of the sweep", usage.wall * cores, "s"),
        Figure("... CPU of all its processes", usage.cpu, "s"),
        Figure("... peak memory of the largest process", usage.largest_peak / 1e6, "MB"),
        Figure("... CPU of the bare stacked fits, on all cores at once", bare, "s"),
        Figure("... wall x cores over bare", usage.wall * cores / bare, "times", 1.5 if fits >= 10_000 else None),
        Figure(
            "... over bare fits that have the machine to themselves, on one core", usage.wall * cores / alone, "times"
        ),
        Figure(f"... wall of the driver's phases: {where}; in all", usage.wall, "s"),
        Figure(
            "... longest that a worker had nothing left to do, of the sweep",
            _longest_idle(folder / "results" / f"fits{fits}") / usage.wall * 100,
            "%",
            10,
        ),
    ]


def _longest_idle(results: Path) -> float:
    """Seconds from the last record of the worker that was done first to the last record of all."""
    cells = pd.read_parquet(results / "cells.parquet", columns=["worker", "finished_at"])
    ends = cells.groupby("worker")["finished_at"].max()
    return float((ends.max() - ends.min()).total_seconds())
