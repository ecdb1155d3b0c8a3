"""Records of a sweep that never ran, and its tables: `python -m benchmarks.simulated records|tables FILE RESULTS`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import runner
from runner.store.shards import write_shard
from runner.store.tables import write_tables

SHARD = 512


def main() -> None:
    """Either step; they are measured apart."""
    step, sweep, results = sys.argv[1], runner.load_sweep(sys.argv[2]), Path(sys.argv[3])
    folder = results / sweep.name
    plan = runner.plan(sweep, runner.Options(results=results))
    if step == "tables":
        ids = [cell.id for cell in plan.cells]
        counts = write_tables(folder, ids, sweep=sweep.name, nuisance=sweep.nuisance, samples=False)
        assert counts.ok == len(plan.cells)
        return
    template = _template(sys.argv[2], results)
    columns = set(template.column_names)
    for start in range(0, len(plan.cells), SHARD):
        cells = plan.cells[start : start + SHARD]
        table = template.take(pa.array(np.arange(len(cells)) % len(template)))
        new = {
            "cell_id": [cell.id for cell in cells],
            "configuration_id": [cell.configuration_id for cell in cells],
            "seed": [cell.seed for cell in cells],
            "batch_id": [f"simulated{start}"] * len(cells),
        }
        new |= {name: [getattr(cell.params, name) for cell in cells] for name in ("divergence", "learning_rate")}
        for name, values in new.items():
            assert name in columns
            field = table.schema.field(name)
            table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
        write_shard(folder, table)


def _template(path: str, results: Path) -> pa.Table:
    """The records of ten real cells of the sweep."""
    sweep = runner.load_sweep(path, seeds=1)
    options = runner.Options(results=results / "template", executor="inline", mlflow="off")
    folder = runner.run(sweep, options).folder
    return pa.concat_tables(pq.read_table(shard) for shard in (folder / "records").glob("*.parquet"))


if __name__ == "__main__":
    main()
