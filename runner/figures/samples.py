"""What the fits look like: draws of a few of them over draws of their targets, in the target's own units."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from runner.figures.study import QUESTION, View, telling_levels
from runner.figures.style import FAINT, INK, PAPER, Block, Placed, colours, heading, legend, sheet, shorten, word
from runner.store.reading import rows_of

MOST_PANELS = 24
MOST_LEVELS = 4
BINS = 48
COORDINATES = ("x0", "x1", "x2")  # a third one says that the target cannot be drawn
CAPTION = (
    "Grey: draws of the target. Colour: draws of one fit, of the lowest seed, with its coverage and "
    "sharpness. Grey without colour is what a fit lost; colour without grey is what it made up. Of a numeric axis: its "
    "ends, and the level whose mean coverage and sharpness are highest together."
)


@dataclass(frozen=True)
class Picture:
    """One panel to be drawn: a target, a level of the most telling axis, and the cell that stands for it."""

    target: str
    level: Any
    cell: Mapping[str, Any]


def draw(folder: Path, views: Sequence[View]) -> Any | None:
    """A panel for each target of one or two dimensions and each telling level of the most telling axis."""
    if not (folder / "samples.parquet").exists():
        return None
    chosen = {view.experiment: _pictures(view) for view in views}
    ids = [picture.cell["cell_id"] for pictures in chosen.values() for picture in pictures]
    fits = _draws(folder / "samples.parquet", "cell_id", ids)
    chosen = {name: [p for p in pictures if p.cell["cell_id"] in fits] for name, pictures in chosen.items()}
    chosen = _within_budget({name: pictures for name, pictures in chosen.items() if pictures})
    if not chosen:
        return None
    names = sorted({p.target for pictures in chosen.values() for p in pictures})
    targets = _draws(folder / "targets.parquet", "target", names)
    labels = _coordinates(folder / "targets.parquet")
    shown = [view for view in views if view.experiment in chosen]
    figure, placed = sheet([_block(view, chosen[view.experiment]) for view in shown])
    for view, place in zip(shown, placed, strict=True):
        pictures = chosen[view.experiment]
        frames = _frames(pictures, fits, targets)
        colour = colours(view.axes[0] if view.axes else None)
        for i, (panel, picture) in enumerate(zip(place.axes, pictures, strict=True)):
            fit, frame = fits[picture.cell["cell_id"]], frames[picture.target]
            _panel(panel, fit, targets.get(picture.target), frame, colour.get(picture.level, INK))
            first = i % place.block.columns == 0 or pictures[i - 1].target != picture.target
            _label(panel, picture, frame, labels.get(picture.target, ()) if first else None)
            _say_outside(panel, fit, frame)
        _explain(figure, place, view, pictures, bool(targets))
    return figure


def _pictures(view: View) -> list[Picture]:
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


def _draws(path: Path, key: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> draws of shape (n, 1) or (n, 2); what has more dimensions, or no draws, is left out."""
    if not path.exists() or not names:
        return {}
    table = rows_of(path, key, names, [key, *COORDINATES])
    held = [name for name in table.column_names if name != key]
    draws = {}
    for name, rows in table.to_pandas().groupby(key, sort=False):
        values = rows[held].to_numpy(float)
        used = values[:, ~np.isnan(values).all(axis=0)]
        if used.shape[1] in (1, 2):
            draws[str(name)] = used[np.isfinite(used).all(axis=1)]
    return {name: values for name, values in draws.items() if len(values)}


def _coordinates(path: Path) -> dict[str, list[str]]:
    """Target -> the names and units of its coordinates."""
    if not path.exists():
        return {}
    held: dict[str, list[str]] = json.loads((pq.read_schema(path).metadata or {}).get(b"coordinates", b"{}"))
    return held


def _within_budget(chosen: dict[str, list[Picture]]) -> dict[str, list[Picture]]:
    """Leave out the last target of the experiment with the most panels until all fit on a page."""
    while sum(map(len, chosen.values())) > MOST_PANELS:
        longest = max(chosen, key=lambda name: len(chosen[name]))
        last = chosen[longest][-1].target
        chosen = {**chosen, longest: [p for p in chosen[longest] if p.target != last]}
        if not chosen[longest]:
            del chosen[longest]
    return chosen


