"""The best Gaussians of every divergence on two modes, closer and farther apart: exact optima, and the integrands."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from experiments.targets import Mixture
from experiments.truth import Divergence, Optimum, optima
from runner.figures.style import FAINT, INK, WORDS
from studies.damage import exactly
from studies.finding import Finding, panels
from studies.penalty import charge
from studies.phase_diagram import pair

HALVES = (2.0, 3.0, 4.0)  # of the modes' separation, in their standard deviations
SHOWN: dict[str, tuple[Divergence, ...]] = {
    "forward_kl": (Divergence("forward_kl"),),
    "reverse_kl": (Divergence("reverse_kl"),),
    "jeffreys": (Divergence("jeffreys"),),
    "mixed": tuple(Divergence("mixed", forward_weight=w) for w in (0.1, 0.5, 0.9)),
    "jensen_shannon": (Divergence("jensen_shannon"),),
    "alpha": tuple(Divergence("alpha", alpha=a) for a in (-1.0, 0.25, 0.5, 2.0)),
}
COLOURS = (WORDS[0], WORDS[1], WORDS[2], WORDS[3])
BESIDE = {"forward KL": (Divergence("forward_kl"), "--"), "reverse KL": (Divergence("reverse_kl"), ":")}


def gaussian(optimum: Optimum) -> Mixture:
    """An optimum as a density."""
    return Mixture("q", np.ones(1), np.array([optimum.mean]), np.array([optimum.covariance]))


@cache
def found(divergence: Divergence, m: float) -> tuple[Optimum, ...]:
    """All optima on modes at -m and m, the best first, without those that mirror another."""
    kept: list[Optimum] = []
    for optimum in optima(pair(m), "gaussian_full", divergence):
        # Of two mirror images the right one; one that covers has its mean at 0 but for rounding.
        if optimum.mean[0] > -1e-3:
            kept.append(optimum)
    return tuple(kept)


def parameter(divergence: Divergence) -> float:
    """That the divergence has, or nothing."""
    return {"mixed": divergence.forward_weight, "alpha": divergence.alpha}.get(divergence.name, np.nan)


def find(_: pd.DataFrame) -> Finding:
    """All optima with their values, coverage and sharpness, and a picture for each page."""
    rows = []
    for chosen in SHOWN.values():
        for divergence in chosen:
            for m in HALVES:
                for k, optimum in enumerate(found(divergence, m)):
                    judged = exactly(pair(m), gaussian(optimum)).metrics
                    rows.append(
                        {
                            "divergence": divergence.name,
                            "parameter": parameter(divergence),
                            "m": m,
                            "optimum": optimum.label,
                            "best": k == 0,
                            "value": optimum.value,
                            "mean": optimum.mean[0],
                            "sd": optimum.covariance[0][0] ** 0.5,
                            "coverage": judged["coverage"],
                            "sharpness": judged["sharpness"],
                        }
                    )
    table = pd.DataFrame(rows)
    said = [
        f"Of two modes 8 sd apart the best Gaussian keeps one under {', '.join(_names(table, max(HALVES)))} alone.",
        f"Of two modes 4 sd apart it does under {', '.join(_names(table, min(HALVES)))} alone.",
    ]
    pictures = {f"divergences/{name}": draw(chosen) for name, chosen in SHOWN.items()}
    return Finding(said, table.round(4).replace(-0.0, 0.0), pictures=pictures)


def _names(table: pd.DataFrame, m: float) -> list[str]:
    """Whose best Gaussian keeps one mode."""
    seeking = table[(table["m"] == m) & table["best"] & table["optimum"].str.startswith("seeking")]
    return [" ".join([r.divergence, *(f"{x:g}" for x in [r.parameter] if x == x)]) for r in seeking.itertuples()]


def draw(chosen: tuple[Divergence, ...]) -> Any:
    """What a point costs, and the optima over the target at each separation."""
    figure, axes = panels(1, 1 + len(HALVES), 9.6, 2.5, gridspec_kw={"width_ratios": [1.15, 1, 1, 1]})
    cost, *targets = axes[0]
    u = np.linspace(-6, 6, 241)
    for label, (other, dash) in BESIDE.items():
        if other not in chosen:
            cost.plot(u, charge(other, u), color=FAINT, linewidth=1, linestyle=dash, label=label)
    for divergence, colour in zip(chosen, COLOURS, strict=False):
        cost.plot(u, charge(divergence, u), color=colour, linewidth=1.7, label=_word(divergence))
    cost.set(ylim=(0, 4), xlim=(-6, 6), xticks=(-5, 0, 5), ylabel="nats per unit of mass")
    cost.set_xlabel("Q makes it up ← ln p/q → Q lacks it", fontsize=8)
    cost.set_title("What a point costs", fontsize=8.5)
    for panel, m in zip(targets, HALVES, strict=True):
        _optima(panel, chosen, m)
    figure.legend(*cost.get_legend_handles_labels(), loc="outside upper left", ncols=6, fontsize=8)
    return figure


def _optima(panel: Any, chosen: tuple[Divergence, ...], m: float) -> None:
    x = np.linspace(-10, 10, 601)
    target = pair(m)
    panel.fill_between(x, np.exp(target.log_prob(x[:, None])), color="#d0d0d0", linewidth=0)
    for j, (divergence, colour) in enumerate(zip(chosen, COLOURS, strict=False)):
        best, *others = found(divergence, m)
        panel.plot(x, np.exp(gaussian(best).log_prob(x[:, None])), color=colour, linewidth=1.7)
        panel.text(0.02, 0.97 - 0.1 * j, _said(best), color=colour, transform=panel.transAxes, fontsize=7.5, va="top")
        if len(chosen) == 1:
            for other in others:
                panel.plot(x, np.exp(gaussian(other).log_prob(x[:, None])), color=INK, linewidth=1, linestyle="--")
                look = {"color": INK, "fontsize": 7.5, "va": "top", "transform": panel.transAxes}
                panel.text(0.02, 0.86, f"worse: {_said(other)}", **look)
    panel.set(ylim=(0, 0.54 if len(chosen) > 2 else 0.5), xlim=(-10, 10), yticks=[])
    panel.set_title(f"modes {2 * m:g} sd apart", fontsize=8.5)


def _said(optimum: Optimum) -> str:
    return f"{optimum.value:.3f} {optimum.label.split(':')[0]}"


def _word(divergence: Divergence) -> str:
    value = parameter(divergence)
    name = {"mixed": "w", "alpha": "alpha"}.get(divergence.name)
    return f"{name} = {value:g}" if name else divergence.name
