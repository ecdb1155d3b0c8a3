"""Training curves: whether the fits have settled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from runner.figures.study import Axis, View
from runner.figures.style import FOOT, INK, Block, colours, heading, legend, logarithmic, sheet, shorten, swatches
from runner.store.reading import rows_of

MOST_PANELS = 4  # of an experiment
MOST_LINES = 6
MOST_CELLS = 60  # behind one line; more do not move its median
CAPTION = (
    "The training loss: median, and the band that holds the middle 80 % of the cells; the range is that of "
    "the last nine tenths of the steps. A line that still falls at its end asks for more steps."
)


def draw(folder: Path, views: Sequence[View]) -> Any | None:
    """For each experiment, a panel for each of its first targets, a line for each level of the main axis."""
    path = folder / "curves.parquet"
    shown = [view for view in views if len(view.cells)]
    if not path.exists() or not shown:
        return None
    groups = {view.experiment: _groups(view) for view in shown}
    ids = [i for lines in groups.values() for _, _, cells in lines for i in cells]
    curves = rows_of(path, "cell_id", ids)
    if not len(curves):
        return None
    metric = _metric(pc.unique(curves["metric"]).to_pylist())
    table = curves.filter(pc.equal(curves["metric"], metric)).to_pandas().set_index("cell_id")
    recorded = set(table.index)
    # What trains nothing records no curves, and neither does a cell that failed.
    groups = {name: [line for line in lines if not recorded.isdisjoint(line[2])] for name, lines in groups.items()}
    shown = [view for view in shown if groups[view.experiment]]
    targets = {view.experiment: list(dict.fromkeys(t for t, _, _ in groups[view.experiment])) for view in shown}
    figure, placed = sheet([_block(view, len(targets[view.experiment])) for view in shown])
    for view, place in zip(shown, placed, strict=True):
        main = view.axes[0] if view.axes else None
        for panel, target in zip(place.axes, targets[view.experiment], strict=True):
            lines = [(level, ids) for t, level, ids in groups[view.experiment] if t == target]
            _panel(panel, [(level, _band(table, ids)) for level, ids in lines], main)
            panel.set_title(shorten(target, 40), loc="left", pad=4)
        place.axes[0].set_ylabel(metric)
        if main:
            legend(figure, place, {main.label: swatches(main, linewidth=1.6)})
    return figure


def _block(view: View, panels: int) -> Block:
    return Block(heading(view, panels, "first "), panels, columns=2, height=1.9, gap=0.6, foot=FOOT)


def _metric(names: Sequence[str]) -> str:
    return "loss" if "loss" in names else sorted(names)[0]


def _groups(view: View) -> list[tuple[str, Any, list[str]]]:
    """The lines, as (target, level of the most telling axis, ids of the cells behind it)."""
    main = view.axes[0] if view.axes else None
    lines = []
    for target in view.targets[:MOST_PANELS]:
        rows = view.cells[view.cells["target"] == target]
        for level in main.extremes(MOST_LINES) if main else (None,):
            cells = rows[rows[main.name] == level] if main else rows
            if len(cells):
                keep = np.linspace(0, len(cells) - 1, min(len(cells), MOST_CELLS)).astype(int)
                lines.append((target, level, cells["cell_id"].iloc[keep].tolist()))
    return lines


def _band(table: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Median and the 10th and 90th percentile at each step that at least half of the cells recorded."""
    held = table.loc[table.index.intersection(list(ids))]
    each = held.groupby("step")["value"]
    band = each.quantile(np.array([0.1, 0.5, 0.9])).unstack()
    return band[each.count() * 2 >= held.index.nunique()]


def _settling(bands: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """The range of the loss after a tenth of the steps, with room above to see the lines come down."""
    late = [band[band.index >= band.index.max() / 10].to_numpy().ravel() for band in bands if len(band)]
    values = np.concatenate([np.zeros(0), *late])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    height = float(np.ptp(values)) or 1.0
    return float(values.min()) - 0.1 * height, float(values.max()) + 0.6 * height


def _panel(panel: Any, lines: Sequence[tuple[Any, pd.DataFrame]], main: Axis | None) -> None:
    colour = colours(main)
    for level, band in lines:
        paint = colour.get(level, INK)
        steps = band.index.to_numpy() + 1  # the first step, 0, has no place on a logarithmic axis
        panel.fill_between(steps, band[0.1], band[0.9], color=paint, alpha=0.15, linewidth=0)
        panel.plot(steps, band[0.5], color=paint, linewidth=1.5)
    panel.set_ylim(*_settling([band for _, band in lines]))
    logarithmic(panel)
    panel.set_xlabel("step")
