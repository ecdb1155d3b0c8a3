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
    """Write ``targets.parquet``: ``target, draw, x0 .. x{D-1}``.

    Its metadata have the names of each target's ``coordinates``, and rows and columns of those that are ``images``.
    A target of fewer dimensions than the widest leaves the last columns null.

    Raises:
        StoreError: the file cannot be written.
    """
    named = {target.name: target for target in targets}
    draws = {name: target.draws(n) for name, target in named.items()}
    fields = [
        _field("target", pa.string(), "the target's name"),
        _field("draw", pa.int32(), "number of the draw, from 0"),
    ]
    columns: list[pa.Array] = [
        pa.array([name for name, values in draws.items() for _ in values], pa.string()),
        pa.array([i for values in draws.values() for i in range(len(values))], pa.int32()),
    ]
    for i in range(max((values.shape[1] for values in draws.values()), default=0)):
        held = [v[:, i] if v.shape[1] > i else np.full(len(v), np.nan) for v in draws.values()]
        fields.append(_field(f"x{i}", pa.float64(), "coordinate of a draw from the target"))
        columns.append(pa.array(np.concatenate(held), pa.float64(), from_pandas=True))
    labels = {name: [_label(c, target.unit) for c in target.coordinates] for name, target in named.items()}
    images = {name: target.image for name, target in named.items() if target.image is not None}
    layout = pa.schema(fields, metadata={"coordinates": json.dumps(labels), "images": json.dumps(images)})
    write(folder / "targets.parquet", pa.table(columns, schema=layout))


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    role = "target" if name.startswith("x") else "identity"
    return pa.field(name, kind, metadata={"role": role, "unit": "", "meaning": meaning})


def _label(coordinate: str, unit: str) -> str:
    return f"{coordinate} [{unit}]" if unit else coordinate
