"""A sweep's tables as its figures and its report read them: what varied, and the rows to show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

QUESTION = ("coverage", "sharpness")
DECADE = 10.0


@dataclass(frozen=True)
class Axis:
    """A parameter that varies within some target, with its levels in the order of plotting."""

    name: str
    levels: tuple[Any, ...]
    unit: str
    numeric: bool

    @property
    def logarithmic(self) -> bool:
        """Whether the levels span more than a decade on one side of zero."""
        return self.numeric and self.levels[0] > 0 and self.levels[-1] / self.levels[0] > DECADE

    @property
    def ordinal(self) -> bool:
        """Whether levels stand at equal distances: words, or numbers with zero beside several decades."""
        if not self.numeric:
            return True
        sizes = [abs(level) for level in self.levels if level]
        return not self.logarithmic and max(sizes) / min(sizes) > DECADE

    @property
    def label(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def position(self, level: Any) -> float:
        return float(self.levels.index(level)) if self.ordinal else float(level)

    def extremes(self, most: int) -> tuple[Any, ...]:
        """Up to ``most`` levels, evenly chosen, the first and the last among them."""
        if len(self.levels) <= most:
            return self.levels
        last = len(self.levels) - 1
        return tuple(self.levels[round(i * last / (most - 1))] for i in range(most))


@dataclass(frozen=True)
class View:
    """One experiment of a sweep.

    Args:
        experiment: its name.
        targets: in the order of the plan.
        axes: what varied besides the target, the most telling first; nuisance parameters are left out.
        measures: ``coverage`` and ``sharpness``, or the objective where those are not reported.
        summary: a row for each configuration that has a result, at the best nuisance parameters.
        cells: the cells of those configurations that ended well.
        held: for each axis, what can stay the same while its level changes: the target, and which other axes.
        labels: columns of words that say what became of a cell, and differ between cells.
    """

    experiment: str
    targets: tuple[str, ...]
    axes: tuple[Axis, ...]
    measures: tuple[str, ...]
    summary: pd.DataFrame
    cells: pd.DataFrame
    held: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...] = ()

    @property
    def answers(self) -> bool:
        """Whether coverage and sharpness are both known."""
        return self.measures == QUESTION


@dataclass(frozen=True)
class Study:
    """The tables of one results folder; ``fields`` has each column's role, unit and meaning."""

    folder: Path
    fields: Mapping[str, Mapping[str, str]]
    views: tuple[View, ...]


def read_study(folder: Path) -> Study:
    """Read ``cells.parquet`` and ``summary.parquet``, the nested tables aside."""
    layout = pq.read_schema(folder / "cells.parquet")
    fields = {f.name: {key.decode(): value.decode() for key, value in (f.metadata or {}).items()} for f in layout}
    about = {key.decode(): value.decode() for key, value in (layout.metadata or {}).items()}
    summary = pd.read_parquet(folder / "summary.parquet")
    if "experiment" not in summary or summary.empty:
        return Study(folder, fields, ())
    identity = ["cell_id", "experiment", "configuration_id", "seed", "status"]
    varying = [name for name in _parameters(fields) if summary[name].nunique(dropna=False) > 1]
    objectives = _objectives(about)
    words = [name for name, told in fields.items() if told.get("role") == "label"]
    wanted = {*identity, "target", *varying, *QUESTION, *objectives.values(), *words}
    cells = pd.read_parquet(folder / "cells.parquet", columns=[n for n in layout.names if n in wanted])
    nuisance = json.loads(about.get("nuisance", "{}"))
    views = tuple(
        _view(name, summary, cells, fields, nuisance.get(name, ()), objectives.get(name))
        for name in summary["experiment"].unique()
    )
    return Study(folder, fields, tuple(view for view in views if len(view.summary)))


def telling_levels(view: View, most: int, axis: Axis | None = None) -> tuple[Any, ...]:
    """Levels that stand for an axis (the most telling one): of words up to ``most``, of numbers its ends and the best.

    A numeric axis may be bad at both ends, so the level between them that keeps most says what it is good for.
    """
    axis = axis or view.axes[0]
    if not axis.numeric:
        return axis.extremes(most)
    shown = {*axis.extremes(2), best_level(view, axis)}
    return tuple(level for level in axis.levels if level in shown)


def best_level(view: View, axis: Axis | None = None) -> Any | None:
    """The level of an axis (the most telling one) of the highest mean coverage + sharpness; None where none is."""
    if not view.answers:
        return None
    axis = axis or view.axes[0]
    settings, _ = like_with_like(view, axis, axis.levels)
    # Rounded, so that differences in the last bits do not decide: of levels that keep the same, the first.
    means = settings[list(QUESTION)].sum(axis="columns").groupby(settings[axis.name]).mean().round(6)
    return means.idxmax() if means.nunique() > 1 else None


