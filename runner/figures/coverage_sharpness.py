"""The figure that answers the sweep's question: what each configuration keeps, against what it gives up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from runner.figures.study import Axis, View, parts
from runner.figures.style import (
    FAINT,
    INK,
    MARKERS,
    Block,
    Placed,
    colours,
    legend,
    sheet,
    shorten,
    swatches,
    word,
)

MOST_PANELS = 12  # targets beyond this share one panel
MOST_BARS = 200  # intervals of more points than this hide the points
CAPTION = (
    "Each point is a configuration, its bars 95 % intervals over seeds. To the right: more of the target is "
    "kept. Higher up: fewer implausible samples. The grey line joins the configurations that no other beats "
    "in both; the star is the ideal."
)


def draw(views: Sequence[View]) -> Any | None:
    """A panel for each experiment and target, or None where no experiment reports both measures."""
    shown = [view for view in views if view.answers]
    if not shown:
        return None
    blocks = [_block(view) for view in shown]
    figure, placed = sheet(blocks)
    for view, place in zip(shown, placed, strict=True):
        marked = _marked_axis(view)
        for i, (panel, (title, rows)) in enumerate(zip(place.axes, _panels(view), strict=True)):
            _frame(panel, place, i, title)
            _points(panel, rows, view.axes[0] if view.axes else None, marked)
            if title in view.targets:
                _frontier(panel, rows)
        _explain(figure, place, view, marked)
    return figure


def _block(view: View) -> Block:
    panels = len(_panels(view))
    columns = {1: 2, 2: 2, 3: 3, 5: 3, 6: 3, 9: 3}.get(panels, 4)
    return Block(view.experiment, panels, columns, height={2: 3.3, 3: 2.3}.get(columns, 1.75))


def _panels(view: View) -> list[tuple[str, pd.DataFrame]]:
    if len(view.targets) > MOST_PANELS:
        return [(f"all {len(view.targets)} targets", view.summary)]
    return [(target, view.summary[view.summary["target"] == target]) for target in view.targets]


def _marked_axis(view: View) -> Axis | None:
    """The axis shown by the marker: the second most telling that has few enough levels."""
    return next((axis for axis in view.axes[1:] if len(axis.levels) <= len(MARKERS)), None)


def _frame(panel: Any, place: Placed, i: int, title: str) -> None:
    columns = place.block.columns
    panel.set_title(shorten(title, 96 // columns), loc="left", pad=4)
    panel.set(xlim=(-0.05, 1.08), ylim=(-0.05, 1.08), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    if place.block.is_lowest(i):
        panel.set_xlabel("coverage")
    else:
        panel.tick_params(labelbottom=False)
    if i % columns == 0:
        panel.set_ylabel("sharpness")
    else:
        panel.tick_params(labelleft=False)
    panel.scatter([1], [1], marker="*", s=170, facecolor="none", edgecolor=FAINT, linewidth=0.8, zorder=1)


def _points(panel: Any, rows: pd.DataFrame, main: Axis | None, marked: Axis | None) -> None:
    few = len(rows) <= MOST_BARS
    colour = colours(main)
    shapes = dict(zip(marked.levels, MARKERS, strict=False)) if marked else {}
    for i, (level, same) in enumerate(parts(rows, main)):
        paint = colour.get(level, FAINT) if main else INK
        if few:
            _bars(panel, same, paint)
        # Large ones first, smaller ones over them: where levels agree, all of them still show.
        size = 60 - 40 * i / len(main.levels) if main and few else 36 if few else 10
        for mark, shown in parts(same, marked):
            panel.scatter(
                shown["coverage_mean"],
                shown["sharpness_mean"],
                marker=shapes.get(mark, "o"),
                s=size,
                color=[paint],
                edgecolor="white",
                linewidth=0.6,
                alpha=0.9,
                zorder=3,
            )


def _bars(panel: Any, rows: pd.DataFrame, paint: Any) -> None:
    """Intervals of both means; those of a share end where shares do."""
    for measure, lines, at in (
        ("coverage", panel.hlines, rows["sharpness_mean"]),
        ("sharpness", panel.vlines, rows["coverage_mean"]),
    ):
        low, high = (rows[f"{measure}_ci_{end}"].clip(0, 1) for end in ("low", "high"))
        lines(at, low, high, colors=[paint], linewidth=0.9, alpha=0.6, zorder=2)


def _frontier(panel: Any, rows: pd.DataFrame) -> None:
    best = rows[rows["pareto"].fillna(False).astype(bool)].sort_values("coverage_mean")
    # Between two of its points, the frontier reaches only as high as the one that covers more.
    panel.plot(
        best["coverage_mean"],
        best["sharpness_mean"],
        drawstyle="steps-pre",
        color=FAINT,
        linewidth=0.9,
        zorder=1,
    )


def _explain(figure: Any, place: Placed, view: View, marked: Axis | None) -> None:
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 6}
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    if view.axes:
        groups[view.axes[0].label] = swatches(view.axes[0], **dot)
    if marked:
        groups[marked.label] = [
            (word(level), {**dot, "marker": shape, "color": INK})
            for level, shape in zip(marked.levels, MARKERS, strict=False)
        ]
    star = {"marker": "*", "markersize": 12, "markerfacecolor": "none", "color": FAINT, "linestyle": "none"}
    marks: list[tuple[str, dict[str, Any]]] = [("ideal", star)]
    if len(view.targets) <= MOST_PANELS:
        marks.append(("not beaten in both", {"color": FAINT, "linewidth": 0.9}))
    legend(figure, place, {**groups, "": marks})
