"""Each varying axis on its own: coverage and sharpness against it, the other axes averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from runner.figures.study import QUESTION, Axis, View
from runner.figures.style import (
    DASHES,
    FAINT,
    FOOT,
    INK,
    TARGETS,
    Block,
    Placed,
    legend,
    logarithmic,
    sheet,
    shorten,
    word,
)
from runner.summary import statistics

MOST_AXES = 6
MOST_TICKS = 8
DODGE = 0.25  # between the first and the last target at one word, so that no interval hides another
CAPTION = (
    "One axis at a time, averaged over the other axes; bars are 95 % intervals over seeds. Where the line is "
    "flat, the axis decides nothing on average; it may at single values of the others. Dashes, where there are "
    "any, tell apart the most telling axis."
)


def draw(views: Sequence[View]) -> Any | None:
    """For each experiment, a row for each varying axis; None where nothing varies."""
    shown = [view for view in views if view.axes and view.measures and len(view.cells)]
    if not shown:
        return None
    blocks = [
        Block(
            view.experiment,
            len(_axes(view)) * len(view.measures),
            columns=len(view.measures),
            height=1.7,
            gap=0.6,
            foot=FOOT,
        )
        for view in shown
    ]
    figure, placed = sheet(blocks)
    for view, place in zip(shown, placed, strict=True):
        panels = iter(place.axes)
        for axis in _axes(view):
            for measure in view.measures:
                _panel(next(panels), view, axis, measure)
        _explain(figure, place, view)
    return figure


def _axes(view: View) -> tuple[Axis, ...]:
    return view.axes[:MOST_AXES]


def _split(view: View, axis: Axis) -> Axis | None:
    """The most telling axis, if dashes can tell its levels apart: averaging over it would hide the answer."""
    main = view.axes[0]
    return main if main is not axis and not main.numeric and len(main.levels) <= len(DASHES) else None


def marginal(cells: pd.DataFrame, by: Sequence[str], measure: str) -> pd.DataFrame:
    """Mean of a measure for each combination of ``by``, and its 95 % interval over seeds.

    Seeds are the independent repetitions: a seed's cells are averaged first, then Student's t interval is
    taken over seeds, NaN where there is only one.
    """
    each = cells.groupby([*by, "seed"], observed=True, sort=False)[measure].mean().reset_index()
    groups = each.groupby(list(by), observed=True)
    codes = groups.ngroup().to_numpy()
    points = each.loc[np.unique(codes, return_index=True)[1], list(by)].reset_index(drop=True)
    mean, _, low, high = statistics(each[measure].to_numpy(), codes, np.ones(len(codes), bool), len(points))
    return points.assign(mean=mean, low=low, high=high)


def interval(points: pd.DataFrame, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the intervals of ``marginal``, as they are drawn; those of a share end where shares do."""
    low, high = points["low"].to_numpy(), points["high"].to_numpy()
    return (low.clip(0, 1), high.clip(0, 1)) if measure in QUESTION else (low, high)


def _lines(view: View, axis: Axis, measure: str) -> Iterator[tuple[str | None, int, pd.DataFrame]]:
    """The lines of a panel, as (target or None for their mean, number of the dash, points)."""
    cells = view.cells.dropna(subset=[axis.name, measure])
    split = _split(view, axis)
    dashes = {level: i for i, level in enumerate(split.levels)} if split else {}
    cells = cells.assign(dash=cells[split.name].map(dashes) if split else 0)
    each = marginal(cells, ["target", "dash", axis.name], measure)
    for dash in sorted(dashes.values()) or [0]:
        for target in view.targets:
            yield target, dash, each[(each["target"] == target) & (each["dash"] == dash)]
        if len(view.targets) > len(TARGETS):
            yield None, dash, marginal(cells[cells["dash"] == dash], [axis.name], measure)


def _panel(panel: Any, view: View, axis: Axis, measure: str) -> None:
    colour = _target_colours(view)
    grey = None in colour
    for target, dash, points in _lines(view, axis, measure):
        x = np.array([axis.position(level) for level in points[axis.name]])
        if axis.ordinal and target and not grey:
            x += DODGE * ((view.targets.index(target) + 0.5) / len(view.targets) - 0.5)
        order = np.argsort(x)
        x, y, low, high = (a[order] for a in (x, points["mean"].to_numpy(), *interval(points, measure)))
        look = {"linewidth": 0.6} if grey and target else {"linewidth": 2.2 if grey else 1.4, "marker": "o"}
        panel.plot(x, y, color=colour[target], linestyle=DASHES[dash], markersize=3.5, **look)
        if not (grey and target):
            panel.vlines(x, low, high, color=colour[target], linewidth=0.9, alpha=0.7)
    panel.set_title(measure, loc="left", pad=4)
    panel.set_xlabel(axis.label)
    if measure in QUESTION:
        panel.set(ylim=(-0.05, 1.08), yticks=(0, 0.5, 1))
    ticks(panel, axis)


def ticks(panel: Any, axis: Axis, most: int = MOST_TICKS) -> None:
    """Place and name an axis's levels along x."""
    if axis.logarithmic:
        logarithmic(panel, span=axis.levels[-1] / axis.levels[0])
    if axis.ordinal or len(axis.levels) <= most:
        shown = _apart(axis, axis.extremes(most))
        panel.set_xticks([axis.position(level) for level in shown], [shorten(word(v), 20) for v in shown])
    if axis.ordinal:
        panel.set_xlim(-0.5, len(axis.levels) - 0.5)
        letters = sum(len(shorten(word(v), 20)) for v in axis.levels)
        if letters > 45:
            panel.tick_params(axis="x", labelsize=7, rotation=12 if letters > 60 else 0)


def _apart(axis: Axis, levels: Sequence[Any]) -> list[Any]:
    """Those of them whose names do not run into each other, the last among them."""
    if axis.ordinal or axis.logarithmic:
        return list(levels)
    room = (axis.levels[-1] - axis.levels[0]) / 12
    kept = [levels[-1]]
    for level in reversed(levels[:-1]):
        if kept[-1] - level >= room:
            kept.append(level)
    return kept[::-1]


def _target_colours(view: View) -> dict[str | None, str]:
    """One colour for each target; with too many of them all are grey, and their mean (None) is drawn bold."""
    if len(view.targets) > len(TARGETS):
        return {**dict.fromkeys(view.targets, FAINT), None: INK}
    return dict(zip(view.targets, TARGETS, strict=False))


def _explain(figure: Any, place: Placed, view: View) -> None:
    colour = _target_colours(view)
    look = {"marker": "o", "markersize": 4}
    if None in colour:
        entries = [
            ("each target", {"color": FAINT, "linewidth": 0.6}),
            ("mean of targets", {"color": INK, **look}),
        ]
    else:
        entries = [(str(target), {"color": paint, **look}) for target, paint in colour.items()]
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {"target": entries}
    split = _split(view, view.axes[1]) if len(view.axes) > 1 else None
    if split:
        groups[split.label] = [
            (word(level), {"color": INK, "linestyle": dash}) for level, dash in zip(split.levels, DASHES, strict=False)
        ]
    legend(figure, place, groups)