def like_with_like(view: View, axis: Axis, levels: Sequence[Any]) -> tuple[pd.DataFrame, int]:
    """Coverage and sharpness of these levels, a row for each and each setting that all have; of how many settings.

    A setting is what ``view.held`` names: levels whose means are over different targets cannot be compared.
    """
    rows = view.summary[view.summary[axis.name].isin(levels)].dropna(subset=[f"{name}_mean" for name in QUESTION])
    held = list(view.held[axis.name])
    found = rows.groupby([axis.name, *held], dropna=False, sort=False)[[f"{name}_mean" for name in QUESTION]].mean()
    found = found.set_axis(QUESTION, axis="columns").reset_index()
    settings = found.groupby(held, dropna=False, sort=False)
    return found[settings[axis.name].transform("size") == len(levels)], settings.ngroups


def parts(rows: pd.DataFrame, axis: Axis | None) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The rows at each level of an axis; without an axis, or where it does not apply, at the level None."""
    if axis is None:
        yield None, rows
        return
    for level in axis.levels:
        if len(same := rows[rows[axis.name] == level]):
            yield level, same
    if len(rest := rows[rows[axis.name].isna()]):
        yield None, rest


def _parameters(fields: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [name for name, about in fields.items() if about.get("role") == "parameter"]


def _objectives(about: Mapping[str, str]) -> dict[str, str]:
    return {str(k): str(v) for k, v in json.loads(about.get("objective", "{}")).items()}


def _view(
    experiment: str,
    summary: pd.DataFrame,
    cells: pd.DataFrame,
    fields: Mapping[str, Mapping[str, str]],
    nuisance: Sequence[str],
    objective: str | None,
) -> View:
    tried = summary[summary["experiment"] == experiment]
    if "nuisance_best" in tried:
        tried = tried[tried["nuisance_best"].fillna(True).astype(bool)]
    rows = tried[tried["n_ok"] > 0]
    both = all(rows.get(f"{name}_mean", pd.Series(dtype=float)).notna().any() for name in QUESTION)
    measures = QUESTION if both else (objective,) if objective else ()
    shown = [name for name in _parameters(fields) if name != "target" and name not in nuisance]
    axes = [axis for name in shown if (axis := _axis(rows, name, fields[name].get("unit", "")))]
    telling = _most_telling(rows, _without_twins(rows, axes), measures)
    kept = cells[cells["configuration_id"].isin(rows["configuration_id"]) & (cells["status"] == "ok")]
    words = [name for name, about in fields.items() if about.get("role") == "label" and kept[name].nunique() > 1]
    held = {axis.name: ("target", *_crossed(tried, axis, telling)) for axis in telling}
    return View(experiment, tuple(rows["target"].unique()), telling, measures, rows, kept, held, tuple(words))


def _axis(rows: pd.DataFrame, name: str, unit: str) -> Axis | None:
    if name not in rows or rows.groupby("target")[name].nunique().max() in (0, 1):
        return None
    column = rows[name].dropna()
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    levels = sorted(column.unique().tolist()) if numeric else column.unique().tolist()
    return Axis(name, tuple(levels), unit, numeric) if len(levels) > 1 else None


def _crossed(tried: pd.DataFrame, axis: Axis, axes: Sequence[Axis]) -> list[str]:
    """The other axes that apply at every level of this one and do not follow it, whatever became of the cells."""
    levels = tried.dropna(subset=[axis.name]).groupby(axis.name)
    others = [other.name for other in axes if other is not axis]
    return [name for name in others if levels[name].count().min() and levels[name].nunique(dropna=False).max() > 1]


def _without_twins(rows: pd.DataFrame, axes: Sequence[Axis]) -> list[Axis]:
    """Drop each axis that only follows an earlier one, as zipped parameters do."""
    kept: list[Axis] = []
    for axis in axes:
        follows = [
            before
            for before in kept
            if len(before.levels) == len(axis.levels) == len(rows[[before.name, axis.name]].drop_duplicates())
        ]
        if not follows:
            kept.append(axis)
    return kept


def _most_telling(rows: pd.DataFrame, axes: Sequence[Axis], measures: Sequence[str]) -> tuple[Axis, ...]:
    """The axes, by the share of the measures' variance within targets that lies between their levels."""

    def share(axis: Axis) -> float:
        between = total = 0.0
        for name in measures:
            values = rows[f"{name}_mean"]
            centred = values - values.groupby(rows["target"]).transform("mean")
            level = centred.groupby([rows["target"], rows[axis.name]]).transform("mean")
            between += float((level**2).sum())
            total += float((centred**2).sum())
        return between / total if total else 0.0

    # Rounded, so that differences in the last bits do not decide between axes that tell the same.
    return tuple(sorted(axes, key=lambda axis: -round(share(axis), 6)))
