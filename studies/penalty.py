"""What each divergence charges at a point, by the log-ratio of the two densities there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments import pointwise
from experiments.truth import Divergence
from runner.figures.style import INK, WORDS
from studies.finding import Finding, panels

RATIOS = (1e8, 1e4, 1e2, 10.0, 1.0, 0.1, 1e-2, 1e-4, 1e-8)  # p / q
CAPTION = (
    "Nats charged at a point for each unit of mass that P and Q have there together. To the right Q lacks what P has,"
    " to the left Q makes up what P lacks. Every line touches 0 where the two agree."
)


DIVERGENCES = {
    "forward_kl": Divergence("forward_kl"),
    "reverse_kl": Divergence("reverse_kl"),
    "jeffreys": Divergence("jeffreys"),
    "mixed, w = 0.1": Divergence("mixed", forward_weight=0.1),
    "alpha = 0.5": Divergence("alpha", alpha=0.5),
    "alpha = 2": Divergence("alpha", alpha=2.0),
    "alpha = -1": Divergence("alpha", alpha=-1.0),
    "jensen_shannon": Divergence("jensen_shannon"),
}


def charge(divergence: Divergence, u: np.ndarray) -> np.ndarray:
    """Nats at a point for each unit of P and Q's mass there together, by the log-ratio of P to Q."""
    at = torch.from_numpy(np.asarray(u, dtype=float))
    if divergence.name == "jensen_shannon":
        return np.asarray(pointwise.jensen_shannon(at))
    if divergence.name == "alpha":
        return np.asarray(pointwise.alpha(at, torch.tensor(divergence.alpha, dtype=at.dtype)))
    forward, reverse = divergence.kl_weights
    return np.asarray(forward * pointwise.forward_kl(at) + reverse * pointwise.reverse_kl(at))


def charges(u: np.ndarray) -> pd.DataFrame:
    """A column for each divergence, a row for each log-ratio."""
    return pd.DataFrame({name: charge(divergence, u) for name, divergence in DIVERGENCES.items()})


def find(_: pd.DataFrame) -> Finding:
    """The table of charges, and its extremes in words."""
    table = charges(np.log(RATIOS))
    table.insert(0, "p_over_q", [f"{ratio:g}" for ratio in RATIOS])
    lost, made_up = table.iloc[0], table.iloc[-1]
    said = [
        f"Where P is 10^8 times Q (a lost part), a unit of mass costs {lost['forward_kl']:.1f} nats under forward KL"
        f" and {lost['reverse_kl']:.3f} under reverse KL; where Q is 10^8 times P (a made-up part) the other way round:"
        f" {made_up['forward_kl']:.3f} and {made_up['reverse_kl']:.1f}.",
        "The large one grows without bound with the log-ratio, the small one never exceeds 1: forward KL cannot lose a"
        " mode and reverse KL cannot make one up, but each may do what the other forbids for about a nat.",
        f"Jensen-Shannon charges at most ln(2) / 2 = {math.log(2) / 2:.4f} on either side, alpha = 1/2 at most 2: both"
        " may lose a mode and make one up.",
        f"alpha = 2 charges {lost['alpha = 2']:.2g} where P is 10^8 times Q: half of the ratio itself.",
    ]
    return Finding(said, table.round(4).replace(-0.0, 0.0), _draw(), CAPTION)


def _draw() -> Any:
    figure, axes = panels(1, 2, 10, 3.4)
    u = np.linspace(-8, 8, 321)
    drawn = charges(u)
    shown = {
        "forward_kl": (WORDS[0], "-"),
        "reverse_kl": (WORDS[1], "-"),
        "jeffreys": (INK, "--"),
        "mixed, w = 0.1": (WORDS[3], "--"),
        "alpha = 0.5": (WORDS[2], "-"),
        "alpha = 2": (WORDS[4], ":"),
        "alpha = -1": (WORDS[5], ":"),
        "jensen_shannon": (WORDS[3], "-"),
    }
    for panel, top in zip(axes[0], (7.0, 1.2), strict=True):
        for name, (colour, dash) in shown.items():
            panel.plot(u, drawn[name], color=colour, linestyle=dash, linewidth=1.6, label=name)
        panel.set(ylim=(0, top), xlim=(-8, 8), xlabel="Q makes it up  ←  log p - log q  →  Q lacks it")
    axes[0, 0].set(ylabel="nats per unit of mass", title="What a point costs")
    axes[0, 1].set(title="The same, near zero")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
