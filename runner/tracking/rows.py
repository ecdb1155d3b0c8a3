"""Runs as rows of MLflow's SQL tables, as its own store writes them (schema of ``VERIFIED_SCHEMAS``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.tracking.runs import Point, Run

Rows = dict[str, list[dict[str, Any]]]

# In the order in which rows may refer to one another.
TABLES = ("runs", "params", "tags", "metrics", "latest_metrics")

RUN_NAME, USER = "mlflow.runName", "mlflow.user"


def rows(runs: Iterable[tuple[str, Run]], experiment_id: str, tags: Mapping[str, str], artifact_uri: Any) -> Rows:
    """The rows of some runs, by table.

    Args:
        runs: each run with its MLflow id.
        experiment_id: MLflow's, of the sweep.
        tags: what every run is tagged with besides its own tags.
        artifact_uri: run id -> where the run keeps artifacts.
    """
    made: Rows = {table: [] for table in TABLES}
    for run_id, run in runs:
        made["runs"].append(_run_row(run_id, run, int(experiment_id), tags, artifact_uri(run_id)))
        every = {**tags, **run.tags, RUN_NAME: run.name}
        made["params"] += [{"run_uuid": run_id, "key": key, "value": run.params[key]} for key in run.params]
        made["tags"] += [{"run_uuid": run_id, "key": key, "value": value} for key, value in every.items()]
        made["metrics"] += [_metric_row(run_id, point) for point in run.metrics]
        made["latest_metrics"] += [_metric_row(run_id, point) for point in latest(run.metrics)]
    return made


def latest(points: Sequence[Point]) -> Iterable[Point]:
    """Of each metric the point that MLflow shows: the greatest step, then timestamp, then value."""
    newest: dict[str, Point] = {}
    for point in points:
        held = newest.get(point.name)
        if held is None or (point.step, point.timestamp, point.value) > (
            held.step,
            held.timestamp,
            held.value,
        ):
            newest[point.name] = point
    return newest.values()


def _run_row(run_id: str, run: Run, experiment_id: int, tags: Mapping[str, str], artifact_uri: str) -> dict[str, Any]:
    return {
        "run_uuid": run_id,
        "experiment_id": experiment_id,
        "name": run.name,
        "user_id": tags.get(USER, "unknown"),
        "status": run.status,
        "start_time": run.start,
        "end_time": run.end,
        "artifact_uri": artifact_uri,
        "lifecycle_stage": "active",
        "deleted_time": None,
        "source_type": "UNKNOWN",  # since MLflow 1 the source is told by tags; the client fills these so
        "source_name": "",
        "source_version": "",
        "entry_point_name": "",
    }


def _metric_row(run_id: str, point: Point) -> dict[str, Any]:
    return {
        "run_uuid": run_id,
        "key": point.name,
        "value": point.value,
        "timestamp": point.timestamp,
        "step": point.step,
        "is_nan": False,
    }
