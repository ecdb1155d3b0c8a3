"""Records: the result of each cell as one row of an Arrow table that says what its columns mean.

A record holds everything known of a cell: its parameters and metrics as typed columns, and its curves, modes
and samples as nested ones. Every field carries ``role``, ``unit`` and ``meaning`` as metadata, so tables,
summaries and exports are made from records alone, without the experiment that wrote them.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pyarrow as pa
from pydantic_core import to_jsonable_python

from runner.experiment import Experiment, Outcome
from runner.planning import Cell

Status = Literal["ok", "diverged", "failed", "timeout"]
STATUSES: tuple[Status, ...] = get_args(Status)
# Columns of the summary.
RESERVED = {"n", *(f"n_{status}" for status in STATUSES), "pareto", "nuisance_best", "sweep_best_gap"}

CURVE = pa.struct([("step", pa.int64()), ("metric", pa.string()), ("value", pa.float64())])
MODE = pa.struct(
    [
        ("mode", pa.int64()),
        ("weight", pa.float64()),
        ("target_mass", pa.float64()),
        ("fitted_mass", pa.float64()),
        ("captured", pa.bool_()),
        ("fair_share", pa.float64()),
        ("log_width", pa.float64()),
        ("forward_coverage_nats", pa.float64()),
        ("forward_shape_nats", pa.float64()),
        ("reverse_coverage_nats", pa.float64()),
        ("reverse_shape_nats", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Failure:
    """What is kept of a cell that gave no outcome: it raised, or it ran past its time."""

    status: Literal["failed", "timeout"]
    error: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    curve_steps: None = None
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    modes: Mapping[str, np.ndarray] = field(default_factory=dict)
    samples: None = None
    mean: None = None
    covariance: None = None
    weights: None = None


def schema(experiment: Experiment) -> pa.Schema:
    """The columns of the experiment's records; each field's metadata has ``role``, ``unit`` and ``meaning``.

    Roles are identity, parameter, label, metric, fit, provenance and nested. The schema's own metadata names
    the experiment, its version and its objective.

    Raises:
        ValueError: two columns would have one name, or one of the summary's.
    """
    fields = [
        _field("cell_id", pa.string(), "identity", meaning="hash of everything that defines the cell"),
        _field("sweep", pa.string(), "identity", meaning="the sweep that ran the cell"),
        _field("experiment", pa.string(), "identity", meaning="what was run"),
        _field("configuration_id", pa.string(), "identity", meaning="hash of the cell without its seed"),
        _field("seed", pa.int64(), "identity", meaning="of every random number of the cell"),
        _field("status", pa.string(), "identity", meaning="ok, diverged, failed or timeout"),
        _field("error", pa.string(), "identity", meaning="why the status is not ok"),
        *(_parameter_field(name, info) for name, info in experiment.params.model_fields.items()),
        *(_field(name, pa.string(), "label", meaning=text) for name, text in experiment.labels.items()),
        *_metric_fields(experiment),
        _field("q_mean", pa.list_(pa.float64()), "fit", meaning="mean of the fit, (D,)"),
        _field("q_covariance", pa.list_(pa.float64()), "fit", meaning="its covariance, (D, D) row by row"),
        _field("q_weights", pa.list_(pa.float64()), "fit", meaning="weights of the fit's components"),
        _field("fit_seconds", pa.float64(), "provenance", "s", "the cell's share of its batch's time"),
        _field("device", pa.string(), "provenance", meaning="cpu or cuda"),
        _field("worker", pa.string(), "provenance", meaning="host and process that ran the batch"),
        _field("batch_id", pa.string(), "provenance", meaning="the stack that the cell was part of"),
        _field("finished_at", pa.timestamp("us", "UTC"), "provenance", meaning="when the batch ended"),
        _field("code_version", pa.string(), "provenance", meaning="version and git commit of the code"),
        _field("curves", pa.list_(CURVE), "nested", meaning="training curves"),
        _field("modes", pa.list_(MODE), "nested", meaning="the target's modes, and what is kept of each"),
        _field("q_samples", pa.list_(pa.list_(pa.float32())), "nested", meaning="draws from the fit, (n, D)"),
    ]
    names = [f.name for f in fields]
    twice = sorted({name for name in names if names.count(name) > 1 or name in RESERVED})
    if twice:
        raise ValueError(f"experiment '{experiment.name}' uses a column name that is taken: {', '.join(twice)}")
    about = {
        "version": str(experiment.version),
        "objective": experiment.objective,
        "objective_of": json.dumps(experiment.objective_of),
    }
    return pa.schema(fields, metadata={"experiment": experiment.name, **about})


def to_table(
    experiment: Experiment,
    sweep: str,
    cells: Sequence[Cell],
    outcomes: Sequence[Outcome | Failure],
    *,
    batch_id: str,
    seconds: float,
    device: str,
    worker: str,
    code_version: str,
    finished_at: datetime | None = None,
) -> pa.Table:
    """The records of one batch: row i is what ``outcomes[i]`` says of ``cells[i]``.

    Args:
        experiment: whose parameters, metrics and labels become columns.
        sweep: the name of the sweep that ran the cells.
        cells: of this experiment, in any order.
        outcomes: as many as cells.
        batch_id: the stack that they ran in.
        seconds: wall time of the batch; each record gets an equal share as ``fit_seconds``.
        device: ``cpu`` or ``cuda``.
        worker: host and process.
        code_version: see ``runner.provenance``.
        finished_at: now, unless given; of several records of a cell the newest counts.

    Raises:
        ValueError: cells and outcomes differ in number, or an outcome reports a metric or label that the
            experiment does not declare.
    """
    if len(cells) != len(outcomes):
        raise ValueError(f"{len(cells)} cells, but {len(outcomes)} outcomes")
    layout = schema(experiment)
    roles = {f.name: f.metadata[b"role"].decode() for f in layout}
    _refuse_undeclared(experiment, outcomes, roles)
    same = {
        "sweep": sweep,
        "experiment": experiment.name,
        "fit_seconds": seconds / max(len(cells), 1),
        "device": device,
        "worker": worker,
        "batch_id": batch_id,
        "finished_at": finished_at or datetime.now(UTC),
        "code_version": code_version,
    }
    columns: dict[str, Any] = {
        "cell_id": [c.id for c in cells],
        "configuration_id": [c.configuration_id for c in cells],
        "seed": [c.seed for c in cells],
        "status": [o.status for o in outcomes],
        "error": [_text(o.error) for o in outcomes],
        "q_mean": _lists(o.mean for o in outcomes),
        "q_covariance": _lists(o.covariance for o in outcomes),
        "q_weights": _lists(o.weights for o in outcomes),
        "curves": _curves(outcomes),
        "modes": _modes(outcomes),
        "q_samples": _samples(outcomes),
    }
    columns |= {f.name: pa.repeat(pa.scalar(same[f.name], f.type), len(cells)) for f in layout if f.name in same}
    columns |= _declared(experiment, roles, cells, outcomes)
    width = max((np.shape(o.samples)[1] for o in outcomes if o.samples is not None), default=0)
    layout = layout.with_metadata({**layout.metadata, b"sample_width": str(width)})
    return pa.table([pa.array(columns[f.name], f.type, from_pandas=False) for f in layout], schema=layout)


def _declared(
    experiment: Experiment, roles: Mapping[str, str], cells: Sequence[Cell], outcomes: Sequence[Outcome | Failure]
) -> dict[str, list[Any]]:
    """The columns that are the experiment's own: parameters, metrics and labels."""
    columns: dict[str, list[Any]] = {}
    for name, role in roles.items():
        if role == "parameter":
            convert = _column_type(experiment.params.model_fields[name].annotation)[1]
            columns[name] = [convert(getattr(c.params, name)) for c in cells]
        elif role == "metric":
            columns[name] = [_number(o.metrics.get(name)) for o in outcomes]
        elif role == "label":
            columns[name] = [o.labels.get(name) for o in outcomes]
    return columns


