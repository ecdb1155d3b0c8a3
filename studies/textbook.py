"""Textbook figures of forward and reverse KL: what is drawn in them, and the optima of the targets they show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from experiments.catalogue import CATALOGUE
from experiments.closed_forms import kl_gaussians
from experiments.targets import Mixture
from experiments.truth import Divergence, optima
from experiments.truth.objective import Objective
from runner.figures.style import WORDS
from studies.finding import Finding, ellipses, panels, shade

BLUE, RED = WORDS[:2]
MURPHY: Mixture = CATALOGUE.target("pmtk3_bimodal")  # type: ignore[assignment]
BISHOP = np.array([[1.0, 0.97], [0.97, 1.0]])
CORRELATED = Mixture("bishop", np.ones(1), np.zeros((1, 2)), BISHOP[None])
# probml/pmtk3, demos/KLfwdReverseMixGauss.m ("Figure bishop-5-4") and demos/KLpqGauss.m: covariances set by hand.
DRAWN = {
    ("pmtk3_bimodal", "forward_kl"): [(np.zeros(2), np.array([[3.0, 2.0], [2.0, 3.0]]))],
    ("pmtk3_bimodal", "reverse_kl"): [
        (mean, 0.6 * covariance) for mean, covariance in zip(MURPHY.means, MURPHY.covariances, strict=True)
    ],
    ("bishop", "forward_kl"): [(np.zeros(2), np.eye(2))],
    ("bishop", "reverse_kl"): [(np.zeros(2), np.eye(2) / 25)],
}
CAPTION = (
    "Grey: the target. Orange: what the textbook's code draws. Blue: the best fit, measured, on top of the exact"
    " optimum. Contours hold half, 90 % and 99 % of a Gaussian."
)


def find(cells: pd.DataFrame) -> Finding:
    """Drawn and true optima, their divergences, and the fits."""
    rows = []
    for (target, divergence), drawn in DRAWN.items():
        fit = best(cells, target, divergence)
        exact = optima(MURPHY if target == "pmtk3_bimodal" else CORRELATED, fit["family"], divergence)[0]
        for k, (mean, covariance) in enumerate(drawn):
            rows.append(
                {
                    "figure": target,
                    "divergence": divergence,
                    "drawn": "panel " + "abc"[k + (divergence == "reverse_kl")],
                    "drawn_covariance": _text(covariance),
                    "drawn_nats": value(target, divergence, mean, covariance),
                    "optimum_nats": fit["optimum_value"],
                    "optimum_mean": _text(np.array(exact.mean)),
                    "optimum_covariance": _text(np.array(exact.covariance)),
                    "fitted_nats": fit["optimum_value"] + fit["optimum_gap"],
                    "fitted_mean": _text(np.array(fit["q_mean"])),
                    "fitted_covariance": _text(np.array(fit["q_covariance"]).reshape(2, 2)),
                }
            )
    table = pd.DataFrame(rows).round(5)
    own = cells[(cells["target"] == "pmtk3_bimodal") & (cells["divergence"] == "reverse_kl")]
    forward, reverse, other = (row for row in table.itertuples() if row.figure == "pmtk3_bimodal")
    said = [
        f"Forward KL of Murphy's figure 21.1: the drawn covariance {forward.drawn_covariance} is at"
        f" {forward.drawn_nats:.4f} nats, the optimum {forward.optimum_covariance} at {forward.optimum_nats:.4f}.",
        f"Reverse KL of that target: all {len(own)} fits, from {own['init'].nunique()} kinds of start, end at one"
        f" optimum ({', '.join(own['optimum_label'].unique())}), mean {reverse.optimum_mean}, covariance"
        f" {reverse.optimum_covariance}, {reverse.optimum_nats:.4f} nats. The one-mode Gaussians drawn are at"
        f" {reverse.drawn_nats:.3f} and {other.drawn_nats:.3f} nats and are no optima of it.",
        f"Seeking becomes the best once the means are scaled by {crossing():.3f}.",
        f"Correlation 0.97 without correlation in Q: reverse KL's variance is 1 - 0.97^2 = {1 - 0.97**2:.4f}, not the"
        " 1/25 that is drawn; both directions cost -ln(1 - rho^2) / 2 ="
        f" {-0.5 * np.log(1 - 0.97**2):.4f} nats.",
    ]
    return Finding(said, table, _draw(cells), CAPTION)


def best(cells: pd.DataFrame, target: str, divergence: str) -> pd.Series:
    """The fit closest to the optimum; of families of one optimum the diagonal one."""
    rows = cells[(cells["target"] == target) & (cells["divergence"] == divergence)]
    rows = rows[rows["family"] != "gaussian_isotropic"]
    return rows.loc[rows["optimum_gap"].idxmin()]


def value(target: str, divergence: str, mean: np.ndarray, covariance: np.ndarray) -> float:
    """The divergence of a Gaussian from a figure's target, in nats."""
    if target == "bishop":
        pair = ((np.zeros(2), BISHOP), (mean, covariance))
        (a, b) = pair if divergence == "forward_kl" else pair[::-1]
        return kl_gaussians(*a, *b)
    objective = Objective(MURPHY, Divergence(divergence), "full", 2)  # type: ignore[arg-type]
    return float(objective((mean[None], np.linalg.cholesky(covariance)[None]))[0][0])


def crossing() -> float:
    """The factor on the means of Murphy's target from which on a seeking optimum is the best."""

    def lead(scale: float) -> float:
        found: dict[str, float] = {}
        for o in optima(replace(MURPHY, means=MURPHY.means * round(scale, 4)), "gaussian_full", "reverse_kl"):
            found.setdefault(o.label.split(":")[0], o.value or 0.0)
        return found["seeking"] - found["covering"]

    return float(optimize.brentq(lead, 1.5, 1.65, xtol=1e-3))


def _text(numbers: np.ndarray) -> str:
    return str(np.round(numbers, 3).tolist()).replace(" ", "")


def _log_prob(target: str) -> Any:
    if target == "bishop":
        return stats.multivariate_normal(np.zeros(2), BISHOP).logpdf
    return MURPHY.log_prob


def _draw(cells: pd.DataFrame) -> Any:
    figure, axes = panels(1, 4, 10, 2.9)
    titles = {"pmtk3_bimodal": "Murphy 21.1", "bishop": "correlation 0.97"}
    for panel, ((target, divergence), drawn) in zip(axes[0], DRAWN.items(), strict=True):
        shade(panel, _log_prob(target), (-4.5, 4.5) if target == "pmtk3_bimodal" else (-3, 3))
        for mean, covariance in drawn:
            ellipses(panel, mean, covariance, color=RED, linestyle="--")
        fit = best(cells, target, divergence)
        ellipses(panel, np.array(fit["q_mean"]), np.array(fit["q_covariance"]).reshape(2, 2), color=BLUE)
        panel.set_title(f"{titles[target]}: {divergence.replace('_kl', ' KL')}", fontsize=8.5)
    axes[0, 0].plot([], [], color=RED, linestyle="--", label="drawn")
    axes[0, 0].plot([], [], color=BLUE, label="fitted, optimal")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8)
    return figure
