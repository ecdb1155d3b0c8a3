"""The table at the end of a run: what was varied, against coverage and sharpness, on one screen."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.summary import by_experiment, parameters, statistics

if TYPE_CHECKING:
    import pandas as pd

JUDGED_BY = ("coverage", "sharpness")
MEASURES = (*JUDGED_BY, "modes_captured", "modes_total", "forward_kl", "reverse_kl")
ROWS = 40
HEADINGS = {"modes_captured": "modes", "forward_kl": "fwd KL", "reverse_kl": "rev KL"}


@dataclass(frozen=True)
class Comparison:
    """One experiment's part of the table.

    Args:
        axes: columns that say what a row is: the target, then the parameters that vary.
        measures: columns of mean values; ``<measure>_half`` is half the width of the mean's 95 % interval.
        rows: those columns, ``n``, the number of cells behind the row, and ``records``, that of its cells that ran.
        notes: sentences on what was averaged over or left out.
    """

    experiment: str
    axes: tuple[str, ...]
    measures: tuple[str, ...]
    rows: pd.DataFrame
    notes: tuple[str, ...]

    def texts(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Heading and rows as a person reads them: modes as ``4/8``, intervals where the question is."""
        measures = [name for name in self.measures if name in (*JUDGED_BY, *HEADINGS)] or list(self.measures)
        heading = (*self.axes, *(HEADINGS.get(name, name) for name in measures), "n")
        rows = [
            (
                *(said(row[axis]) for axis in self.axes),
                *(_measured(row, name) for name in measures),
                counted(row),
            )
            for row in self.rows.to_dict("records")
        ]
        return heading, rows


@dataclass(frozen=True)
class _Part:
    """One experiment's cells that ran, without the numbers of those not ``ok``, and the axes that tell rows apart."""

    experiment: str
    cells: pd.DataFrame
    axes: tuple[str, ...]
    measures: tuple[str, ...]
    pooled: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return len(self.cells[list(self.axes)].drop_duplicates())


def compared_columns(summary: pa.Table) -> list[str]:
    """What `compare` looks at of ``cells``: of the parameters, only those in which the configurations differ."""
    varied = [name for name in parameters(summary) if pc.count_distinct(summary[name], mode="all").as_py() > 1]
    objectives = by_experiment(summary, "objective").values()
    return ["experiment", "configuration_id", "status", "target", "seed", *varied, *MEASURES, *objectives]


