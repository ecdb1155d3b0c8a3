"""What the fits make where a target's points are images: a few of their draws as pictures, beside real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.figures.pictures import Picture, choose, draws, held_at, noted, within_budget
from runner.figures.study import Axis, View, telling_levels
from runner.figures.style import LEFT, LEGEND, PAGE, Block, legend, sheet, shorten, word

ACROSS = 5  # images in a row of a mosaic, and rows of them
MOST_ROWS = 3  # of panels
LEAST_COLUMNS = 4
GAP = 0.25  # inches between panels
LINE = 0.13  # inches, of a title
CAPTION = (
    "Left: images of the target. Beside them the first draws of one fit in each panel, of the lowest seed, with its "
    "coverage and sharpness. Across: the most telling axis; down: the next one. Of a numeric axis: its ends, and the "
    "level whose mean coverage and sharpness are highest together. In all panels black is the least number in the "
    "target and white the greatest, and what lies beyond is cut."
)


@dataclass(frozen=True)
class Sheet:
    """The panels of one experiment and target: a row for each level of the next axis, by level of the most telling."""

    view: View
    target: str
    rows: Mapping[Any, Mapping[Any, Picture]]

    @property
    def levels(self) -> tuple[Any, ...]:
        """Of the most telling axis, from left to right."""
        found = {level for row in self.rows.values() for level in row}
        return tuple(level for level in self.view.axes[0].levels if level in found) if self.view.axes else (None,)

    @property
    def columns(self) -> int:
        """The target's own, and one for each level; a few more are left empty, so that panels stay small."""
        return max(LEAST_COLUMNS, 1 + len(self.levels))


def draw(folder: Path, views: Sequence[View]) -> Any | None:
    """Mosaics of each target of images and of its fits at telling levels of the two most telling axes."""
    shapes = {name: (rows, columns) for name, (rows, columns) in noted(folder / "targets.parquet", "images").items()}
    if not shapes or not (folder / "samples.parquet").exists():
        return None
    chosen = {view.experiment: [p for p in _pictures(view) if p.target in shapes] for view in views}
    pixels = [f"x{i}" for i in range(max(rows * columns for rows, columns in shapes.values()))]
    ids = [picture.cell["cell_id"] for pictures in chosen.values() for picture in pictures]
    fits = draws(folder / "samples.parquet", "cell_id", ids, pixels)
    chosen = {name: [p for p in pictures if p.cell["cell_id"] in fits] for name, pictures in chosen.items()}
    chosen = within_budget({name: pictures for name, pictures in chosen.items() if pictures})
    if not chosen:
        return None
    sheets = [found for view in views for found in _sheets(view, chosen.get(view.experiment, ()))]
    targets = draws(folder / "targets.parquet", "target", sorted({found.target for found in sheets}), pixels)
    figure, placed = sheet([_block(found, shapes[found.target]) for found in sheets])
    for found, place in zip(sheets, placed, strict=True):
        _fill(found, place.axes, fits, targets[found.target], shapes[found.target])
        if len(found.view.axes) > 2:
            shown = [picture for row in found.rows.values() for picture in row.values()]
            legend(figure, place, {"held at": held_at(found.view.axes[2:], shown)})
    return figure


def _pictures(view: View) -> list[Picture]:
    """What ``choose`` does, at each telling level of the second axis."""
    if (axis := _down(view)) is None:
        return choose(view)
    levels = telling_levels(view, MOST_ROWS, axis)
    return [p for level in levels for p in choose(replace(view, cells=view.cells[view.cells[axis.name] == level]))]


def _down(view: View) -> Axis | None:
    return view.axes[1] if len(view.axes) > 1 else None


def _sheets(view: View, pictures: Sequence[Picture]) -> list[Sheet]:
    axis = _down(view)
    found: dict[str, dict[Any, dict[Any, Picture]]] = {}
    for p in pictures:
        found.setdefault(p.target, {}).setdefault(p.cell[axis.name] if axis else None, {})[p.level] = p
    return [Sheet(view, target, rows) for target, rows in found.items()]


def _block(found: Sheet, shape: tuple[int, int]) -> Block:
    """Panels as high as their mosaics."""
    width = (PAGE - LEGEND - LEFT - (found.columns - 1) * GAP) / found.columns
    height = width * min(2.0, shape[0] / shape[1])
    lines = max(len(_lines(found, picture)) for row in found.rows.values() for picture in row.values())
    title = f"{found.view.experiment}: {shorten(found.target, 60)}"
    return Block(title, found.columns * len(found.rows), found.columns, height, gap=GAP, head=0.16 + lines * LINE)


def _fill(
    found: Sheet, panels: Sequence[Any], fits: Mapping[str, np.ndarray], real: np.ndarray, shape: tuple[int, int]
) -> None:
    """In each row other images of the target, then the fits in the columns of their levels."""
    for panel in panels:
        panel.set_axis_off()
    for i, row in enumerate(found.rows.values()):
        first, *others = panels[i * found.columns : (i + 1) * found.columns]
        _panel(first, np.roll(real, -i * ACROSS**2, axis=0), shape, real)
        _label(first, [found.target, "the target"])
        for panel, level in zip(others, found.levels, strict=False):
            if level in row:
                _panel(panel, fits[row[level].cell["cell_id"]], shape, real)
                _label(panel, _lines(found, row[level]))


def _panel(panel: Any, images: np.ndarray, shape: tuple[int, int], real: np.ndarray) -> None:
    panel.imshow(mosaic(images, shape), cmap="gray", vmin=real.min(), vmax=real.max(), interpolation="nearest")
    panel.set_anchor("NW")


def mosaic(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The first 25 of images ``(n, D)``, five to a row; NaN between them, and where there is none."""
    rows, columns = shape
    gap = max(1, min(shape) // 8)
    whole = np.full((ACROSS * (rows + gap) - gap, ACROSS * (columns + gap) - gap), np.nan)
    for i, image in enumerate(images[: ACROSS**2].reshape(-1, rows, columns)):
        top, left = i // ACROSS * (rows + gap), i % ACROSS * (columns + gap)
        whole[top : top + rows, left : left + columns] = image
    return whole


def _lines(found: Sheet, picture: Picture) -> list[str]:
    """The title of a fit's panel; narrow ones have no room for two numbers beside each other."""
    levels = [f"{axis.label} {word(picture.cell[axis.name])}" for axis in found.view.axes[:2]] or ["the fit"]
    numbers = picture.numbers if found.columns > LEAST_COLUMNS else ["  ".join(picture.numbers)]
    return [*levels, *numbers]


def _label(panel: Any, lines: Sequence[str]) -> None:
    panel.set_title("\n".join(shorten(line, 32) for line in lines), loc="left", pad=3, fontsize=7.5)
