"""Configurations as runs: cells that differ only in seed become one run, with means and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.store.shards import joined, newest
from runner.summary import summarise
from runner.tracking.runs import MAX_TAG, STAMP, Axes, Point, Run, column_roles, param_texts, run_name


class Configurations:
    """Gathers cells, and gives a configuration's run once it has all its seeds.

    Args:
        seeds: how many cells a configuration has; 0, for unknown, keeps everything until ``flush``.
        axes: the parameters that a run's name shows, for each experiment.
    """

    def __init__(self, seeds: int, axes: Axes) -> None:
        self._seeds, self._axes = seeds, axes
        self._waiting: dict[str, list[pa.Table]] = {}
        self._given: set[str] = set()

    def add(self, table: pa.Table) -> list[Run]:
        """Take in a shard; returns the runs of the configurations that are complete with it."""
        if not len(table):
            return []
        experiment = table.column("experiment")[0].as_py()
        waiting = joined([*self._waiting.get(experiment, ()), table.drop_columns(["curves"])])
        counts = waiting.group_by("configuration_id").aggregate([("cell_id", "count_distinct")])
        full = pc.greater_equal(counts["cell_id_count_distinct"], self._seeds or math.inf)
        complete = counts["configuration_id"].filter(full)
        chosen = pc.is_in(waiting["configuration_id"], complete)
        self._waiting[experiment] = [waiting.filter(pc.invert(chosen))]
        self._given.update(complete.to_pylist())
        return configuration_runs(waiting.filter(chosen), self._axes)

    def flush(self, reread: Callable[[], Iterable[pa.Table]]) -> list[Run]:
        """The runs of what is left, which is kept: whoever could not write them asks again.

        Args:
            reread: every record once more. A cell that was run again stands alone here, while the others of
                its configuration were given before.
        """
        left = [table for tables in self._waiting.values() for table in tables if len(table)]
        ids = {configuration for table in left for configuration in table["configuration_id"].to_pylist()}
        again = pa.array(sorted(ids & self._given), pa.string())
        runs: list[Run] = []
        for table in left:
            fresh = pc.invert(pc.is_in(table["configuration_id"], again))
            runs += configuration_runs(table.filter(fresh), self._axes)
        if len(again):
            shards = (table.filter(pc.is_in(table["configuration_id"], again)) for table in reread())
            by_experiment: dict[str, list[pa.Table]] = {}
            for table in shards:
                if len(table):
                    by_experiment.setdefault(table["experiment"][0].as_py(), []).append(table)
            for tables in by_experiment.values():
                runs += configuration_runs(joined(tables).drop_columns(["curves"]), self._axes)
        return runs


def configuration_runs(cells: pa.Table, axes: Axes) -> list[Run]:
    """One run for each configuration in one experiment's records; its metrics are its row of the summary."""
    if not len(cells):
        return []
    cells = cells.take(pa.array(newest(cells, pc.unique(cells["cell_id"]).to_pylist())))
    summary = summarise(cells.replace_schema_metadata(None))
    roles = column_roles(summary.schema)
    finished = cells["finished_at"].cast(pa.int64())
    spent = pc.fill_null(pc.multiply(cells["fit_seconds"], 1e6), 0.0).cast(pa.int64(), safe=False)
    times = pa.table(
        {
            "configuration_id": cells["configuration_id"],
            "start": pc.subtract(finished, spent),
            "end": finished,
            "stamp": pc.strftime(cells["finished_at"], STAMP),
        }
    )
    spans = times.group_by("configuration_id").aggregate([("start", "min"), ("end", "max"), ("stamp", "max")])
    span = {row["configuration_id"]: row for row in spans.to_pylist()}
    return [_run(row, roles, span[row["configuration_id"]], axes) for row in summary.to_pylist()]


def _run(row: Mapping[str, Any], roles: Mapping[str, list[str]], span: Mapping[str, Any], axes: Axes) -> Run:
    end = span["end_max"] // 1000
    values = {name: row[name] for role in ("count", "metric") for name in roles[role]}
    tags = {
        "configuration_id": row["configuration_id"],
        "experiment": row["experiment"],
        "status": "ok" if row["n_ok"] == row["n"] else f"{row['n'] - row['n_ok']} of {row['n']} cells not ok",
        "finished_at": span["stamp_max"],
        "kind": "configuration",
    }
    labels = {name: str(row[name])[:MAX_TAG] for name in roles.get("label", ()) if row[name] is not None}
    return Run(
        key=row["configuration_id"],
        revision=span["stamp_max"],
        name=run_name(row, roles["parameter"], axes),
        status="FINISHED" if row["n_ok"] == row["n"] else "FAILED",
        start=min(span["start_min"] // 1000, end - 1),
        end=end,
        params=param_texts(row, roles["parameter"]),
        tags={**labels, **tags},
        metrics=[Point(n, float(v), end, 0) for n, v in values.items() if v is not None and math.isfinite(v)],
    )