def _field(name: str, kind: Any, role: str, unit: str = "", meaning: str = "", **more: str) -> pa.Field:
    return pa.field(name, kind, metadata={"role": role, "unit": unit, "meaning": meaning, **more})


def _parameter_field(name: str, info: Any) -> pa.Field:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    kind = _column_type(info.annotation)[0]
    return _field(name, kind, "parameter", str(extra.get("unit", "")), info.description or "")


def _metric_fields(experiment: Experiment) -> Iterable[pa.Field]:
    for m in experiment.metrics:
        yield _field(m.name, pa.float64(), "metric", m.unit, m.meaning, better=m.better or "")
        if m.has_error:
            meaning = f"Monte-Carlo standard error of {m.name}"
            yield _field(f"{m.name}_se", pa.float64(), "metric", m.unit, meaning, error_of=m.name)


def _column_type(annotation: Any) -> tuple[pa.DataType, Callable[[Any], Any]]:
    """The column that holds a parameter, and how a value becomes one of its entries.

    Lists and everything else without a column type become JSON text, by which pandas can group.
    """
    allowed = _values(annotation)
    for members, kind in (
        ({bool}, pa.bool_()),
        ({int}, pa.int64()),
        ({int, float}, pa.float64()),
        ({str}, pa.string()),
    ):
        if allowed and allowed <= members:
            return kind, _as_is
    return pa.string(), _as_json


