"""Runs as rows of MLflow's SQL tables, as its own store writes them (schema of ``VERIFIED_SCHEMAS``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.tracking.runs import Point, Run

Row = tuple[Any, ...]
Rows = dict[str, list[Row]]

_METRIC = ("run_uuid", "key", "value", "timestamp", "step", "is_nan")

# Columns of each table; the tables in the order in which rows may refer to one another.
TABLES: Mapping[str, tuple[str, ...]] = {
    "runs": (
        "run_uuid",
        "experiment_id",
        "name",
        "user_id",
        "status",
        "start_time",
        "end_time",
        "artifact_uri",
        "lifecycle_stage",
        "deleted_time",
        "source_type",
        "source_name",
        "source_version",
        "entry_point_name",
    ),
    "params": ("run_uuid", "key", "value"),
    "tags": ("run_uuid", "key", "value"),
    "metrics": _METRIC,
    "latest_metrics": _METRIC,
}

RUN_NAME, USER = "mlflow.runName", "mlflow.user"


def rows(runs: Iterable[tuple[str, Run]], experiment_id: str, tags: Mapping[str, str], artifact_uri: Any) -> Rows:
    """The rows of some runs, by table, with values in the order of its columns.

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
        made["params"] += [(run_id, key, value) for key, value in run.params.items()]
        made["tags"] += [(run_id, key, value) for key, value in every.items()]
        made["metrics"] += [(run_id, *point, False) for point in run.metrics]
        made["latest_metrics"] += [(run_id, *point, False) for point in latest(run.metrics)]
    return made


def statement(table: str) -> str:
    """What inserts a row of a table."""
    columns = TABLES[table]
    names = ", ".join(f'"{name}"' for name in columns)
    return f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"


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


def _run_row(run_id: str, run: Run, experiment_id: int, tags: Mapping[str, str], artifact_uri: str) -> Row:
    return (
        run_id,
        experiment_id,
        run.name,
        tags.get(USER, "unknown"),
        run.status,
        run.start,
        run.end,
        artifact_uri,
        "active",
        None,
        *("UNKNOWN", "", "", ""),  # since MLflow 1 the source is told by tags; the client fills these so
    )