def _block(view: View, pictures: Sequence[Picture]) -> Block:
    """As many columns as keep the panels of a target beside each other."""
    each = max(sum(p.target == target for p in pictures) for target in view.targets)
    columns = max(2, 4 // each * each)
    shown = len({picture.target for picture in pictures})
    return Block(heading(view, shown), len(pictures), columns, height=1.5, gap=0.42, foot=0.45, head=0.42)


Frame = tuple[tuple[float, float], ...]


def _frames(
    pictures: Sequence[Picture], fits: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]
) -> dict[str, Frame]:
    """The part of the plane to show of each target: where it is or, if unknown, where its fits are."""
    frames = {}
    for name in dict.fromkeys(picture.target for picture in pictures):
        own = [fits[picture.cell["cell_id"]] for picture in pictures if picture.target == name]
        points = targets[name] if name in targets else np.concatenate(own)
        frames[name] = tuple(_limits(column) for column in points.T)
    return frames


def _limits(column: np.ndarray) -> tuple[float, float]:
    """What holds nearly all of a column, with a margin; heavy tails are cut."""
    low, high = np.quantile(column, [0.005, 0.995])
    margin = 0.25 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _panel(panel: Any, fit: np.ndarray, target: np.ndarray | None, frame: Frame, colour: Any) -> None:
    if len(frame) == 1:
        bins = np.linspace(*frame[0], BINS + 1)
        if target is not None:
            _outline(panel, target, bins, color=FAINT, alpha=0.55, fill=True, linewidth=0)
        # A fit has fewer draws than its target, so its bins are wider.
        _outline(panel, fit, bins[::2], color=colour, linewidth=1.4)
        panel.set_ylim(bottom=0)
    else:
        if target is not None:
            panel.scatter(*target.T, s=5, color=FAINT, alpha=0.45, linewidth=0)
        panel.scatter(*fit.T, s=6, color=colour, alpha=0.6, linewidth=0)
        panel.set_ylim(*frame[1])
    panel.set_xlim(*frame[0])
    panel.grid(False)


def _outline(panel: Any, points: np.ndarray, bins: np.ndarray, **look: Any) -> None:
    """The density of points in one dimension, of which those outside the bins are part."""
    counts, _ = np.histogram(points[:, 0], bins)
    panel.stairs(counts / len(points) / np.diff(bins), bins, **look)


def _label(panel: Any, picture: Picture, frame: Frame, coordinates: Sequence[str] | None) -> None:
    """Name a panel; only the first panel of a target has its coordinates' names and the y axis's numbers."""
    numbers = [f"{name} {picture.cell[name]:.2f}" for name in QUESTION if name in picture.cell]
    panel.set_title(shorten(picture.target, 28) + "\n" + "  ".join(numbers), loc="left", pad=3, fontsize=7.5)
    panel.locator_params(axis="x", nbins=4)
    panel.tick_params(labelsize=7, labelleft=coordinates is not None)
    if len(frame) == 1:
        panel.set_yticks([])
    if coordinates:
        panel.set_xlabel(shorten(coordinates[0], 26), fontsize=7.5, labelpad=1)
    if coordinates and len(coordinates) > 1:
        panel.set_ylabel(shorten(coordinates[1], 26), fontsize=7.5, labelpad=1)


def _explain(figure: Any, place: Placed, view: View, pictures: Sequence[Picture], known: bool) -> None:
    main = view.axes[0] if view.axes else None
    dot = {"marker": "o", "linestyle": "none", "markersize": 6}
    levels = dict.fromkeys(picture.level for picture in pictures)
    fits = [(word(v) if main else "fit", {**dot, "color": colours(main).get(v, INK)}) for v in levels]
    groups = {main.label if main else "": fits}
    held = {axis.name: {picture.cell[axis.name] for picture in pictures} for axis in view.axes[1:]}
    if held:
        unseen = {"linestyle": "none"}
        values = {name: word(next(iter(v))) if len(v) == 1 else "several" for name, v in held.items()}
        groups["held at"] = [(f"{name} {value}", unseen) for name, value in values.items()]
    if known:
        groups["the target"] = [("its own draws", {**dot, "color": FAINT})]
    legend(figure, place, groups)


def _say_outside(panel: Any, fit: np.ndarray, frame: Frame) -> None:
    """Say how much of the fit the panel cannot show."""
    inside = np.all([(low <= x) & (x <= high) for x, (low, high) in zip(fit.T, frame, strict=True)], axis=0)
    outside = 1 - inside.mean()
    if outside > 0.02:
        label = f"{outside:.0%} outside"
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": PAPER, "pad": 1.5}
        panel.text(
            0.98,
            0.95,
            label,
            transform=panel.transAxes,
            ha="right",
            va="top",
            fontsize=7,
            color=INK,
            bbox=box,
        )
