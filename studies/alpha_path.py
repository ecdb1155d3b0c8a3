"""Alpha divergences of two modes: where seeking turns into covering, exactly and as fits find it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from experiments.truth import Divergence, Optimum, optima
from runner.figures.style import WORDS
from studies.finding import Finding, boundary, panels
from studies.phase_diagram import pair

BLUE, RED = WORDS[:2]
SEPARATIONS = (2.6, 3.0, 4.0)
CAPTION = (
    "Values of fits (points) on the branches of exact optima (lines: blue covering, orange seeking), by alpha. Dashes:"
    " where covering becomes the best, and where the seeking optimum disappears. Not shown: fits above 2 nats."
)


@cache
def branches(m: float, alpha: float) -> dict[str, Optimum]:
    """The best optimum of each kind."""
    found: dict[str, Optimum] = {}
    for optimum in optima(pair(m), "gaussian_full", Divergence("alpha", alpha=alpha)):
        found.setdefault(optimum.label.split(":")[0], optimum)
    return found


@cache
def covering_is_best(m: float) -> float | None:
    """The alpha from which on the covering optimum has the lower value; None if it has it at 0 already."""

    def lead(alpha: float) -> float:
        found = branches(m, alpha)
        return float((found["seeking"].value or 0) - (found["covering"].value or 0))

    return None if lead(0.0) > 0 else float(optimize.brentq(lead, 0.0, seeking_ends(m) - 0.01, xtol=1e-5))


@cache
def seeking_ends(m: float) -> float:
    """The alpha at which the seeking optimum disappears, by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if "seeking" in branches(m, middle) else (low, middle)
    return 0.5 * (low + high)


def find(cells: pd.DataFrame) -> Finding:
    """Both borders for each separation, and the alphas at which fits from a mode leave it."""
    cells = cells.assign(
        m=cells["target"].str[1:].astype(float),
        a=cells["q_mean"].map(lambda mean: abs(mean[0])),
        seeks=cells["optimum_label"].str.startswith("seeking"),
    )
    rows, said = [], []
    for m in SEPARATIONS:
        own = cells[(cells["m"] == m) & (cells["init"] == "mode:1")]
        stayed, left = own.loc[own["seeks"], "alpha"].max(), own.loc[~own["seeks"], "alpha"].min()
        best, ends = covering_is_best(m), seeking_ends(m)
        rows.append(
            {"m": m, "covering_is_best_from": best, "seeking_ends_at": ends, "fits_stay": stayed, "leave": left}
        )
        border = "at every alpha from 0 on" if best is None else f"from alpha = {best:.4f} on"
        said.append(
            f"m = {m:g}: covering is the best {border}; the seeking optimum disappears at {ends:.4f}. Fits that start"
            f" on a mode stay up to {stayed:g} and leave at {left:g}."
        )
    heavy = cells[(cells["alpha"] == 2) & (cells["init"] == "mode:1") & (cells["m"] == 4)]
    wide = cells[(cells["alpha"] < 0) & (cells["init"] == "wide") & ~np.isfinite(cells["optimum_gap"])]
    within = cells[cells["alpha"].between(0, 1) & (cells["init"] == "wide") & ~cells["seeks"]]
    local = [
        gap + row.optimum_value - branches(row.m, row.alpha)["covering"].value
        for row, gap in zip(within.itertuples(), within["optimum_gap"], strict=True)
    ]
    said += [
        f"Between 0 and 1, wide starts end in the covering optimum, within {max(local):.1e} nats of it.",
        f"Above 1 the integrand is unbounded: from one mode of m = 4 at alpha = 2, fits end"
        f" {heavy['optimum_gap'].min():.0e} nats or more above the optimum, because what decides is never drawn.",
        f"Below 0 a Gaussian that is too wide has an infinite divergence: {len(wide)} of the"
        f" {len(cells[(cells['alpha'] < 0) & (cells['init'] == 'wide')])} fits from wide starts end there, with an"
        " infinite optimum_gap and converged 0.",
    ]
    return Finding(said, pd.DataFrame(rows).round(4), _draw(cells), CAPTION)


def _draw(cells: pd.DataFrame) -> Any:
    figure, axes = panels(1, len(SEPARATIONS), 10, 3.2, sharex=True, sharey=True)
    grid = np.linspace(0, 1, 41)
    shown = cells.assign(value=cells["optimum_value"] + cells["optimum_gap"])
    shown = shown[np.isfinite(shown["value"]) & (shown["value"] < 2) & (shown["seed"] == 0)]
    for panel, m in zip(axes[0], SEPARATIONS, strict=True):
        points = [(alpha, branches(m, float(alpha))) for alpha in grid]
        for word, colour in (("covering", BLUE), ("seeking", RED)):
            held = [(x, found[word].value) for x, found in points if word in found]
            panel.plot(*np.array(held).T, color=colour, linewidth=1.2, zorder=1)
        for init, marker, colour, label in (("mode:1", "o", RED, "from a mode"), ("wide", "s", BLUE, "from wide")):
            rows = shown[(shown["m"] == m) & (shown["init"] == init)]
            look = {"color": colour, "marker": marker, "edgecolor": "white", "linewidth": 0.4, "zorder": 3}
            # Where both are at one optimum the smaller mark lies over the larger.
            panel.scatter(rows["alpha"], rows["value"], s=12 if init == "wide" else 30, label=label, **look)
        for at in {covering_is_best(m), seeking_ends(m)} - {None}:
            boundary(panel, at, f"{at:.3f}", 0.1)
        panel.set(title=f"m = {m:g}", xlabel="alpha  (0: reverse KL, 1: forward KL)", ylim=(0, 2))
    axes[0, 0].set_ylabel("divergence [nats]")
    axes[0, 0].legend(fontsize=7.5, loc="upper right")
    return figure
