"""From nested columns to long tables: a row for each step of a curve, each mode and each draw."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.record import CURVE, MODE

MEANING = {
    "cell_id": "hash of everything that defines the cell",
    "step": "training step",
    "metric": "what was measured",
    "value": "the metric's value at that step, in its own unit",
    "mode": "the target's component, from 0",
    "weight": "the component's weight in the target",
    "target_mass": "the target's probability where this mode is the most responsible one",
    "fitted_mass": "the fit's probability there",
    "captured": "whether the fit has at least a tenth of the target's mass in the mode's 99 % ellipse",
    "fair_share": "the fit's mass in the mode's 99 % ellipse over the target's there, by the draws of both",
    "forward_coverage_nats": "this mode's part of the cell's forward_coverage_nats: negative for too much mass",
    "forward_shape_nats": "this mode's part of the cell's forward_shape_nats",
    "reverse_coverage_nats": "this mode's part of the cell's reverse_coverage_nats: negative for too little",
    "reverse_shape_nats": "this mode's part of the cell's reverse_shape_nats",
    "log_width": "ln(sd of fit / sd of target) in this mode: negative over-sharp, positive blurry",
    "draw": "number of the draw, from 0",
}


def curve_schema() -> pa.Schema:
    """``cell_id, step, metric, value``."""
    return pa.schema([_field("cell_id", pa.string(), "identity"), *_measured(CURVE, {"step", "metric"})])


def mode_schema() -> pa.Schema:
    """``cell_id, mode, weight, target_mass, fitted_mass, captured``, ...: as in ``MODE``."""
    return pa.schema([_field("cell_id", pa.string(), "identity"), *_measured(MODE, {"mode"})])


def sample_schema(width: int) -> pa.Schema:
    """``cell_id, draw, x0 .. x{width-1}``; a sample of fewer dimensions leaves the last ones null."""
    keys = [_field("cell_id", pa.string(), "identity"), _field("draw", pa.int32(), "identity")]
    return pa.schema([*keys, *(_field(f"x{i}", pa.float32(), "fit") for i in range(width))])


def struct_rows(records: pa.Table, column: str, layout: pa.Schema) -> pa.Table:
    """The entries of a column of lists of structs, each with its ``cell_id``, in their order.

    A field that older records do not have is null.
    """
    entry = pa.struct([field for field in layout if field.name != "cell_id"])
    place = records.schema.get_field_index(column)
    ids, entries = _explode(records.set_column(place, column, records[column].cast(pa.list_(entry))), column)
    return pa.Table.from_arrays([ids, *entries.flatten()], schema=layout)


def sample_rows(records: pa.Table, layout: pa.Schema) -> pa.Table:
    """The rows of ``q_samples``, each with its ``cell_id`` and number."""
    ids, points = _explode(records, "q_samples")
    lengths = pc.list_value_length(records["q_samples"]).drop_null().to_numpy()
    draws = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    widths = pc.list_value_length(points).to_numpy()
    starts = np.cumsum(widths) - widths
    values = pc.list_flatten(points).to_numpy()
    columns = []
    for i in range(len(layout) - 2):
        held = widths > i
        column = np.zeros(len(widths), np.float32)
        column[held] = values[starts[held] + i]
        columns.append(pa.array(column, mask=~held))
    return pa.Table.from_arrays([ids, pa.array(draws, pa.int32()), *columns], schema=layout)


def _explode(records: pa.Table, column: str) -> tuple[pa.Array, pa.Array]:
    lists = records[column].combine_chunks()
    ids = records["cell_id"].combine_chunks()
    return ids.take(pc.list_parent_indices(lists)), pc.list_flatten(lists)


def _measured(entry: pa.StructType, keys: set[str]) -> list[pa.Field]:
    return [_field(f.name, f.type, "identity" if f.name in keys else "metric") for f in entry]


def _field(name: str, kind: pa.DataType, role: str) -> pa.Field:
    meaning = MEANING.get(name, "coordinate of a draw from the fit")
    return pa.field(
        name, kind, metadata={"role": role, "unit": "nats" if name.endswith("_nats") else "", "meaning": meaning}
    )
