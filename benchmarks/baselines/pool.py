"""A pool of processes over plain torch fits: `python -m benchmarks.baselines.pool --fits 8 --kind kl`.

Logs nothing to MLflow, which is in its favour.
"""

from __future__ import annotations

import argparse
import multiprocessing
from functools import partial

from benchmarks.baselines.command import main
from benchmarks.baselines.plain_torch import GRIDS, Config, fit


def row(kind: str, config: Config) -> dict[str, object]:
    """One fit, in a worker."""
    return {**config, **fit(kind, config)}


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Share the fits among the workers, one at a time."""
    # Forked copies of a process that has used torch may hang, so each worker starts afresh.
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        return pool.map(partial(row, options.kind), GRIDS[options.kind](options.fits), chunksize=1)


if __name__ == "__main__":
    main(__doc__, run)
