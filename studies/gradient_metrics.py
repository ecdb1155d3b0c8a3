"""What the metrics of gradient estimators say over Q's width, against normals in 1 and in 16 dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from experiments.targets import Mixture
from runner.figures.style import INK
from studies.finding import Finding, panels
from studies.gradients import COLOURS, closed_form
from studies.inline import run

OFFSET, SAMPLES = 0.5, 16
WIDTHS = tuple(2.0 ** (k / 2) for k in range(-4, 3))
COUNTS = (2, 8, 32, 128)
DIMS = (1, 16)
LEAST = 5e-4  # of a logarithmic axis: sticking the landing may have a variance of 0
SHOWN = (
    *("mean_squared_error", "bias", "bias_se", "variance", "variance_loc", "variance_log_scale"),
    *("variance_per_sample", "signal_to_noise", "gradient_norm", "slope_loc", "slope_loc_se", "slope_log_scale"),
    *("slope_log_scale_se", "exact_slope_loc", "exact_slope_log_scale", "exact_error", "has_gradient", "evaluations"),
)
COMMON = ("dimension", "estimator", "width", "samples")
UNITS = {"bias": "nats", "slope_loc": "nats per sd", "slope_log_scale": "nats", "signal_to_noise": ""}


def normal(dim: int) -> Mixture:
    """The standard one."""
    return Mixture(f"normal{dim}", np.ones(1), np.zeros((1, dim)), np.eye(dim)[None])


def measured() -> pd.DataFrame:
    """A row for each dimension and estimator, over widths, and at width 1 over the number of samples."""
    places = [(width, SAMPLES) for width in WIDTHS] + [(1.0, n) for n in COUNTS]
    targets = {dim: normal(dim) for dim in DIMS}
    asked = [(dim, name, *place) for dim in DIMS for name in COLOURS for place in places]
    cells = [
        (targets[dim], {"estimator": name, "width": width, "samples": n, "offset": OFFSET})
        for dim, name, width, n in asked
    ]
    rows = zip(asked, run("gradients", cells), strict=True)
    return pd.DataFrame([dict(zip(COMMON, place, strict=True)) | {n: o.metrics[n] for n in SHOWN} for place, o in rows])


def find(_: pd.DataFrame) -> Finding:
    """The metrics, some in words, and a picture for each page."""
    table = measured()
    at = table[table["samples"] == SAMPLES].set_index(["dimension", "estimator", "width"])
    one, many = (at["signal_to_noise"][dim, "reparameterization", 1.0] for dim in DIMS)
    naive, plain = at.loc[1, "naive", 2.0], at.loc[1, "reparameterization", 2.0]
    noisy = at.loc[16, "score_function", 2.0]
    said = [
        f"At width 2 the naive gradient has a signal to noise of {naive['signal_to_noise']:.2f}, reparameterization"
        f" {plain['signal_to_noise']:.2f}: but its mean is 0, its bias {naive['bias']:.3f} where the exact gradient is"
        f" {naive['gradient_norm']:.3f} long.",
        f"In 16 dimensions its mean squared error there is {at.loc[16, 'naive', 2.0]['mean_squared_error']:.0f} nats^2,"
        f" less than the {noisy['mean_squared_error']:.0f} of the score function, which is right on average.",
        f"The signal to noise of reparameterization at width 1 falls from {one:.2f} in one dimension to {many:.2f} in"
        " 16.",
    ]
    pictures = {
        "metrics/gradient_error": _over_width(table, ("bias", "mean_squared_error")),
        "metrics/gradient_variance": _over_width(table, ("variance_loc", "variance_log_scale", "variance_per_sample")),
        "metrics/gradient_slope": _over_width(table, ("slope_loc", "slope_log_scale")),
        "metrics/signal_to_noise": _over_width(table, ("signal_to_noise",)),
        "metrics/evaluations": _over_evaluations(table),
    }
    return Finding(said, table.round(5).replace(-0.0, 0.0), pictures=pictures)


def _rows(table: pd.DataFrame, dim: int, name: str) -> pd.DataFrame:
    own = table[(table["dimension"] == dim) & (table["estimator"] == name) & (table["has_gradient"] == 1)]
    return own.sort_values("width")


def _word(name: str) -> str:
    return f"{name}: no gradient" if name == "blocked" else name


def _over_width(table: pd.DataFrame, columns: tuple[str, ...]) -> Any:
    def each(panel: Any, column: str, dim: int) -> None:
        for k, (name, colour) in enumerate(COLOURS.items()):
            own = _rows(table, dim, name)
            own = own[own["samples"] == SAMPLES].drop_duplicates("width")
            error = 2 * own[f"{column}_se"] if column.startswith("slope") else None
            shift = 1 + 0.025 * (k - 2) if column.startswith("slope") else 1  # side by side where all agree
            look = {"color": colour, "marker": "o", "markersize": 3, "linewidth": 1.1}
            if error is not None:
                look["linestyle"] = "none"
            panel.errorbar(own["width"] * shift, own[column], error, label=_word(name), **look)
            if column == "bias":
                panel.plot(own["width"], own["bias_se"], color=colour, linewidth=0.9, linestyle=":")
            if column == "variance_per_sample" and name in ("reparameterization", "sticking_the_landing"):
                fine = np.geomspace(min(WIDTHS), max(WIDTHS), 100)
                line = [closed_form(name, w, OFFSET, dim) for w in fine]
                panel.plot(fine, line, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=4)
        if column.startswith("slope"):
            own = _rows(table, dim, "reparameterization").drop_duplicates("width")
            panel.plot(own["width"], own[f"exact_{column}"], color=INK, linewidth=0.9, zorder=1)
        else:
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            panel.minorticks_off()
            panel.set_ylim(max(panel.get_ylim()[0], LEAST), None)

    return _figure(columns, each, "width of Q / width of the target", (0.25, 0.5, 1, 2))


def _over_evaluations(table: pd.DataFrame) -> Any:
    def each(panel: Any, column: str, dim: int) -> None:
        for name, colour in COLOURS.items():
            own = _rows(table, dim, name)
            own = own[own["width"] == 1.0].drop_duplicates("samples").sort_values("samples")
            panel.plot(
                own["evaluations"], own[column], color=colour, marker="o", ms=3, linewidth=1.1, label=_word(name)
            )
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.minorticks_off()

    return _figure(("mean_squared_error",), each, "evaluations of the target for one gradient", (2, 8, 32, 128))


def _figure(columns: tuple[str, ...], each: Callable[..., None], label: str, ticks: tuple[float, ...]) -> Any:
    figure, axes = panels(len(columns), len(DIMS), 9.6, 0.8 + 1.5 * len(columns), sharex=True)
    for row, column in zip(axes, columns, strict=True):
        for panel, dim in zip(row, DIMS, strict=True):
            each(panel, column, dim)
            panel.set_xscale("log")
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.xaxis.minorticks_off()
        unit = UNITS.get(column, "nats²")
        row[0].set_ylabel(column.replace("_", " ") + (f"\n[{unit}]" if unit else ""), fontsize=8)
    for panel, dim in zip(axes[0], DIMS, strict=True):
        panel.set_title(f"standard normal, D = {dim}", fontsize=8.5)
    for panel in axes[-1]:
        panel.set_xlabel(label, fontsize=8.5)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize=8)
    return figure
