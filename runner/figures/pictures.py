"""Which fits a picture of draws shows: cells that stand for the levels of the most telling axis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from runner.figures.study import QUESTION, Axis, View, telling_levels
from runner.figures.style import word
from runner.store.reading import rows_of

MOST_PANELS = 24
MOST_LEVELS = 4


@dataclass(frozen=True)
class Picture:
    """One panel to be drawn: a target, a level of the most telling axis, and the cell that stands for it."""

    target: str
    level: Any
    cell: Mapping[str, Any]

    @property
    def numbers(self) -> list[str]:
        """Its coverage and sharpness, as far as they are known."""
        return [f"{name} {self.cell[name]:.2f}" for name in QUESTION if name in self.cell]


def choose(view: View) -> list[Picture]:
    """For each target, cells that differ in the most telling axis alone, at the lowest seed."""
    main = view.axes[0] if view.axes else None
    others = [axis.name for axis in view.axes[1:]]
    cells = view.cells[view.cells["seed"] == view.cells["seed"].min()]
    levels = telling_levels(view, MOST_LEVELS) if main else ()
    pictures = []
    for target in view.targets:
        rows = cells[cells["target"] == target]
        rows = _most_complete(rows, others)
        if main is None:
            pictures += [Picture(target, None, dict(rows.iloc[0]))] if len(rows) else []
            continue
        for level in levels:
            same = rows[rows[main.name] == level]
            pictures += [Picture(target, level, dict(same.iloc[0]))] if len(same) else []
    return pictures


def _most_complete(rows: pd.DataFrame, others: Sequence[str]) -> pd.DataFrame:
    """The rows that share one combination of the other axes: the first of those with the most rows."""
    if not others or rows.empty:
        return rows
    group = rows.groupby(list(others), sort=False, dropna=False)
    return rows[group.ngroup() == group.size().to_numpy().argmax()]


def within_budget(chosen: dict[str, list[Picture]]) -> dict[str, list[Picture]]:
    """Leave out the last target of the experiment with the most panels until all fit on a page."""
    while sum(map(len, chosen.values())) > MOST_PANELS:
        longest = max(chosen, key=lambda name: len(chosen[name]))
        last = chosen[longest][-1].target
        chosen = {**chosen, longest: [p for p in chosen[longest] if p.target != last]}
        if not chosen[longest]:
            del chosen[longest]
    return chosen


def held_at(axes: Sequence[Axis], pictures: Sequence[Picture]) -> list[tuple[str, dict[str, Any]]]:
    """Legend entries for what axes that a figure does not show are held at."""
    values = {axis.name: {picture.cell[axis.name] for picture in pictures} for axis in axes}
    said = {name: word(next(iter(v))) if len(v) == 1 else "several" for name, v in values.items()}
    return [(f"{name} {value}", {"linestyle": "none"}) for name, value in said.items()]


def draws(path: Path, key: str, names: Sequence[str], columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> draws ``(n, D)`` in those of the columns that its dimensions fill; what has none is left out."""
    if not path.exists() or not names:
        return {}
    table = rows_of(path, key, names, [key, *columns])
    held = [name for name in table.column_names if name != key]
    found = {}
    for name, rows in table.to_pandas().groupby(key, sort=False):
        values = rows[held].to_numpy(float)
        used = values[:, ~np.isnan(values).all(axis=0)]
        found[str(name)] = used[np.isfinite(used).all(axis=1)]
    return {name: values for name, values in found.items() if values.size}


def noted(path: Path, note: str) -> dict[str, Any]:
    """What the metadata of ``targets.parquet`` say, by target: ``coordinates``, or the shape of ``images``."""
    if not path.exists():
        return {}
    said: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(note.encode(), b"{}"))
    return said
