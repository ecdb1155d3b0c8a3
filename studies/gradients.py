"""Estimators of reverse KL's gradient: none, a wrong one, noisy ones, and where sticking the landing loses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from runner.figures.style import FAINT, INK, TARGETS, WORDS
from studies.finding import Finding, boundary, panels

BORDER = 0.5**0.5
DIMS = {"unimodal": 1, "normal4": 4, "normal16": 16, "normal64": 64}
NORMALS = tuple(DIMS)
COLOURS = {
    "score_function": WORDS[4],
    "score_function_baseline": WORDS[2],
    "reparameterization": WORDS[0],
    "sticking_the_landing": WORDS[1],
    "naive": FAINT,
    "blocked": INK,
}
CAPTION = (
    "Left: variance of one sample's gradient against a standard normal (points measured, lines in closed form). Middle:"
    " mean of the derivative along the offset over the exact one; blocked has none. Right: variance of sticking the"
    " landing (STL) over that of plain reparameterization: above 1 it loses."
)


def closed_form(estimator: str, width: float, offset: float, dim: int) -> float:
    """Variance of one sample's gradient by loc and log widths, Q = N(offset, width^2 I) and P = N(0, I).

    .. math:: D w^2 + m^2 w^2 + 2 D w^4, \\quad D (w - 1 / w)^2 + m^2 w^2 + 2 D (w^2 - 1)^2

    with and without the term that sticking the landing leaves out; the second is the smaller where w^2 > 1/2.
    """
    shared = (offset * width) ** 2
    if estimator == "reparameterization":
        return dim * width**2 + shared + 2 * dim * width**4
    return dim * (width - 1 / width) ** 2 + shared + 2 * dim * (width**2 - 1) ** 2


def find(cells: pd.DataFrame) -> Finding:
    """Means and variances of every estimator, and the widths at which the two best change places."""
    cells = cells.assign(share=cells["slope_loc"] / cells["exact_slope_loc"])
    normal = cells[cells["target"].isin(NORMALS) & (cells["samples"] == 16) & (cells["offset"] == 0.5)]
    keys = ["target", "estimator", "width"]
    columns = ["has_gradient", "slope_loc", "slope_loc_se", "exact_slope_loc", "bias", "bias_se", "variance_per_sample"]
    table = normal.groupby(keys, sort=False)[columns].mean().reset_index()
    table["variance_closed_form"] = [
        closed_form(row.estimator, row.width, 0.5, DIMS[row.target])
        if row.estimator in ("reparameterization", "sticking_the_landing")
        else np.nan
        for row in table.itertuples()
    ]
    ratios = _ratios(cells)
    return Finding(_said(cells, table, ratios), table.round(5), _draw(table, ratios), CAPTION)


def _ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """Variance of sticking the landing over that of plain reparameterization: a row for each width."""
    own = cells[(cells["samples"] == 16) & cells["offset"].isin([0.5, 1.0])]
    means = own.pivot_table(index="width", columns=["estimator", "target"], values="variance")
    return means["sticking_the_landing"] / means["reparameterization"]


def border(ratio: pd.Series) -> float:
    """The width at which a ratio falls through 1, on a line between two measured widths in logarithms."""
    ratio = ratio.dropna()
    last = int(np.flatnonzero(ratio.to_numpy() > 1)[-1])
    (x0, x1), (y0, y1) = np.log(ratio.index[last : last + 2]), np.log(ratio.iloc[last : last + 2])
    return float(np.exp(x0 + (x1 - x0) * y0 / (y0 - y1)))


def _said(cells: pd.DataFrame, table: pd.DataFrame, ratios: pd.DataFrame) -> list[str]:
    at = table.set_index(["target", "estimator", "width"])
    variance, naive = at["variance_per_sample"], at.loc[("unimodal", "naive", 1.0)]
    blocked = cells[cells["estimator"] == "blocked"]
    unbiased = cells[~cells["estimator"].isin(["blocked", "naive"])]
    known = table.dropna(subset="variance_closed_form")
    error = (known["variance_per_sample"] / known["variance_closed_form"] - 1).abs().max()
    borders = {name: border(ratios[name]) for name in ratios}
    other = {name: width for name, width in borders.items() if name not in NORMALS}
    count = cells[(cells["target"] == "bimodal_close") & (cells["width"] == 1.0) & (cells["offset"] == 1.0)]
    means = count.groupby(["estimator", "samples"])["variance_per_sample"].mean()
    spread = means.groupby("estimator").agg(lambda v: 1 - v.min() / v.max())

    def times(estimator: str, target: str) -> str:
        return f"{variance[target, estimator, 2.0] / variance[target, 'reparameterization', 2.0]:.1f}"

    return [
        f"`blocked`: none of its {len(blocked)} cells has a gradient. `naive` has one of mean"
        f" {naive['slope_loc']:.4f} +- {naive['slope_loc_se']:.4f} where the exact derivative is"
        f" {naive['exact_slope_loc']:g}: no error is raised, and nothing is learnt.",
        f"The other four are unbiased: of {len(unbiased)} cells none has a bias of more than"
        f" {(unbiased['bias'] / unbiased['bias_se']).max():.1f} standard errors.",
        f"Against a normal, sticking the landing loses below a width of 1 / sqrt(2) = {BORDER:.4f}, in every dimension:"
        f" measured {', '.join(f'{borders[name]:.3f}' for name in NORMALS)} for D = 1, 4, 16, 64. At width 0.5 its"
        f" variance is {ratios.loc[0.5, 'unimodal']:.1f} times that of plain reparameterization, at 0.25"
        f" {ratios.loc[0.25, 'unimodal']:.0f} times, at 1"
        f" {ratios.loc[1.0, 'unimodal']:.3f} times. Both are within {error:.1%} of closed forms.",
        "Elsewhere the border lies at " + ", ".join(f"{width:.2f} ({name})" for name, width in other.items()) + ".",
        f"At width 2 the score function has {times('score_function', 'unimodal')} times the variance of"
        f" reparameterization in one dimension and {times('score_function', 'normal64')} times in 64; with a baseline"
        f" {times('score_function_baseline', 'unimodal')} and {times('score_function_baseline', 'normal64')} times.",
        "From 2 to 128 samples variance times samples stays within"
        f" {spread[['reparameterization', 'sticking_the_landing']].max():.0%} for the two that are reparameterized.",
    ]


def _draw(table: pd.DataFrame, ratios: pd.DataFrame) -> Any:
    figure, axes = panels(1, 3, 10, 3.6)
    one = table[table["target"] == "unimodal"]
    width = np.geomspace(0.25, 2, 60)
    for name, colour in COLOURS.items():
        own = one[one["estimator"] == name]
        if name in ("reparameterization", "sticking_the_landing"):
            line = [closed_form(name, w, 0.5, 1) for w in width]
            axes[0, 0].plot(width, line, color=colour, linewidth=1.2)
        if name != "blocked":
            axes[0, 0].scatter(own["width"], own["variance_per_sample"], color=colour, s=18, label=name, zorder=3)
        rows = own[own["has_gradient"] == 1]
        axes[0, 1].errorbar(
            rows["width"],
            rows["slope_loc"] / rows["exact_slope_loc"],
            2 * rows["slope_loc_se"] / rows["exact_slope_loc"],
            color=colour,
            fmt="o",
            markersize=3.5,
            linewidth=0.9,
        )
    look = {"transform": axes[0, 1].transAxes, "fontsize": 8, "ha": "center"}
    axes[0, 1].text(0.5, 0.4, "blocked: no gradient at all", **look)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=5, fontsize=8)
    for k, name in enumerate(ratios):
        own = ratios[name].dropna()
        look = {"color": INK, "linewidth": 1.4} if name in NORMALS else {"color": TARGETS[k % len(TARGETS)]}
        label = "normals" if name == "unimodal" else "_" if name in NORMALS else name
        axes[0, 2].plot(own.index, own, **{"linewidth": 1.0, "label": label, **look})
        if name in NORMALS:
            dip = own.idxmin()
            look = {"fontsize": 7, "va": "center", "xytext": (19, 0), "textcoords": "offset points"}
            arrow = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 1}
            axes[0, 2].annotate(f"D = {DIMS[name]}", (dip, own[dip]), arrowprops=arrow, **look)
    axes[0, 2].axhline(1, color=FAINT, linewidth=0.9)
    figure.legend(*axes[0, 2].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    titles = ("variance of one sample [nats²]", "mean over exact", "variance ratio, STL over plain")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set(xscale="log", title=title, xlabel="width of Q / width of the target")
        panel.set(xticks=(0.125, 0.25, 0.5, 1, 2) if panel is axes[0, 2] else (0.25, 0.5, 1, 2))
        panel.set_xticklabels([f"{tick:g}" for tick in panel.get_xticks()])
        panel.minorticks_off()
    for panel in (axes[0, 0], axes[0, 2]):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        boundary(panel, BORDER, "0.707", 0.1)
    axes[0, 1].set_ylim(-0.3, 1.9)
    return figure
