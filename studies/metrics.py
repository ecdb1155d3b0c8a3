"""How each metric responds to known damage: one picture for each page of docs/metrics, all with the same panels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from runner.figures.style import INK, WORDS
from studies.damage import DAMAGES, TARGETS, responses
from studies.finding import Finding, panels

COLOURS = dict(zip(TARGETS, WORDS, strict=False))
WORDING = {"grid25": "grid25: 25 modes in the plane", "multimodal": "multimodal: 8 modes on a line"}
TICKS = {
    "lost": (0, 0.5, 1),
    "width": (0.25, 0.5, 1, 2, 4),
    "tilt": (1, 10, 100, 1000),
    "blur": (0, 0.5, 1),
    "shift": (0, 2, 4),
}

At = tuple[str, str, float]
"""A target, a damage and its level."""


@dataclass(frozen=True)
class Page:
    """What the picture of a page shows.

    Args:
        columns: a row of panels for each.
        limits: of every panel; those of a logarithmic axis are in nats too.
        fails: where the metric misses the damage or mistakes it, ringed in the first row of panels.
        symlog: the value up to which the axis is linear; None where all of it is.
        share: whether the axis is divided by the number of modes.
    """

    columns: tuple[str, ...]
    limits: tuple[float, float]
    fails: tuple[At, ...] = ()
    symlog: float | None = None
    share: bool = False


SHARE = (-0.03, 1.12)
PAGES: Mapping[str, Page] = {
    "coverage": Page(("coverage",), SHARE, (("grid25", "blur", 1), ("grid25", "width", 0.5))),
    "sharpness": Page(("sharpness",), SHARE, (("grid25", "lost", 0.96), ("grid25", "width", 0.5))),
    "knn": Page(
        ("knn_precision", "knn_recall", "knn_density", "knn_coverage"), (-0.03, 1.3), (("grid25", "lost", 0.96),)
    ),
    "high_quality": Page(("high_quality",), SHARE, (("grid25", "lost", 0.96), ("grid25", "width", 0.25))),
    "modes_captured": Page(
        ("modes_captured",), SHARE, (("grid25", "blur", 0.8), ("grid25", "width", 0.25)), share=True
    ),
    "capture_area": Page(("capture_area",), SHARE, (("grid25", "width", 0.5),)),
    "collapse_invoice": Page(("collapse_invoice",), (-0.15, 3.8), (("grid25", "blur", 0.8), ("grid25", "width", 4))),
    "entropic_coverage": Page(("entropic_coverage",), SHARE, (("grid25", "blur", 1), ("grid25", "lost", 0.52))),
    "effective_modes": Page(("effective_modes",), SHARE, (("grid25", "blur", 1), ("grid25", "width", 4))),
    "gated_entropic_coverage": Page(
        ("gated_entropic_coverage",), SHARE, (("grid25", "lost", 0.52), ("grid25", "width", 0.25))
    ),
    "ess_reverse": Page(("ess_reverse",), SHARE, (("grid25", "lost", 0.96),)),
    "ess_forward": Page(("ess_forward",), SHARE, (("grid25", "lost", 0.04), ("grid25", "width", 0.5))),
    "log_z_reverse": Page(("log_z_reverse",), (-3.7, 0.7), (("grid25", "blur", 1), ("grid25", "width", 4))),
    "forward_kl": Page(("forward_kl",), (-0.15, 5e4), (("grid25", "lost", 0.04), ("grid25", "blur", 1)), symlog=1.0),
    "reverse_kl": Page(("reverse_kl",), (-0.15, 3e3), (("grid25", "lost", 0.52), ("grid25", "blur", 0.05)), symlog=1.0),
    "jensen_shannon": Page(("jensen_shannon",), (-0.03, 0.8), (("grid25", "lost", 0.96), ("grid25", "blur", 1))),
    "coverage_nats": Page(
        ("forward_coverage_nats", "forward_shape_nats", "reverse_coverage_nats", "reverse_shape_nats"),
        (-0.15, 5e4),
        (("grid25", "lost", 0.04), ("grid25", "blur", 1)),
        symlog=1.0,
    ),
    "log_width": Page(("log_width",), (-1.6, 3.9), (("grid25", "lost", 0.96), ("grid25", "shift", 1))),
    "entropy_gap": Page(
        ("entropy_gap",), (-4, 6.5), (("grid25", "lost", 0.52), ("grid25", "width", 2**-0.5), ("grid25", "shift", 2))
    ),
}


def find(_: pd.DataFrame) -> Finding:
    """All responses, some in words, and a picture for each page."""
    table = responses()
    at = table.set_index(["target", "damage", "level"]).sort_index()
    blur, one, half = (at.loc["grid25", kind, level] for kind, level in (("blur", 1), ("lost", 0.96), ("lost", 0.52)))
    said = [
        f"Blurred into one Gaussian, grid25 keeps a coverage of {blur['coverage']:.3f} and an entropic coverage of"
        f" {blur['entropic_coverage']:.3f}; of one mode of 25 sharpness says {one['sharpness']:.3f} and the reverse ESS"
        f" {one['ess_reverse']:.3f}.",
        f"Without 13 of its 25 modes reverse KL is {half['reverse_kl']:.3f} nats, the collapse invoice"
        f" {half['collapse_invoice']:.3f}; a twentieth of the mass blurred costs"
        f" {at.loc['grid25', 'blur', 0.05]['reverse_kl']:.1f}.",
    ]
    pictures = {f"metrics/{name}": draw(table, page) for name, page in PAGES.items()}
    return Finding(said, rounded(table), pictures=pictures)


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Five digits of each number, and no negative zero."""
    numbers = table.select_dtypes("number")
    return table.assign(**{name: [float(f"{x:.5g}") + 0.0 for x in numbers[name].round(5)] for name in numbers})


