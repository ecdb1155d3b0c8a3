"""What the metrics of VAEs say as the KL weight grows: linear ones beside closed forms, and one that must bend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from experiments.targets import Mixture, named
from runner.figures.style import FAINT, INK, WORDS
from studies.finding import Finding, panels
from studies.inline import run

SPECTRUM = np.array([4.0, 2.0, 1.0, 0.5, 0.25])  # variances of a Gaussian in five dimensions
NOISE = 0.4  # the decoder's variance
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 2.0, 3.5, 8.0, 15.0, 30.0, 100.0, 300.0, 1000.0)
LINEAR = {"encoder": "linear", "decoder": "linear", "latent_dim": 5, "learning_rate": 0.02, "steps": 3000}
KINDS: dict[str, dict[str, Any]] = {
    "linear": LINEAR | {"noise_std": NOISE**0.5},
    "linear, less noise": LINEAR | {"noise_std": (NOISE / 4) ** 0.5},
    "linear, mse": LINEAR | {"likelihood": "mse"},
    "ring8_easy": {"latent_dim": 2},
}
TICKS = (0.01, 0.1, 1, 10, 100, 1000)
TITLES = {"linear": "linear VAE on a 5-D Gaussian", "ring8_easy": "two hidden layers on ring8_easy"}
SHOWN = ("rate", "distortion", "elbo", "reconstruction_mse", "nll", "bound_gap", "active_units", "theta", "forward_kl")
BLUE, RED, GREEN, PINK = WORDS[:4]


def target(kind: str) -> Mixture:
    """What a kind of VAE is trained on."""
    if kind == "ring8_easy":
        found = named.target(kind)
        assert isinstance(found, Mixture)
        return found
    return Mixture("gaussian5", np.ones(1), np.zeros((1, 5)), np.diag(SPECTRUM)[None])


def optimum(kl_weight: float, noise: float = NOISE) -> dict[str, float]:
    r"""Of a linear VAE: reverse water-filling at theta = kl_weight noise (Lucas et al. 2019; Cover and Thomas 10.3).

    .. math:: rate = \tfrac12 \sum_{\lambda > \theta} \ln(\lambda / \theta), \quad mse = \sum \min(\lambda, \theta)

    It generates variances of lambda - theta + noise along active directions and of noise along the others.
    """
    theta = kl_weight * noise
    active = theta < SPECTRUM
    made = np.where(active, SPECTRUM - theta + noise, noise)
    rate = 0.5 * np.log(SPECTRUM[active] / theta).sum()
    mse = np.minimum(SPECTRUM, theta).sum()
    distortion = 0.5 * mse / noise + 0.5 * len(SPECTRUM) * math.log(2 * math.pi * noise)
    nll = 0.5 * (np.log(2 * math.pi * made) + SPECTRUM / made).sum()
    entropy = 0.5 * np.log(2 * math.pi * math.e * SPECTRUM).sum()
    return {
        "theta": theta,
        "rate": float(rate),
        "distortion": float(distortion),
        "elbo": float(-rate - distortion),
        "reconstruction_mse": float(mse),
        "nll": float(nll),
        "bound_gap": float(rate + distortion - nll),
        "active_units": float(active.sum()),
        "forward_kl": float(nll - entropy),
    }


def measured() -> pd.DataFrame:
    """A row for each kind of VAE and KL weight."""
    asked = [(kind, weight) for kind in KINDS for weight in WEIGHTS]
    targets = {kind: target(kind) for kind in KINDS}
    outcomes = run("vae", [(targets[kind], KINDS[kind] | {"kl_weight": weight}) for kind, weight in asked])
    return pd.DataFrame(
        [
            {"kind": kind, "kl_weight": weight, **{name: outcome.metrics[name] for name in SHOWN}}
            for (kind, weight), outcome in zip(asked, outcomes, strict=True)
        ]
    )


def find(_: pd.DataFrame) -> Finding:
    """The metrics over the KL weight, how far from closed forms they are, and a picture for each page."""
    table = measured()
    linear = table[table["kind"] == "linear"]
    apart = {n: max(abs(r[n] - optimum(r["kl_weight"])[n]) for _, r in linear.iterrows()) for n in ("rate", "elbo")}
    ring = table[table["kind"] == "ring8_easy"].set_index("kl_weight")
    low, best = ring.loc[min(WEIGHTS)], ring.loc[ring["forward_kl"].idxmin()]
    said = [
        f"Linear VAEs are within {apart['rate']:.2f} nats of the closed form's rate and {apart['elbo']:.2f} of its ELBO"
        " at every KL weight.",
        f"On ring8_easy a KL weight of {low.name:g} reconstructs to {low['reconstruction_mse']:.4f} and draws"
        f" {low['forward_kl']:.3f} nats from the target; {best.name:g} reconstructs to {best['reconstruction_mse']:.4f}"
        f" and is {best['forward_kl']:.3f} nats away.",
    ]
    pictures = {
        "metrics/elbo": _over_weight(table, (("rate", "distortion", "elbo"),)),
        "metrics/reconstruction_mse": _over_weight(table, (("reconstruction_mse",), ("forward_kl",))),
        "metrics/nll": _over_weight(table, (("nll", "elbo", "bound_gap"),)),
        "metrics/active_units": _over_weight(table, (("active_units",),)),
        "metrics/theta": _over_theta(table),
    }
    return Finding(said, table.round(4).replace(-0.0, 0.0), pictures=pictures)


LOOK = {  # colour and sign
    "rate": (BLUE, 1),
    "distortion": (RED, 1),
    "elbo": (GREEN, -1),
    "nll": (BLUE, 1),
    "bound_gap": (PINK, 1),
    "reconstruction_mse": (BLUE, 1),
    "forward_kl": (RED, 1),
    "active_units": (BLUE, 1),
}


def _over_weight(table: pd.DataFrame, rows: tuple[tuple[str, ...], ...]) -> Any:
    figure, axes = panels(len(rows), 2, 9.6, 0.7 + 1.75 * len(rows), sharex=True)
    fine = np.geomspace(min(WEIGHTS), max(WEIGHTS), 200)
    known = pd.DataFrame([optimum(w) for w in fine])
    for row, names in zip(axes, rows, strict=True):
        for panel, kind in zip(row, TITLES, strict=True):
            own = table[table["kind"] == kind]
            for name in names:
                colour, sign = LOOK[name]
                label = name if sign > 0 else f"-{name}"
                if kind == "linear":
                    panel.plot(fine, sign * known[name], color=colour, linewidth=1)  # closed form
                dash = "none" if kind == "linear" else "-"
                look = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.2, "linestyle": dash}
                panel.plot(own["kl_weight"], sign * own[name], label=label, **look)
            if "nll" in names or "elbo" in names:
                entropy = target(kind).entropy[0]
                panel.axhline(entropy, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), label="entropy of P")
            panel.axvline(1, color=FAINT, linewidth=0.7)
            panel.set_xscale("log")
            panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            panel.minorticks_off()
            _axis(panel, names[0])
        row[0].set_ylabel("units" if names[0] == "active_units" else "squared units" if "mse" in names[0] else "nats")
        row[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for panel, title in zip(axes[0], TITLES.values(), strict=True):
        panel.set_title(title, fontsize=8.5)
    for panel in axes[-1]:
        panel.set_xlabel("kl_weight", fontsize=8.5)
    return figure


def _axis(panel: Any, first: str) -> None:
    """What a column is best seen on."""
    if first == "active_units":
        panel.set_ylim(-0.3, None)
        return
    panel.set_yscale("symlog", linthresh=1.0) if first in ("rate", "nll") else panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.minorticks_off()
    low, high = panel.dataLim.y0, panel.dataLim.y1
    panel.set_ylim(low - 0.3 if first in ("rate", "nll") else low / 1.6, 1.8 * high)


def _over_theta(table: pd.DataFrame) -> Any:
    figure, axes = panels(1, 3, 9.6, 2.6)
    kinds = [kind for kind in KINDS if kind != "ring8_easy"]
    fine = np.geomspace(1e-3, 60, 200)
    known = pd.DataFrame([optimum(theta / NOISE) for theta in fine])
    for kind, colour, marker in zip(kinds, (BLUE, RED, GREEN), "os^", strict=True):
        own = table[table["kind"] == kind]
        look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.0}
        axes[0, 0].plot(own["kl_weight"], own["rate"], label=kind, **look)
        for panel, name in zip(axes[0, 1:], ("rate", "active_units"), strict=True):
            panel.plot(own["theta"], own[name], **(look | {"linestyle": "none"}))
    for panel, name in zip(axes[0, 1:], ("rate", "active_units"), strict=True):
        panel.plot(fine, known[name], color=INK, linewidth=0.9, zorder=1)
        panel.set_xlabel("theta", fontsize=8.5)
    for variance in SPECTRUM:
        axes[0, 2].axvline(variance, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    axes[0, 0].set_xlabel("kl_weight", fontsize=8.5)
    for panel, name in zip(axes[0], ("rate [nats]", "rate [nats]", "active_units"), strict=True):
        panel.set_title(name, fontsize=8.5)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.minorticks_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=8)
    return figure
