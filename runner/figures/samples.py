"""What the fits look like: draws of a few of them over draws of their targets, in the target's own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.figures.pictures import Picture, choose, draws, held_at, noted, within_budget
from runner.figures.study import View
from runner.figures.style import FAINT, INK, PAPER, Block, Placed, colours, heading, legend, sheet, shorten, word

BINS = 48
COORDINATES = ("x0", "x1", "x2")  # a third one says that the target cannot be drawn
CAPTION = (
    "Grey: draws of the target. Colour: draws of one fit, of the lowest seed, with its coverage and "
    "sharpness. Grey without colour is what a fit lost; colour without grey is what it made up. Of a numeric axis: its "
    "ends, and the level whose mean coverage and sharpness are highest together."
)


def draw(folder: Path, views: Sequence[View]) -> Any | None:
    """A panel for each target of one or two dimensions and each telling level of the most telling axis."""
    if not (folder / "samples.parquet").exists():
        return None
    chosen = {view.experiment: choose(view) for view in views}
    ids = [picture.cell["cell_id"] for pictures in chosen.values() for picture in pictures]
    fits = _draws(folder / "samples.parquet", "cell_id", ids)
    chosen = {name: [p for p in pictures if p.cell["cell_id"] in fits] for name, pictures in chosen.items()}
    chosen = within_budget({name: pictures for name, pictures in chosen.items() if pictures})
    if not chosen:
        return None
    names = sorted({p.target for pictures in chosen.values() for p in pictures})
    targets = _draws(folder / "targets.parquet", "target", names)
    labels = noted(folder / "targets.parquet", "coordinates")
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


def _draws(path: Path, key: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> draws of shape (n, 1) or (n, 2); what has more dimensions, or no draws, is left out."""
    found = draws(path, key, names, COORDINATES)
    return {name: values for name, values in found.items() if values.shape[1] < len(COORDINATES)}


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
    title = f"{shorten(picture.target, 28)}\n{'  '.join(picture.numbers)}"
    panel.set_title(title, loc="left", pad=3, fontsize=7.5)
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
    if len(view.axes) > 1:
        groups["held at"] = held_at(view.axes[1:], pictures)
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
