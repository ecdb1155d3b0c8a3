"""What a study found: sentences, a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from runner.figures.style import FAINT, INK, PAPER, WORDS

LEVELS = (0.5, 0.9, 0.99)  # mass inside the contours of a Gaussian


@dataclass(frozen=True)
class Finding:
    """One study.

    Args:
        said: sentences with the numbers measured.
        table: small enough to be read.
        figure: a matplotlib figure, or None.
        caption: of the figure.
        pictures: more figures, by path below the folder of results, without suffix: for pages of docs/.
    """

    said: Sequence[str]
    table: pd.DataFrame
    figure: Any | None = None
    caption: str = ""
    pictures: Mapping[str, Any] = field(default_factory=dict)


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, np.ndarray]:
    """A figure with a grid of panels, sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def ellipses(panel: Any, mean: np.ndarray, covariance: np.ndarray, **look: Any) -> None:
    """Contours of a Gaussian in the plane that hold half, 90 % and 99 % of its mass."""
    turn = np.linspace(0, 2 * np.pi, 200)
    factor = np.linalg.cholesky(covariance)
    for level in LEVELS:
        circle = np.sqrt(stats.chi2.ppf(level, 2)) * np.stack([np.cos(turn), np.sin(turn)])
        panel.plot(*(np.asarray(mean)[:, None] + factor @ circle), **{"linewidth": 1.2, **look})


def shade(panel: Any, log_prob: Any, limits: tuple[float, float]) -> None:
    """A density in the plane as filled grey contours."""
    grid = np.linspace(*limits, 161)
    x, y = np.meshgrid(grid, grid)
    density = np.exp(log_prob(np.stack([x.ravel(), y.ravel()], axis=1))).reshape(x.shape)
    panel.contourf(x, y, density, levels=np.linspace(0.04, 1, 8) * density.max(), cmap="Greys", alpha=0.75)
    panel.set(xlim=limits, ylim=limits, aspect="equal")
    panel.grid(False)


def spans(panel: Any, at: Sequence[int], rows: pd.DataFrame, words: Sequence[str]) -> None:
    """From sharpness to coverage, a line for each row, with a word beside it."""
    blue, red = WORDS[:2]
    panel.hlines(at, rows["sharpness"], rows["coverage"], color=FAINT, linewidth=1.2, zorder=1)
    panel.scatter(rows["coverage"], at, marker="s", s=34, color=blue, label="coverage", zorder=3)
    panel.scatter(rows["sharpness"], at, marker="o", s=22, color=red, label="sharpness", zorder=3)
    for y, word in zip(at, words, strict=True):
        panel.text(1.1, y, word, fontsize=7, va="center")


def boundary(panel: Any, at: float, text: str, height: float = 0.98) -> None:
    """A vertical line where something changes, with its number."""
    panel.axvline(at, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    box = {"facecolor": "white", "edgecolor": PAPER, "pad": 1.2, "alpha": 0.9}
    panel.text(at, height, text, transform=panel.get_xaxis_transform(), fontsize=7, ha="center", va="top", bbox=box)
