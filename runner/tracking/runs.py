"""Records as runs: what MLflow is told of each cell or configuration, as plain values and without MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000  # characters, mlflow.utils.validation

STAMP = "%Y-%m-%dT%H:%M:%SZ"  # with microseconds, so that later is greater as text too

READ = ("identity", "parameter", "label", "metric", "provenance")

Kind = Literal["cell", "configuration"]
Axes = Mapping[str, Sequence[str]]


class Point(NamedTuple):
    """One entry of a metric's history; ``timestamp`` is in milliseconds. A sweep makes a hundred for each run."""

    name: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, slots=True)
class Run:
    """What MLflow is told of one cell or configuration.

    Args:
        key: the cell's or configuration's id: one run for each.
        revision: when the record was finished, as ISO text; a run of an older revision is replaced.
        start, end: milliseconds since 1970.
    """

    key: str
    revision: str
    name: str
    status: Literal["FINISHED", "FAILED"]
    start: int
    end: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Sequence[Point]


def cell_runs(table: pa.Table, axes: Axes) -> list[Run]:
    """One run for each record of a shard.

    The final metrics stand at step 0, for which MLflow draws bars to compare runs by; where a curve has the
    same name, at its last step, a moment later, so that the final value is the latest. Numbers that are not
    finite are left out: MLflow would chart NaN as 0, and the tag ``status`` tells.

    Args:
        table: records of one experiment, with the field metadata of ``runner.record``.
        axes: the parameters that a run's name shows, for each experiment.
    """
    roles = column_roles(table.schema)
    columns = {name: table.column(name).to_pylist() for role in READ for name in roles.get(role, ())}
    columns["finished_at"] = table.column("finished_at").cast(pa.int64()).to_pylist()
    stamps = pc.strftime(table.column("finished_at"), STAMP).to_pylist()
    curves = _curves(table.column("curves"))
    return [
        _cell_run({name: values[i] for name, values in columns.items()}, stamps[i], points, roles, axes)
        for i, points in enumerate(curves)
    ]


def column_roles(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the columns of each role, in the schema's order."""
    roles: dict[str, list[str]] = {}
    for field in schema:
        roles.setdefault((field.metadata or {}).get(b"role", b"").decode(), []).append(field.name)
    return roles


def _cell_run(
    row: Mapping[str, Any],
    stamp: str,
    curve: Sequence[tuple[int, str, float]],
    roles: Mapping[str, Sequence[str]],
    axes: Axes,
) -> Run:
    end = row["finished_at"] // 1000
    start = end - max(1, round(1000 * (row["fit_seconds"] or 0.0)))
    last = max((step for step, _, _ in curve), default=0)
    drawn = {name for _, name, _ in curve}
    points = [
        Point(name, value, start + (end - start) * step // (last + 1), step)
        for step, name, value in curve
        if math.isfinite(value)
    ]
    points += [
        Point(name, row[name], end, last if name in drawn else 0)
        for name in roles["metric"]
        if row[name] is not None and math.isfinite(row[name])
    ]
    told = ("cell_id", "configuration_id", "experiment", "status", "error", *roles.get("label", ()))
    told += ("device", "worker", "batch_id", "code_version")
    tags = {name: str(row[name])[:MAX_TAG] for name in told if row.get(name) is not None}
    return Run(
        key=row["cell_id"],
        revision=stamp,
        name=f"{run_name(row, roles['parameter'], axes)} seed {row['seed']}",
        status="FINISHED" if row["status"] == "ok" else "FAILED",
        start=start,
        end=end,
        params={**param_texts(row, roles["parameter"]), "seed": str(row["seed"])},
        tags={**tags, "kind": "cell", "finished_at": stamp},
        metrics=points,
    )


def param_texts(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Parameters as MLflow keeps them: text, by which ``params.kl_weight = '0.1'`` finds runs."""
    return {name: str(row[name])[:MAX_PARAM] for name in names}


def run_name(row: Mapping[str, Any], parameters: Sequence[str], axes: Axes) -> str:
    """What tells the run from its neighbours, such as ``ring8 reverse_kl components=2``; target first."""
    shown = axes.get(row["experiment"], ())
    parts = [row["target"]]
    for name in parameters:
        if name in shown and name != "target" and row[name] is not None:
            parts.append(_shown(name, row[name]))
    return " ".join(parts)[: MAX_NAME - 30]


def _shown(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


def _curves(column: pa.ChunkedArray) -> Iterator[list[tuple[int, str, float]]]:
    """Each cell's points as (step, metric, value)."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
    flat = pa.table({"point": pc.list_flatten(column)}).flatten()
    points = list(
        zip(*(flat.column(f"point.{field}").to_pylist() for field in ("step", "metric", "value")), strict=True)
    )
    start = 0
    for length in lengths:
        yield points[start : start + length]
        start += length