QUOTED: Mapping[str, tuple[str, float]] = {
    "P itself": ("lost", 0),
    "half of the modes": ("lost", 0.52),
    "one mode": ("lost", 0.96),
    "half width": ("width", 0.5),
    "double width": ("width", 2),
    "tilted 100 : 1": ("tilt", 100),
    "half blurred": ("blur", 0.5),
    "all blurred": ("blur", 1),
    "shifted 1 sd": ("shift", 1),
}
"""The fits whose numbers the pages print; of the modes lost the nearest share that a target has."""


def quoted(table: pd.DataFrame, target: str, column: str) -> list[str]:
    """A column's numbers of one target, as the pages print them."""
    words = []
    for kind, level in QUOTED.values():
        own = table[(table["target"] == target) & (table["damage"] == kind)]
        value = float(own.loc[(own["level"] - level).abs().idxmin(), column]) + 0.0
        digits = 0 if column.startswith("modes") or abs(value) >= 100 else 3 if abs(value) < 10 else 1
        words.append("" if math.isnan(value) else f"{value:.{digits}f}".replace("-0.000", "0.000"))
    return words


def draw(table: pd.DataFrame, page: Page) -> Any:
    """A row of panels for each column, a panel for each kind of damage, a line for each target."""
    rows = len(page.columns)
    figure, axes = panels(rows, len(DAMAGES), 9.6, 0.75 + 1.45 * rows, sharey=True, sharex="col")
    for row, column in zip(axes, page.columns, strict=True):
        for panel, (kind, damage) in zip(row, DAMAGES.items(), strict=True):
            for name, colour in COLOURS.items():
                own = table[(table["target"] == name) & (table["damage"] == kind)].sort_values("level")
                _curve(panel, own, column, page, colour, WORDING[name])
            if damage.log:
                panel.set_xscale("log")
            panel.set_xticks(TICKS[kind], [f"{tick:g}" for tick in TICKS[kind]])
            panel.minorticks_off()
        row[0].set_ylabel(textwrap.fill(column.replace("_", " "), 17), fontsize=8)
        row[0].set_ylim(*page.limits)
    for panel, damage in zip(axes[-1], DAMAGES.values(), strict=True):
        panel.set_xlabel(damage.label, fontsize=8)
    if page.symlog:
        for panel in axes.ravel():
            panel.set_yscale("symlog", linthresh=page.symlog)
            panel.set_yticks([0, *10.0 ** np.arange(0, math.log10(page.limits[1]))])
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            panel.minorticks_off()
    for name, kind, level in page.fails:
        _ring(axes[0, list(DAMAGES).index(kind)], table, page, (name, kind, level))
    axes[0, 0].plot([], [], color=INK, linewidth=0.8, linestyle=(0, (1, 2)), label="value of P itself")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=8)
    return figure


def _curve(panel: Any, own: pd.DataFrame, column: str, page: Page, colour: str, label: str) -> None:
    scale = 1.0 / own["modes_total"].iloc[0] if page.share else 1.0
    value = scale * own[column].to_numpy()
    finite = np.isfinite(value)
    shown = np.where(finite, value, np.nan)
    level = own["level"].to_numpy()
    panel.plot(level, shown, color=colour, linewidth=1.4, marker="o", markersize=2.6, label=label, zorder=3)
    if f"{column}_se" in own:
        error = 2 * scale * own[f"{column}_se"].to_numpy()
        panel.fill_between(level, shown - error, shown + error, color=colour, alpha=0.18, linewidth=0)
    infinite = level[np.isposinf(value)]
    panel.plot(infinite, [0.93] * len(infinite), "^", color=colour, markersize=5, transform=panel.get_xaxis_transform())
    (none,) = value[np.isclose(level, DAMAGES[own["damage"].iloc[0]].none)]
    panel.axhline(none, color=colour, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)


def _ring(panel: Any, table: pd.DataFrame, page: Page, at: At) -> None:
    """A ring and the number, where a metric fails."""
    name, kind, level = at
    own = table[(table["target"] == name) & (table["damage"] == kind)].sort_values("level")
    k = int((own["level"] - level).abs().argmin())
    row = own.iloc[k]
    values = (own[page.columns[0]] / (own["modes_total"] if page.share else 1)).to_numpy()
    panel.plot([row["level"]], values[[k]], "o", ms=8, markerfacecolor="none", color=INK, markeredgewidth=1, zorder=4)
    to_axes = (panel.transData + panel.transAxes.inverted()).transform
    x, y = to_axes((row["level"], values[k]))
    ends = [to_axes((own["level"].iloc[j], values[j]))[1] for j in (max(k - 1, 0), min(k + 1, len(own) - 1))]
    slope = 0.0 if not np.isfinite(ends).all() else ends[1] - ends[0]
    # Beside the curve and not on it: below a rising one on its right, above a falling one.
    right = x < 0.6
    above = (slope < 0) == right if abs(slope) > 0.03 else y < 0.7
    flat = abs(slope) <= 0.03 and 0.15 < x < 0.85
    if page.share:
        said = f"{row[page.columns[0]]:.0f} of {row['modes_total']:.0f}"
    else:
        said = f"{values[k]:.3f}" if abs(values[k]) < 10 else f"{values[k]:.1f}"
    panel.annotate(
        said,
        (row["level"], values[k]),
        xytext=(0 if flat else 5 if right else -5, 7 if above else -7),
        textcoords="offset points",
        ha="center" if flat else "left" if right else "right",
        va="bottom" if above else "top",
        fontsize=7.5,
        color=INK,
        zorder=5,
    )
