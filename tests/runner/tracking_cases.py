"""Made-up records of the toy experiment, and readers of MLflow stores, for the tests of tracking."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experiments.experiment import Metric, Outcome
from runner.planning import Cell
from runner.record import Failure, to_table
from runner.store.shards import write_shard
from tests.runner.fakes import TOY, ToyParams, mixture

SWEEP = """
name: made
question: What does each rate keep?
grids:
  - experiment: toy
    axes: {target: [near, far], rate: [0.1, 0.25], mode: [fine]}
seeds: 2
"""
FINISHED = datetime(2024, 5, 17, 8, 30, 12, 345678, tzinfo=UTC)
EXPERIMENT = replace(TOY, metrics=(*TOY.metrics, Metric("gap", "nats", "distance to the optimum")))


def make_cells(n: int, first: int = 0, seeds: int = 2) -> list[Cell]:
    """Cells ``first`` to ``first + n - 1`` of a grid of two targets and as many rates as it takes."""
    targets = [mixture("near", 1.0), mixture("far", 4.0)]
    made = []
    for i in range(first, first + n):
        configuration, seed = divmod(i, seeds)
        target = targets[configuration % 2]
        params = ToyParams(target=target.name, rate=0.1 + configuration, flag=bool(configuration % 2))
        made.append(Cell(f"{i:016x}", f"{configuration:016x}", "toy", params, target, seed))
    return made


def make_outcome(cell: Cell, draw: int = 0) -> Outcome:
    """Random numbers of every kind that MLflow must give back: tiny, huge, negative, whole, not finite."""
    generator = np.random.default_rng([int(cell.id, 16), draw])
    steps = np.unique(np.round(np.logspace(0, 3, 12)).astype(int))
    loss = generator.standard_normal(len(steps)).cumsum()
    rate = generator.standard_normal(len(steps))
    rate[3] = np.nan
    metrics = {
        "coverage": generator.uniform(),
        "coverage_se": generator.uniform() * 1e-300,
        "sharpness": -generator.standard_normal() * 1e100,
        "loss": float(generator.integers(100)),
        "gap": [np.nan, np.inf, -np.inf, 5e-324][int(cell.id, 16) % 4],
    }
    return Outcome(
        metrics=metrics,
        labels={"shape": "größer"},
        curve_steps=steps,
        curves={"loss": loss, "rate": rate},
        samples=generator.standard_normal((3, cell.target.dim)),
    )


def make_table(
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome | Failure] | None = None,
    *,
    sweep: str = "made",
    later: float = 0.0,
    draw: int = 0,
) -> pa.Table:
    """The records of a batch that ended ``later`` seconds after the first; ``outcomes`` overrides some."""
    given = outcomes or {}
    return to_table(
        EXPERIMENT,
        sweep,
        cells,
        [given.get(cell.id) or make_outcome(cell, draw) for cell in cells],
        batch_id=f"batch{cells[0].id}",
        seconds=0.5 * len(cells),
        device="cpu",
        worker="host:1",
        code_version="0.1.0+gabc",
        finished_at=FINISHED + timedelta(seconds=later),
    )


def make_folder(results: Path, tables: Sequence[pa.Table], name: str = "made") -> Path:
    """A results folder with a sweep file and these shards."""
    folder = results / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(SWEEP.replace("made", name))
    for table in tables:
        write_shard(folder, table)
    return folder


def copy_store(template: Path, database: Path) -> str:
    """A fresh store with the schema made already, which takes MLflow two seconds; returns its URI."""
    database.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, database)
    return f"sqlite:///{database}"


def dump(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of a store, with what must differ between two stores named alike.

    Run ids become the cell's or configuration's, and the parent's; times of the parent and the experiment,
    and the artifact root, are left out.
    """
    with sqlite3.connect(database) as connection:
        names = dict(connection.execute("SELECT run_uuid, value FROM tags WHERE key = 'configuration_id'"))
        names |= dict(connection.execute("SELECT run_uuid, value FROM tags WHERE key = 'cell_id'"))
        names |= {r: "parent" for (r,) in connection.execute("SELECT run_uuid FROM tags WHERE value = 'sweep'")}
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: sorted(_rows(connection, table, names), key=repr) for table in tables}


def _rows(connection: sqlite3.Connection, table: str, names: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    cursor = connection.execute(f"SELECT * FROM {table}")
    columns = [column[0] for column in cursor.description]
    for row in cursor:
        held = dict(zip(columns, row, strict=True))
        parent = names.get(held.get("run_uuid", "")) == "parent"
        if table == "experiments" or parent:
            held = {k: v for k, v in held.items() if "time" not in k and k != "artifact_location"}
        yield tuple((k, _named(v, names)) for k, v in held.items())


def _named(value: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    for run_id, name in names.items():
        if run_id in value:
            return value[value.index(run_id) :].replace(run_id, name)
    return value