def compare(cells: pa.Table, summary: pa.Table, limit: int = ROWS) -> list[Comparison]:
    """Coverage and sharpness of what was varied, by experiment and target, in about ``limit`` rows in all.

    Only the best of each nuisance parameter's values counts. Cells that are not ok have no part in the numbers,
    and their configurations a row all the same. While there are too many rows, the axis that makes the least
    difference to coverage and sharpness is averaged over, in the experiment with the most rows; the target and the
    most telling axis always stay, and rows beyond the limit are then left out. Averages are first taken within a
    seed, because the cells of one seed share their noise.

    Args:
        cells: as in ``cells.parquet``, or the `compared_columns` of it.
        summary: what ``summarise`` makes of them.
        limit: the number of rows that fit.
    """
    best = summary.filter(summary["nuisance_best"])
    chosen = cells.filter(pc.is_in(cells["configuration_id"], best["configuration_id"].combine_chunks()))
    parts = [_part(chosen, name) for name in chosen["experiment"].unique().to_pylist()]
    while sum(part.size for part in parts) > limit:
        widest = max((part for part in parts if len(part.axes) > 2), key=lambda part: part.size, default=None)
        if widest is None:
            break
        parts[parts.index(widest)] = _without_least(widest)
    share = max(1, limit // max(1, len(parts)))
    return [_comparison(part, share if sum(p.size for p in parts) > limit else part.size) for part in parts]


def markdown(parts: Sequence[Comparison]) -> str:
    """The table as markdown, for a note beside the results."""
    lines: list[str] = []
    for part in parts:
        heading, rows = part.texts()
        table = [heading, ("---",) * len(heading), *rows]
        lines += [f"**{part.experiment}**", "", *(f"| {' | '.join(row)} |" for row in table), ""]
        lines += [f"_{note}_\n" for note in part.notes]
    return "\n".join(lines)


def said(value: Any) -> str:
    """A parameter's value as tables show it; ``-`` where it has none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def counted(row: Mapping[Hashable, Any]) -> str:
    """How many cells are behind a row; and of how many, where some are not ok."""
    return f"{row['n']}" if row["n"] == row["records"] else f"{row['n']} of {row['records']}"


def _measured(row: Mapping[Hashable, Any], name: str) -> str:
    mean, half = row[name], row[f"{name}_half"]
    if math.isnan(mean):
        return "-"
    if name == "modes_captured" and "modes_total" in row:
        return f"{mean:.2g}/{row['modes_total']:.0f}"
    if name not in JUDGED_BY:
        return f"{mean:.3g}"
    return f"{mean:.3f}" + (f" ±{half:.3f}" if half >= 0.0005 else "")


def _part(cells: pa.Table, experiment: str) -> _Part:
    own = cells.filter(pc.equal(cells["experiment"], experiment))
    objective = by_experiment(cells, "objective").get(experiment, "")
    nuisance = by_experiment(cells, "nuisance").get(experiment, [])
    measures = [name for name in dict.fromkeys((*MEASURES, objective)) if name in cells.column_names]
    candidates = [name for name in parameters(cells) if name not in nuisance]
    frame = own.select([*candidates, "seed", "status", *measures]).to_pandas()
    frame["ok"] = frame.pop("status") == "ok"
    frame.loc[~frame["ok"], measures] = math.nan
    axes = [name for name in candidates if name != "target" and frame[name].nunique(dropna=False) > 1]
    # Of an experiment without a cell that is ok, the rows say so beside the objective that none has.
    measures = [m for m in measures if frame[m].notna().any()] or [m for m in measures if m == objective]
    return _Part(experiment, frame[["target", *axes, "seed", "ok", *measures]], ("target", *axes), tuple(measures))


def _without_least(part: _Part) -> _Part:
    judged = [name for name in JUDGED_BY if name in part.measures] or list(part.measures)

    def effect(axis: str) -> float:
        return float(part.cells.groupby(axis, dropna=False)[judged].mean().var(ddof=0).sum())

    least = min(part.axes[1:], key=effect)
    axes = tuple(axis for axis in part.axes if axis != least)
    values = part.cells[least].nunique(dropna=False)
    return replace(part, axes=axes, pooled=(*part.pooled, f"{least} ({values} values)"))


def _comparison(part: _Part, limit: int) -> Comparison:
    axes, measures = list(part.axes), list(part.measures)
    by_seed = part.cells.groupby([*axes, "seed"], sort=False, dropna=False)[measures].mean().reset_index()
    groups = by_seed.groupby(axes, sort=False, dropna=False)
    codes = groups.ngroup().to_numpy()
    first = np.unique(codes, return_index=True)[1]
    rows = by_seed.loc[first, axes].reset_index(drop=True)
    counts = part.cells.groupby(axes, sort=False, dropna=False)["ok"].agg(["sum", "size"])
    rows["n"], rows["records"] = counts["sum"].to_numpy(), counts["size"].to_numpy()
    everything = np.ones(len(codes), bool)
    for name in measures:
        mean, _, low, high = statistics(by_seed[name].to_numpy(), codes, everything, len(first))
        rows[name], rows[f"{name}_half"] = mean, (high - low) / 2
    return Comparison(part.experiment, part.axes, part.measures, rows.head(limit), _notes(part, len(rows) - limit))


def _notes(part: _Part, left_out: int) -> tuple[str, ...]:
    pooled: Sequence[str] = part.pooled
    averaged = [f"{part.experiment}: averaged over {', '.join(pooled)}"] if pooled else []
    more = [f"{part.experiment}: {left_out} more rows are in summary.parquet"] if left_out > 0 else []
    return (*averaged, *more)
