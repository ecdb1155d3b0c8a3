"""Fits on their way to the optima of reverse KL on two modes, and fits to points, whose cross entropy has no floor."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from experiments.targets import Points, named
from experiments.truth import Divergence, optima
from experiments.truth.objective import Objective
from runner.figures.style import INK, WORDS
from studies.finding import Finding, panels
from studies.inline import run
from studies.phase_diagram import pair

HALF = 3.0  # of the separation of two unit modes
STARTS = ((0.5, 1.2), (1.0, 0.12), (2.5, 0.5), (4.5, 0.2))  # location, and width as a multiple of the target's
STEPS = (1, 3, 10, 20, 40, 80, 150, 300, 600, 1000)
REVERSE = Divergence("reverse_kl")
COMPONENTS = (1, 2, 4, 8, 16, 32)
UNITS = {"minutes": 1.0, "hours": 60.0}
KINDS = {"covering": WORDS[0], "seeking": WORDS[1]}


def ways() -> pd.DataFrame:
    """Fits from four starts, each stopped after some steps: where they are and what is reported of them."""
    target = pair(HALF)
    asked = [(start, steps) for start in STARTS for steps in STEPS]
    settings = [{"init_loc": loc, "init_scale": scale, "steps": steps} for (loc, scale), steps in asked]
    rows = []
    for ((loc, scale), steps), outcome in zip(asked, run("kl_fit", [(target, s) for s in settings]), strict=True):
        assert outcome.mean is not None and outcome.covariance is not None
        names = ("objective", "optimum_value", "optimum_gap", "converged")
        rows.append(
            {"start": loc, "start_scale": scale, "steps": steps}
            | {"mean": float(outcome.mean[0]), "sd": math.sqrt(outcome.covariance[0, 0])}
            | {name: outcome.metrics[name] for name in names}
            | {"optimum_label": outcome.labels["optimum_label"]}
        )
    return pd.DataFrame(rows)


def points() -> pd.DataFrame:
    """Maximum likelihood of mixtures of ever more Gaussians on the eruptions of Old Faithful, in two units."""
    known = named.target("eruptions")
    assert isinstance(known, Points)
    asked = [(unit, size, count) for unit, size in UNITS.items() for count in COMPONENTS]
    cells = []
    for unit, size, count in asked:
        target = replace(known, name=f"eruptions_{unit}", values=known.values / size, unit=unit)
        family = {"family": "gaussian_mixture", "components": count} if count > 1 else {"family": "gaussian_full"}
        cells.append((target, {"divergence": "forward_kl", **family}))
    names = ("cross_entropy", "cross_entropy_se", "coverage", "sharpness")
    return pd.DataFrame(
        [
            {"unit": unit, "components": count, **{name: outcome.metrics[name] for name in names}}
            for (unit, _, count), outcome in zip(asked, run("kl_fit", cells), strict=True)
        ]
    )


def find(_: pd.DataFrame) -> Finding:
    """Both tables below each other, and two pictures."""
    fits, likelihoods = ways(), points()
    stuck = fits[(fits["steps"] == max(STEPS)) & (fits["optimum_label"] == "covering")].iloc[0]
    early = fits[(fits["steps"] == 20) & (fits["start"] == 4.5)].iloc[0]
    at = likelihoods.set_index(["unit", "components"])["cross_entropy"]
    said = [
        f"Reverse KL on modes 6 sd apart: from {stuck['start']:g} a fit ends {stuck['optimum_gap']:.3f} nats above the"
        f" best, converged {stuck['converged']:.0f}: that is the divergence's doing. After 20 steps from"
        f" {early['start']:g} another is {early['optimum_gap']:.3f} nats above, converged {early['converged']:.0f}:"
        " that is the optimizer's.",
        f"Cross entropy of the eruptions falls from {at['minutes', 1]:.3f} nats with one Gaussian to"
        f" {at['minutes', 32]:.3f} with 32; in hours one Gaussian has {at['hours', 1]:.3f}.",
    ]
    table = pd.concat([fits, likelihoods], ignore_index=True).round(4)
    pictures = {"metrics/optimum_gap": _landscape(fits), "metrics/cross_entropy": _likelihoods(likelihoods)}
    return Finding(said, table, pictures=pictures)


def _landscape(fits: pd.DataFrame) -> Any:
    figure, axes = panels(1, 2, 9.6, 3.1, gridspec_kw={"width_ratios": [1.1, 1]})
    land, gaps = axes[0]
    mean, sd = np.meshgrid(np.linspace(-4.6, 5, 121), np.geomspace(0.3, 5, 81))
    stack = mean.ravel()[:, None], sd.ravel()[:, None, None]
    value = Objective(pair(HALF), REVERSE, "full", 1).values(stack).reshape(mean.shape)
    known = optima(pair(HALF), "gaussian_full", REVERSE)
    best = known[0].value or 0.0
    # In logarithms, so that the basins show beside the heights around them.
    height = np.log(np.clip(value - best, 0, 20) + 0.03)
    land.contourf(mean, sd, height, levels=np.linspace(height.min(), height.max(), 14), cmap="Greys_r", alpha=0.8)
    land.grid(False)
    for optimum in known:
        colour = KINDS[optimum.label.split(":")[0]]
        land.plot(optimum.mean[0], optimum.covariance[0][0] ** 0.5, "*", color=colour, ms=13, mec="white", zorder=4)
    for start in STARTS:
        own = fits[(fits["start"] == start[0]) & (fits["start_scale"] == start[1])].sort_values("steps")
        colour = KINDS[own["optimum_label"].iloc[-1].split(":")[0]]
        for panel, x, y in ((land, "mean", "sd"), (gaps, "steps", "optimum_gap")):
            panel.plot(own[x], own[y].clip(lower=1e-4) if y != "sd" else own[y], color=colour, linewidth=1.1, zorder=2)
            for done, fill in ((1, colour), (0, "white")):
                some = own[own["converged"] == done]
                height = some[y].clip(lower=1e-4) if y != "sd" else some[y]
                panel.plot(some[x], height, "o", color=colour, markerfacecolor=fill, markersize=4.5, zorder=3)
    local = next(o for o in known if o.label == "covering").value or 0.0
    gaps.axhline(local - best, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    gaps.text(1000, (local - best) * 1.4, f"covering optimum: {local - best:.3f}", fontsize=7.5, ha="right")
    gaps.set(xscale="log", yscale="log", xlabel="steps", title="optimum_gap [nats]", ylim=(7e-5, 9))
    for axis in (gaps.xaxis, gaps.yaxis):
        axis.set_major_formatter(lambda tick, _: f"{tick:g}")
    land.set(yscale="log", xlabel="mean of Q", ylabel="width of Q", title="KL(Q || P), darker is lower")
    land.set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    land.minorticks_off()
    gaps.minorticks_off()
    for label, fill in (("converged 1", INK), ("converged 0", "white")):
        gaps.plot([], [], "o", color=INK, markerfacecolor=fill, markersize=4.5, label=label)
    for kind, colour in KINDS.items():
        gaps.plot([], [], color=colour, label=f"to {kind}")
    figure.legend(*gaps.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def _likelihoods(table: pd.DataFrame) -> Any:
    figure, axes = panels(1, 2, 9.6, 2.7)
    left, right = axes[0]
    for (unit, own), colour in zip(table.groupby("unit", sort=False), WORDS, strict=False):
        error = 2 * own["cross_entropy_se"]
        look = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.2}
        left.errorbar(own["components"], own["cross_entropy"], error, label=f"in {unit}", **look)
    own = table[table["unit"] == "minutes"]
    for name, colour in (("coverage", WORDS[2]), ("sharpness", WORDS[3])):
        right.plot(own["components"], own[name], color=colour, marker="o", ms=3.5, linewidth=1.2, label=f"{name}, k-NN")
    left.axhline(0, color=INK, linewidth=0.7)
    left.set_ylabel("cross_entropy [nats]", fontsize=8.5)
    for panel in axes[0]:
        panel.set(xscale="log", xlabel="Gaussians in Q")
        panel.set_xticks(COMPONENTS, [str(count) for count in COMPONENTS])
        panel.minorticks_off()
        panel.legend(fontsize=8)
    right.set_ylim(0, 1.05)
    return figure
