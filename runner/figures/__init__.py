"""Figures: what a sweep's tables say, as pictures for a page. They are made from the tables alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner.figures import axes, coverage_sharpness, curves, images, lines, maps, samples
from runner.figures.study import Study, View, read_study
from runner.figures.style import RC
from runner.store.files import replacing

DPI = 150

FIGURES = {
    "coverage_sharpness": {"title": "Coverage against sharpness", "caption": coverage_sharpness.CAPTION},
    "lines": {"title": "Along an axis"},
    "maps": {"title": "Two axes at once", "caption": maps.CAPTION},
    "axes": {"title": "Axis by axis", "caption": axes.CAPTION},
    "samples": {"title": "What the fits look like", "caption": samples.CAPTION},
    "images": {"title": "Images that the fits make", "caption": images.CAPTION},
    "curves": {"title": "Training", "caption": curves.CAPTION},
}


def about(name: str, views: Sequence[View]) -> dict[str, str]:
    """Title and caption of a figure of these views."""
    return {"caption": lines.caption(views), **FIGURES[name]} if name == "lines" else FIGURES[name]


def write_figures(folder: Path, study: Study | None = None) -> list[Path]:
    """Draw the figures of a results folder to ``folder/figures/<name>.png``, in the order of reading.

    A figure that the tables have nothing for (no coverage, nothing varies, no samples of one or two
    dimensions, no images) is left out, and one of an earlier run is removed.

    Args:
        folder: the results folder.
        study: what ``read_study`` reads from it, where that is already at hand.

    Raises:
        StoreError: a figure cannot be written.
    """
    study = study or read_study(folder)
    drawings: dict[str, Callable[[], Any]] = {
        "coverage_sharpness": lambda: coverage_sharpness.draw(study.views),
        "lines": lambda: lines.draw(study.views),
        "maps": lambda: maps.draw(study.views),
        "axes": lambda: axes.draw(study.views),
        "samples": lambda: samples.draw(folder, study.views),
        "images": lambda: images.draw(folder, study.views),
        "curves": lambda: curves.draw(folder, study.views),
    }
    from matplotlib import rc_context

    written = []
    for name, draw in drawings.items():
        path = folder / "figures" / f"{name}.png"
        with rc_context(dict(RC)):
            figure = draw()
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            with replacing(path) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI)
        written.append(path)
    return written
