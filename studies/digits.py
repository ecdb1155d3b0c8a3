"""VAEs of real images: what is kept over the KL weight, for each number of latent dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.metrics.neighbours import precision_recall
from experiments.targets import Points, named
from runner.figures.style import INK
from studies.finding import Finding, panels

NUMBERS = ("coverage", "sharpness", "active_units", "reconstruction_mse", "rate", "elbo")
SHOWN = {
    "coverage": "coverage",
    "sharpness": "sharpness",
    "active_units": "active units",
    "reconstruction_mse": "squared error of reconstructions",
}
CAPTION = (
    "Means over seeds, by latent dimensions. Dotted: digits that are real, beside as many others. With more dimensions"
    " more is covered, until the prior is left (weights below 1) or the dimensions are not used (above)."
)


def find(cells: pd.DataFrame) -> Finding:
    """A row for each latent size and KL weight."""
    table = cells.groupby(["latent_dim", "kl_weight"])[list(NUMBERS)].mean()
    recall, precision = real(int(cells["train_size"].iloc[0]))
    small, large = table.index.levels[0][[0, -1]]
    light, heavy = table.index.levels[1][[0, -1]]
    best, lightest, heaviest = (table.loc[(large, weight)] for weight in (1.0, light, heavy))
    most = table.loc[small, "coverage"].max()
    said = [
        f"At a KL weight of 1, {best['active_units']:.1f} of {large} latent dimensions are used: coverage"
        f" {best['coverage']:.2f}, sharpness {best['sharpness']:.2f}. {small} dimensions cover {most:.2f} at best; real"
        f" digits beside others {recall:.2f}, at a sharpness of {precision:.2f}.",
        f"With {large} dimensions a weight of {light:g} reconstructs best (squared error"
        f" {lightest['reconstruction_mse']:.2f}, at 1 {best['reconstruction_mse']:.2f}) and draws worst (sharpness"
        f" {lightest['sharpness']:.2f}); one of {heavy:g} uses {heaviest['active_units']:.1f} dimensions, and covers"
        f" {heaviest['coverage']:.2f} at sharpness {heaviest['sharpness']:.3f}.",
    ]
    return Finding(said, table.reset_index().round(4), draw(table, recall, precision), CAPTION)


def real(train_size: int) -> tuple[float, float]:
    """Coverage and sharpness of digits that are real, beside as many others."""
    digits = named.target("digits")
    assert isinstance(digits, Points)
    shuffled = np.random.default_rng(0).permutation(digits.values)
    held_out = len(shuffled) - train_size
    precision, recall = precision_recall(shuffled[:held_out], shuffled[held_out : 2 * held_out])
    return recall, precision


def draw(table: pd.DataFrame, recall: float, precision: float) -> Any:
    """A panel for each number, a line for each latent size."""
    from matplotlib import colormaps

    figure, axes = panels(1, len(SHOWN), 11, 2.6)
    sizes = list(table.index.unique(0))
    for panel, (name, title) in zip(axes[0], SHOWN.items(), strict=True):
        for i, size in enumerate(sizes):
            rows = table.loc[size]
            colour = colormaps["viridis"](0.85 * i / max(1, len(sizes) - 1))
            panel.plot(rows.index, rows[name], marker="o", markersize=3.5, color=colour, label=f"{size}")
        if name in ("coverage", "sharpness"):
            panel.axhline(recall if name == "coverage" else precision, color=INK, linewidth=0.9, linestyle=":")
        panel.set(xscale="log", title=title, xlabel="KL weight")
        panel.set_ylim(bottom=0)
        panel.set_xticks(ticks := list(table.index.unique(1)), [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, title="latent dimensions"
    )
    return figure
