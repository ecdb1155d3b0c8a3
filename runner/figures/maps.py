"""Two numeric axes at once: what became of the fits at each of their combinations, as a map for each target."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from runner.figures.study import Axis, View
from runner.figures.style import FAINT, PAPER, WORDS, Block, Placed, evenly, legend, sheet, shorten, swatches, word

FEWEST_LEVELS = 3  # on each side of a map
MOST_PANELS = 24
MOST_SPLIT = 4
MOST_WORDS = 6
COLUMNS = 6
CAPTION = (
    "A field for each pair of values; where other axes vary too, the word is that of most cells and the number a "
    "mean. White: no such cell."
)


@dataclass(frozen=True)
class Map:
    """What is drawn of one experiment.

    Args:
        x, y: the axes of every panel.
        split: the axis whose levels have panels of their own, or None.
        value: the column that gives the colour; its ``levels`` are words, or it has none and is a number.
    """

    x: Axis
    y: Axis
    split: Axis | None
    value: str
    levels: tuple[str, ...]
    panels: tuple[tuple[str, Any], ...]


def draw(views: Sequence[View]) -> Any | None:
    """A panel for each target and level of the split, or None where no two numeric axes are crossed."""
    found = [(view, chosen) for view in views if (chosen := _map(view))]
    if not found:
        return None
    figure, placed = sheet([_block(view, chosen) for view, chosen in found])
    for (view, chosen), place in zip(found, placed, strict=True):
        shades = _shades(view, chosen)
        for i, (panel, key) in enumerate(zip(place.axes, chosen.panels, strict=True)):
            _panel(panel, _cells(view, chosen, *key), chosen, shades)
            _frame(panel, place, i, chosen, key)
        _explain(figure, place, chosen, shades)
    return figure


def _map(view: View) -> Map | None:
    pair = _crossed(view)
    if pair is None:
        return None
    y, x = sorted(pair, key=lambda axis: view.axes.index(axis))
    cells = view.cells.dropna(subset=[x.name, y.name])
    others = [axis for axis in view.axes if axis not in pair and cells[axis.name].nunique() > 1]
    # Words before numbers: a learning rate that belongs to an optimizer says less than its name.
    split = next((a for a in sorted(others, key=lambda a: a.numeric) if cells[a.name].nunique() <= MOST_SPLIT), None)
    label = next((name for name in view.labels if cells[name].nunique() > 1), None)
    levels = tuple(cells[label].value_counts().index) if label else ()
    targets = [target for target in view.targets if (cells["target"] == target).any()]
    parts = [level for level in split.levels if (cells[split.name] == level).any()] if split else [None]
    shown = evenly(targets, max(1, MOST_PANELS // len(parts)))
    panels = tuple((target, level) for level in parts for target in shown)
    return Map(x, y, split, label or view.measures[0], levels, panels) if view.measures or label else None


def _crossed(view: View) -> tuple[Axis, Axis] | None:
    """The two numeric axes of which most combinations were run, if they are crossed at all."""
    numeric = [axis for axis in view.axes if axis.numeric and len(axis.levels) >= FEWEST_LEVELS]

    def size(pair: tuple[Axis, Axis]) -> int:
        return len(view.cells[[axis.name for axis in pair]].dropna().drop_duplicates())

    best = max(itertools.combinations(numeric, 2), key=size, default=None)
    if best is None or size(best) < FEWEST_LEVELS**2:
        return None
    return best


def _cells(view: View, chosen: Map, target: str, level: Any) -> pd.DataFrame:
    cells = view.cells[view.cells["target"] == target].dropna(subset=[chosen.x.name, chosen.y.name])
    return cells if chosen.split is None else cells[cells[chosen.split.name] == level]


def _table(cells: pd.DataFrame, chosen: Map) -> np.ndarray:
    """``(y levels, x levels)``: the number of the commonest word, or the mean; NaN where there is no cell."""
    table = np.full((len(chosen.y.levels), len(chosen.x.levels)), np.nan)
    for (y, x), same in cells.groupby([chosen.y.name, chosen.x.name])[chosen.value]:
        value = chosen.levels.index(same.mode().iloc[0]) if chosen.levels else same.mean()
        table[chosen.y.levels.index(y), chosen.x.levels.index(x)] = value
    return table


def _shades(view: View, chosen: Map) -> dict[str, Any]:
    """Colours as ``pcolormesh`` takes them: a fixed one for each word, dark to light for numbers."""
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    if chosen.levels:
        paints = [WORDS[i] if i < MOST_WORDS else FAINT for i in range(len(chosen.levels))]
        return {"cmap": ListedColormap(paints), "norm": Normalize(-0.5, len(paints) - 0.5)}
    tables = [_table(_cells(view, chosen, *key), chosen) for key in chosen.panels]
    values = np.concatenate([table[np.isfinite(table)] for table in tables] or [np.ones(1)])
    low, high = float(values.min()), float(values.max())
    wide = low > 0 and high / low > 100
    return {"cmap": "cividis", "norm": LogNorm(low, high) if wide else Normalize(low, high)}


def _block(view: View, chosen: Map) -> Block:
    across = len({target for target, _ in chosen.panels})
    columns = min(COLUMNS, max(2, across))
    return Block(view.experiment, len(chosen.panels), columns, height=1.0 if columns > 4 else 1.6, gap=0.12)


def _panel(panel: Any, cells: pd.DataFrame, chosen: Map, shades: dict[str, Any]) -> None:
    edges = [np.arange(len(axis.levels) + 1) - 0.5 for axis in (chosen.x, chosen.y)]
    panel.pcolormesh(*edges, _table(cells, chosen), edgecolor="white", linewidth=0.6, **shades)
    panel.grid(False)


def _frame(panel: Any, place: Placed, i: int, chosen: Map, key: tuple[str, Any]) -> None:
    columns = place.block.columns
    title = key[0] if chosen.split is None else f"{key[0]}, {word(key[1])}"
    panel.set_title(shorten(title, 84 // columns), loc="left", pad=3, fontsize=8)
    for axis, direction in ((chosen.x, "x"), (chosen.y, "y")):
        ticks = axis.extremes(5)
        at = [axis.levels.index(level) for level in ticks]
        getattr(panel, f"set_{direction}ticks")(at, [word(level) for level in ticks], fontsize=7)
    if place.block.is_lowest(i):
        panel.set_xlabel(chosen.x.label, fontsize=8)
    else:
        panel.tick_params(labelbottom=False)
    if i % columns == 0:
        panel.set_ylabel(chosen.y.label, fontsize=8)
    else:
        panel.tick_params(labelleft=False)


def _explain(figure: Any, place: Placed, chosen: Map, shades: dict[str, Any]) -> None:
    square: dict[str, Any] = {"marker": "s", "linestyle": "none", "markersize": 8}
    if chosen.levels:
        axis = Axis(chosen.value, chosen.levels, "", numeric=False)
        legend(figure, place, {chosen.value: swatches(axis, MOST_WORDS, **square)})
        return
    from matplotlib import colormaps

    norm = shades["norm"]
    shares = np.linspace(1, 0, 6)
    entries = [
        (f"{norm.inverse(share):.3g}", {**square, "color": colormaps["cividis"](share), "markeredgecolor": PAPER})
        for share in shares
    ]
    legend(figure, place, {chosen.value: entries})
