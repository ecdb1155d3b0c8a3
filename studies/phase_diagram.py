"""Separation and start against what reverse KL finds, with the analytic boundaries."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from experiments.targets import Mixture
from experiments.truth import optima
from runner.figures.style import FAINT, INK, WORDS
from studies.finding import Finding, boundary, panels

BLUE, RED, GREEN = WORDS[:3]


def pair(m: float) -> Mixture:
    """Two unit Gaussians of equal weight at -m and m."""
    return Mixture("pair", np.full(2, 0.5), np.array([[-m], [m]]), np.ones((2, 1, 1)))


def slopes(m: float, a: float, log_s: float) -> tuple[float, float]:
    """Downhill along a and log s of KL(N(a, s^2) || P), on an even grid."""
    z = np.linspace(-9, 9, 2001)
    weight = np.exp(-0.5 * z**2)
    weight /= weight.sum()
    x = a + np.exp(log_s) * z
    score = weight * (m * np.tanh(m * x) - x)
    return float(score.sum()), float(1 + np.exp(log_s) * (score * z).sum())


@cache
def appears() -> float:
    """The least m at which a seeking optimum exists: where the branch of stationary points with a > 0 turns back."""

    def separation(a: float) -> float:
        found = optimize.root(lambda v: slopes(v[0], a, v[1]), [2.5, 0.2], tol=1e-12)
        return float(found.x[0])

    return float(optimize.minimize_scalar(separation, bounds=(1.6, 2.6), method="bounded").fun)


@cache
def is_best() -> float:
    """The m at which the seeking and the covering optimum have one value."""

    def lead(m: float) -> float:
        found = {o.label.split(":")[0]: o.value for o in optima(pair(m), "gaussian_full", "reverse_kl")}
        return float(found["seeking"] - found["covering"])

    return float(optimize.brentq(lead, 2.7, 2.9, xtol=1e-6))


def find(cells: pd.DataFrame) -> Finding:
    """The branches, their values, and the basins of two optimizers."""
    cells = cells.assign(
        m=cells["target"].str[1:].astype(float),
        a=cells["q_mean"].map(lambda mean: abs(mean[0])),
        seeks=cells["optimum_label"].str.startswith("seeking"),
    )
    traced = cells[cells["init_loc"].isna()]
    reverse = traced[traced["divergence"] == "reverse_kl"]
    basins = cells[cells["init_loc"].notna()]
    from_mode = reverse[reverse["init"] == "mode:1"].sort_values("m")
    last, first = from_mode.loc[~from_mode["seeks"], "m"].max(), from_mode.loc[from_mode["seeks"], "m"].min()
    exact = reverse.pivot(index="m", columns="init", values="optimum_gap")
    ahead = exact.index[(exact["mode:1"] < exact["wide"]) & (exact["mode:1"] < 1e-3)].min()
    behind = exact.index[(exact["mode:1"] > exact["wide"]) & (exact.index >= first)].max()
    shares = basins.groupby("optimizer")["seeks"].mean()
    stuck = exact.loc[6.0, "wide"]
    said = [
        f"Started on a mode, fits leave it up to m = {last:g} and stay from m = {first:g} on; the seeking optimum"
        f" appears at m = {appears():.4f}.",
        f"It is the better of the two from m = {ahead:g} on, and the worse one up to m = {behind:g}; the values are"
        f" equal at m = {is_best():.4f}.",
        f"The covering optimum never ceases to be one: at m = 6, wide starts still end there, {stuck:.2f} nats above"
        " the best.",
        f"Of the same {len(basins) // 2} starts, {shares['sgd']:.0%} end seeking under small steps of SGD in the"
        f" target's own coordinates (gradient flow), {shares['adam']:.0%} under Adam in standardised ones: the"
        " optimizer decides too.",
        f"Forward KL has one optimum; its {len(traced) - len(reverse)} fits are within"
        f" {traced.loc[traced['divergence'] == 'forward_kl', 'optimum_gap'].max():.1e} nats of it.",
    ]
    columns = ["m", "init", "optimum_label", "objective", "optimum_value", "optimum_gap", "converged"]
    table = reverse.sort_values(["m", "init"])[columns].round(6)
    return Finding(said, table, _draw(traced, basins), CAPTION)


CAPTION = (
    "Top left: locations of fits (points) on the branches of exact optima (lines). Top right: their values; the lines"
    " cross at the second boundary. Below: which optimum each start reaches, for two of the five locations. Dashes: the"
    " analytic boundaries."
)


def _draw(traced: pd.DataFrame, basins: pd.DataFrame) -> Any:
    figure, axes = panels(2, 4, 10, 5.6)
    gs = axes[0, 0].get_gridspec()
    for panel in axes[0]:
        panel.remove()
    where, value = figure.add_subplot(gs[0, :2]), figure.add_subplot(gs[0, 2:])
    _branches(where, value)
    look = {
        ("reverse_kl", "mode:1"): ("reverse KL from a mode", RED, "o"),
        ("reverse_kl", "wide"): ("reverse KL from wide", BLUE, "s"),
        ("forward_kl", "wide"): ("forward KL", GREEN, "^"),
    }
    for (divergence, init), (label, colour, marker) in look.items():
        rows = traced[(traced["divergence"] == divergence) & (traced["init"] == init)]
        rows = rows[rows["m"] <= 4]
        style = {"color": colour, "marker": marker, "s": 15, "zorder": 3, "edgecolor": "white", "linewidth": 0.4}
        where.scatter(rows["m"], rows["a"], label=label, **style)
        value.scatter(rows["m"], rows["optimum_value"] + rows["optimum_gap"], **style)
    where.set(xlabel="m: half the separation [sd]", ylabel="|location| of the fit", title="Where the fits end")
    value.set(xlabel="m: half the separation [sd]", ylabel="divergence [nats]", title="What they reach")
    where.legend(fontsize=7.5, loc="upper left")
    for panel in (where, value):
        boundary(panel, appears(), f"{appears():.3f}", 0.12)
        boundary(panel, is_best(), f"{is_best():.3f}", 0.12)
    shown = [(name, loc) for name in ("sgd", "adam") for loc in (1.0, 2.0)]
    for i, (panel, (name, loc)) in enumerate(zip(axes[1], shown, strict=True)):
        _basin(panel, basins[(basins["optimizer"] == name) & (basins["init_loc"] == loc)], first=i == 0)
        panel.set_title(f"{name}, start at {loc:g}", fontsize=8.5)
    return figure


def _branches(where: Any, value: Any) -> None:
    m = np.concatenate([np.linspace(1, appears() - 1e-3, 12), np.linspace(appears() + 2e-3, 4, 30)])
    rows = [(x, abs(o.mean[0]), o.value, o.label) for x in m for o in optima(pair(x), "gaussian_full", "reverse_kl")]
    found = pd.DataFrame(rows, columns=["m", "a", "value", "label"])
    for word, colour in (("covering", BLUE), ("seeking", RED)):
        own = found[found["label"].str.startswith(word)].drop_duplicates(["m"])
        for panel, name in ((where, "a"), (value, "value")):
            panel.plot(own["m"], own[name], color=colour, linewidth=1.1, zorder=2)
    forward = [(x, optima(pair(x), "gaussian_full", "forward_kl")[0].value) for x in m]
    value.plot(*np.array(forward).T, color=GREEN, linewidth=1.1, zorder=2)
    where.axhline(0, color=FAINT, linewidth=0.6, zorder=1)


def _basin(panel: Any, rows: pd.DataFrame, first: bool) -> None:
    scales = sorted(rows["init_scale"].unique())
    for seeks, colour, marker in ((True, RED, "o"), (False, BLUE, "s")):
        own = rows[rows["seeks"] == seeks]
        label = "seeking" if seeks else "covering"
        at = [scales.index(s) for s in own["init_scale"]]
        panel.scatter(own["m"], at, color=colour, marker=marker, s=26, label=label, edgecolor="white", linewidth=0.4)
    panel.set(yticks=range(len(scales)), xlabel="m", ylim=(-0.5, len(scales) + 0.1), xlim=(0.7, 6.3))
    panel.set_yticklabels([f"{s:g}" for s in scales] if first else [])
    for at in (appears(), is_best()):
        panel.axvline(at, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    if first:
        panel.set_ylabel("initial sd")
        panel.legend(fontsize=7, loc="upper left", ncols=2, borderaxespad=0.1, handletextpad=0.1, columnspacing=0.8)
