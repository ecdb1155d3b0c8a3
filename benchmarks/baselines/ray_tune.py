"""One Ray Tune trial per fit, logged to MLflow: `python -m benchmarks.baselines.ray_tune --fits 8 --kind kl`.

Tune's default settings and Ray's own MLflowLoggerCallback on a sqlite store. The dashboard is off, and
``--reuse-actors`` keeps the worker processes between trials: both in its favour. So is a single report at the
end of each fit, after which MLflow shows no curve: with ``--curve`` the loss is reported as often as
modesweep's runs show it, and each report costs MLflow a transaction for each of Tune's own numbers too. All
that it writes, but for ``--out``, lies in a temporary folder, and Ray listens on the loopback interface alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.baselines.command import main


def train(config: dict[str, Any]) -> None:
    """One trial."""
    from ray import tune

    from benchmarks.baselines.plain_torch import fit

    tune.report(fit(config["kind"], config["fit"], tune.report if config["curve"] else None))


def tune_fits(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Run one trial per fit; returns their parameters and metrics.

    Raises:
        RuntimeError: a trial failed.
    """
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from benchmarks.baselines.plain_torch import GRIDS

    ray.init(
        "local",
        num_cpus=options.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(folder / "ray"),
    )
    mlflow = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="fits")
    try:
        trials = tune.Tuner(
            train,
            param_space={
                "kind": options.kind,
                "curve": options.curve,
                "fit": tune.grid_search(GRIDS[options.kind](options.fits)),
            },
            tune_config=tune.TuneConfig(reuse_actors=options.reuse_actors),
            run_config=tune.RunConfig(name="fits", storage_path=str(folder / "results"), callbacks=[mlflow], verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    if trials.num_errors:
        raise RuntimeError(f"{trials.num_errors} of {len(trials)} trials failed; the first: {trials.errors[0]}")
    return [{**trial.config["fit"], **trial.metrics} for trial in trials]


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Tune in a temporary folder."""
    # A short path: Ray's sockets lie in it, and a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="tune-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ.update(
            HOME=folder,  # Ray writes a token there
            RAY_USAGE_STATS_ENABLED="0",
            # On Linux too it means that no other machine can join, so that Ray binds to 127.0.0.1.
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
            MLFLOW_DISABLE_TELEMETRY="true",
        )
        return tune_fits(options, Path(folder))


if __name__ == "__main__":
    main(
        __doc__,
        run,
        switches={
            "--reuse-actors": "keep the workers between trials",
            "--curve": "report the loss while it falls, for MLflow to show",
        },
    )
