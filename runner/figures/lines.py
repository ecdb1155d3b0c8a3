"""Measures along a numeric axis, for each target: a line for each level of the axis that tells most besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from runner.figures.axes import interval, marginal, ticks
from runner.figures.study import QUESTION, Axis, View
from runner.figures.style import (
    DASHES,
    FOOT,
    INK,
    WORDS,
    Block,
    Placed,
    colours,
    evenly,
    heading,
    legend,
    logarithmic,
    sheet,
    shorten,
    swatches,
    word,
)

FEWEST_LEVELS = 3
MOST_PANELS = 12
COLUMNS = 6


@dataclass(frozen=True)
class Lines:
    """What is drawn of one experiment: the axis along x, the axis told by colour, and what the others are held at."""

    x: Axis
    told: Axis | None
    held: dict[str, set[Any]]
    cells: pd.DataFrame
    targets: tuple[str, ...]


def caption(views: Sequence[View]) -> str:
    """What the figure shows, of what is told by colour and of what is held only where something is."""
    found = [chosen for view in views if view.measures and (chosen := _choose(view))]
    told = ", a line for each level of the axis that tells most besides" if any(c.told for c in found) else ""
    held = " All other axes are held, at the values beside the panels." if any(c.held for c in found) else ""
    return f"Along the longest numeric axis{told}; bars are 95 % intervals over seeds.{held}"


def draw(views: Sequence[View]) -> Any | None:
    """A panel for each measure and target; None where no axis is numeric with three levels or more."""
    found = [(view, chosen) for view in views if view.measures and (chosen := _choose(view))]
    if not found:
        return None
    figure, placed = sheet([_block(view, chosen) for view, chosen in found])
    for (view, chosen), place in zip(found, placed, strict=True):
        keys = [(measure, target) for measure in view.measures for target in chosen.targets]
        for i, (panel, key) in enumerate(zip(place.axes, keys, strict=True)):
            _panel(panel, chosen, *key)
            _frame(panel, place, i, chosen, *key)
        _explain(figure, place, chosen)
    return figure


def _choose(view: View) -> Lines | None:
    numeric = [axis for axis in view.axes if axis.numeric and len(axis.levels) >= FEWEST_LEVELS]
    if not numeric:
        return None
    x = max(numeric, key=lambda axis: len(axis.levels))
    cells = view.cells.dropna(subset=[x.name, *view.measures])
    others = [axis for axis in view.axes if axis is not x and cells[axis.name].nunique() > 1]
    told = next((axis for axis in others if axis.numeric or len(axis.levels) <= len(WORDS)), None)
    most = max(1, MOST_PANELS // len(view.measures))
    targets = [target for target in view.targets if cells.loc[cells["target"] == target, x.name].nunique() > 1]
    if not targets:
        return None
    drawn = [x.name, *([told.name] if told else [])]
    held: dict[str, set[Any]] = {}
    kept = []
    for target in (shown := evenly(targets, most)):
        rows = cells[cells["target"] == target]
        for axis in others:
            if axis is not told and rows[axis.name].notna().any():
                level = _fullest(rows, axis, drawn)
                rows = rows[rows[axis.name] == level]
                held.setdefault(axis.name, set()).add(level)
        kept.append(rows)
    return Lines(x, told, held, pd.concat(kept), tuple(shown))


def _fullest(rows: pd.DataFrame, axis: Axis, drawn: Sequence[str]) -> Any:
    """The level of an axis at which most of what is drawn was run; of those with as much, the first."""
    sizes = [len(rows.loc[rows[axis.name] == level, list(drawn)].drop_duplicates()) for level in axis.levels]
    return axis.levels[int(np.argmax(sizes))]


def _block(view: View, chosen: Lines) -> Block:
    panels = len(chosen.targets) * len(view.measures)
    targets = len(chosen.targets)
    columns = max(2, targets if targets <= COLUMNS else -(-targets // 2))
    return Block(heading(view, targets), panels, columns, height=1.6, gap=0.3, foot=FOOT - 0.15)


def _panel(panel: Any, chosen: Lines, measure: str, target: str) -> None:
    rows = chosen.cells[chosen.cells["target"] == target]
    told = chosen.told
    colour = colours(told)
    by = [chosen.x.name] if told is None else [told.name, chosen.x.name]
    points = marginal(rows, by, measure)
    for i, level in enumerate(told.levels if told else (None,)):
        line = points if told is None else points[points[told.name] == level]
        line = line.sort_values(chosen.x.name)
        x = [chosen.x.position(value) for value in line[chosen.x.name]]
        paint = colour.get(level, INK)
        dash = DASHES[i % len(DASHES)] if told and not told.numeric else "-"
        panel.plot(x, line["mean"], color=paint, linestyle=dash, linewidth=1.3, marker="o", markersize=2.8)
        panel.vlines(x, *interval(line, measure), color=paint, linewidth=0.8, alpha=0.7)
    if measure in QUESTION:
        panel.set(ylim=(-0.05, 1.08), yticks=(0, 0.5, 1))
    elif (points["mean"] > 0).all() and points["mean"].max() > 30 * points["mean"].min():
        logarithmic(panel, "y")


def _frame(panel: Any, place: Placed, i: int, chosen: Lines, measure: str, target: str) -> None:
    panel.set_title(shorten(target, 24), loc="left", pad=4)
    ticks(panel, chosen.x, 5)
    panel.tick_params(labelsize=7)
    if measure in QUESTION and target != chosen.targets[0]:
        panel.tick_params(labelleft=False)
    panel.set_xlabel(chosen.x.label, fontsize=8, labelpad=1)
    if i % place.block.columns == 0 or target == chosen.targets[0]:
        panel.set_ylabel(measure, fontsize=8)


def _explain(figure: Any, place: Placed, chosen: Lines) -> None:
    groups: dict[str, Sequence[tuple[str, dict[str, Any]]]] = {}
    if chosen.told:
        entries = swatches(chosen.told, linewidth=1.6)
        if not chosen.told.numeric:
            entries = [(name, {**look, "linestyle": DASHES[i % 3]}) for i, (name, look) in enumerate(entries)]
        groups[chosen.told.label] = entries
    if chosen.held:
        unseen = {"linestyle": "none"}
        values = {name: word(next(iter(v))) if len(v) == 1 else "several" for name, v in chosen.held.items()}
        groups["held at"] = [(f"{name} {value}", unseen) for name, value in values.items()]
    legend(figure, place, groups)