def _values(annotation: Any) -> set[Any]:
    """The types that a value of this annotation may have, None aside."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)} - {types.NoneType}
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_values(member) for member in get_args(annotation)))
    return {annotation} - {types.NoneType}


def _as_is(value: Any) -> Any:
    return value


def _as_json(value: Any) -> str | None:
    return None if value is None else json.dumps(to_jsonable_python(value), sort_keys=True)


def _text(value: str | None) -> str | None:
    """Messages may quote undecodable file names, which parquet's UTF-8 text cannot hold."""
    return None if value is None else value.encode("utf-8", "backslashreplace").decode()


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _refuse_undeclared(experiment: Experiment, outcomes: Sequence[Outcome | Failure], roles: Mapping[str, str]) -> None:
    reported = {(name, "metric") for o in outcomes for name in o.metrics}
    reported |= {(name, "label") for o in outcomes for name in o.labels}
    unknown = sorted(f"{role} '{name}'" for name, role in reported if roles.get(name) != role)
    if unknown:
        raise ValueError(f"experiment '{experiment.name}' reports undeclared {', '.join(unknown)}")


def _list_array(lengths: Sequence[int | None], values: pa.Array) -> pa.ListArray:
    """Consecutive runs of ``values``; a length of None is a null."""
    ends = np.cumsum([length or 0 for length in lengths], dtype=np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), ends])
    null = pa.array([length is None for length in lengths], pa.bool_())
    return pa.ListArray.from_arrays(offsets, values, mask=null)


def _joined(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(np.ravel(a).astype(dtype) for a in arrays)])


def _lists(arrays: Iterable[np.ndarray | None]) -> pa.ListArray:
    held = list(arrays)
    values = _joined([a for a in held if a is not None], np.float64)
    return _list_array([None if a is None else np.size(a) for a in held], pa.array(values))


def _curves(outcomes: Sequence[Outcome | Failure]) -> pa.ListArray:
    """Each cell's curves one after the other, each in the order of its steps."""
    lengths: list[int | None] = []
    steps, names, values = [], [], []
    for o in outcomes:
        lengths.append(sum(np.size(curve) for curve in o.curves.values()) or None)
        for name, curve in o.curves.items():
            at = np.asarray([] if o.curve_steps is None else o.curve_steps)
            if curve.shape != at.shape:
                raise ValueError(f"curve '{name}' has shape {curve.shape}, its steps {at.shape}")
            steps.append(at)
            values.append(curve)
            names.extend([name] * curve.size)
    columns = [_joined(steps, np.int64), pa.array(names, pa.string()), _joined(values, np.float64)]
    return _list_array(lengths, pa.StructArray.from_arrays(columns, fields=list(CURVE)))


def _modes(outcomes: Sequence[Outcome | Failure]) -> pa.ListArray:
    measured = [f.name for f in MODE if f.name != "mode"]
    lengths = [np.size(o.modes["weight"]) if o.modes else None for o in outcomes]
    columns = [pa.array(_joined([np.arange(n) for n in lengths if n is not None], np.int64))]
    for name in measured:
        if name == "captured":
            columns.append(pa.array(_joined([np.asarray(o.modes[name]) for o in outcomes if o.modes], np.bool_)))
            continue
        held = [name in o.modes for o in outcomes if o.modes]
        sizes = [np.size(o.modes["weight"]) for o in outcomes if o.modes]
        values = [np.asarray(o.modes.get(name, np.zeros(np.size(o.modes["weight"])))) for o in outcomes if o.modes]
        unknown = np.repeat(np.logical_not(held), sizes) if held else np.zeros(0, bool)
        columns.append(pa.array(_joined(values, np.float64), mask=unknown))
    return _list_array(lengths, pa.StructArray.from_arrays(columns, fields=list(MODE)))


def _samples(outcomes: Sequence[Outcome | Failure]) -> pa.ListArray:
    with np.errstate(over="ignore"):  # a diverged fit's draws may lie beyond single precision
        held = [None if o.samples is None else np.asarray(o.samples, np.float32) for o in outcomes]
    values = pa.array(_joined([a for a in held if a is not None], np.float32))
    widths = [a.shape[1] for a in held if a is not None for _ in range(len(a))]
    return _list_array([None if a is None else len(a) for a in held], _list_array(widths, values))
