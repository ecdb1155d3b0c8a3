"""Draws of the targets themselves, kept beside the fits' samples so that pictures can show both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from runner.experiment import Target
from runner.store.tables import write

DRAWS = 1000


def write_targets(folder: Path, targets: Iterable[Target], n: int = DRAWS) -> None:
    """Write ``targets.parquet``: ``target, draw, x0 .. x{D-1}``, and the coordinates' names as metadata.

    A target of fewer dimensions than the widest leaves the last columns null.

    Raises:
        StoreError: the file cannot be written.
    """
    named = {target.name: target for target in targets}
    draws = {name: target.draws(n) for name, target in named.items()}
    columns: dict[str, pa.Array] = {
        "target": pa.array([name for name, values in draws.items() for _ in values], pa.string()),
        "draw": pa.array([i for values in draws.values() for i in range(len(values))], pa.int32()),
    }
    for i in range(max((values.shape[1] for values in draws.values()), default=0)):
        parts = [
            values[:, i] if values.shape[1] > i else np.full(len(values), np.nan) for values in draws.values()
        ]
        columns[f"x{i}"] = pa.array(np.concatenate(parts), pa.float64(), from_pandas=True)
    labels = {name: [_label(c, target.unit) for c in target.coordinates] for name, target in named.items()}
    table = pa.table(columns)
    write(folder / "targets.parquet", table.replace_schema_metadata({"coordinates": json.dumps(labels)}))


def _label(coordinate: str, unit: str) -> str:
    return f"{coordinate} [{unit}]" if unit else coordinate
