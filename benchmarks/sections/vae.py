"""192 VAEs (an 8-mode ring; latent 1, 2, 4; 8 KL weights; 8 seeds; two 64-wide layers, batch 128, 2000 steps), per
training, beside one Ray Tune trial each and a pool.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.baselines.plain_torch import KL_WEIGHTS
from benchmarks.commands import each, modesweep
from benchmarks.figures import Figure, at_least

SWEEP = """
name: vae
grids:
  - experiment: vae
    axes: {{target: [ring8_easy], latent_dim: [1, 2, 4], kl_weight: {weights}}}
    fixed: {{steps: 2000, batch_size: 128, hidden: [64, 64], noise_std: 0.1}}
seeds: {seeds}
"""


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    seeds = 2 if quick else 8
    (folder / "vae.yaml").write_text(SWEEP.format(weights=list(KL_WEIGHTS), seeds=seeds))
    count = 24 * seeds
    usage = modesweep("run", "vae.yaml", folder=folder)
    own = usage.wall / count
    trial = each("ray_tune", (2, 6) if quick else (4, 16), "vae")
    pool = each("pool", (2, 6) if quick else (4, 28), "vae")
    return [
        Figure(f"modesweep run, {count} trainings, from start to end", usage.wall, "s"),
        Figure("... a training", own, "s"),
        Figure("... peak memory of the largest process", usage.largest_peak / 1e6, "MB"),
        Figure("one Ray Tune trial each: a training", trial, "s"),
        Figure("a pool over a plain torch loop: a training", pool, "s"),
        at_least("cheaper than one trial each", trial / own, 8, "times"),
        at_least("... than the pool", pool / own, 4, "times"),
    ]
