"""Known damage to known targets: lost modes, wrong widths, tilted weights, blur and shifts, and how metrics respond."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from experiments.metrics.density import Evaluation, evaluate
from experiments.metrics.quadrature import mixture_quadrature
from experiments.references import judged
from experiments.targets import Mixture, named

TARGETS = ("grid25", "multimodal")  # in the plane by draws, on a line by quadrature


@dataclass(frozen=True)
class Damage:
    """One way to spoil a target.

    Args:
        label: of the axis.
        levels: of damage, in order; ``none`` is the one that leaves P as it is.
        apply: ``(target, level) -> Q``.
        log: whether levels are best seen on a logarithmic axis.
    """

    label: str
    levels: tuple[float, ...]
    none: float
    apply: Callable[[Mixture, float], Mixture]
    log: bool = False


def lose(target: Mixture, share: float) -> Mixture:
    """P given its first modes: that share of the K modes is lost, and at least one kept."""
    kept = max(1, target.modes - round(share * target.modes))
    weights = target.weights[:kept]
    return replace(
        target,
        weights=weights / weights.sum(),
        means=target.means[:kept],
        covariances=target.covariances[:kept],
    )


def widen(target: Mixture, factor: float) -> Mixture:
    """Every mode with ``factor`` times its width."""
    return replace(target, covariances=factor**2 * target.covariances)


def tilt(target: Mixture, ratio: float) -> Mixture:
    """Weights that fall evenly in their logarithm, the heaviest ``ratio`` times the lightest."""
    weights = target.weights * ratio ** -np.linspace(0, 1, target.modes)
    return replace(target, weights=weights / weights.sum())


def blur(target: Mixture, share: float) -> Mixture:
    """That share of the mass spread as one Gaussian of P's mean and covariance."""
    if share == 0:
        return target
    weights, means, covariances = np.array([share]), target.mean[None], target.covariance[None]
    if share < 1:
        weights = np.append((1 - share) * target.weights, weights)
        means, covariances = np.append(target.means, means, 0), np.append(target.covariances, covariances, 0)
    return replace(target, weights=weights, means=means, covariances=covariances)


def shift(target: Mixture, widths: float) -> Mixture:
    """All means moved along the first coordinate by so many of the first mode's standard deviations."""
    means = target.means.copy()
    means[:, 0] += widths * math.sqrt(target.covariances[0, 0, 0])
    return replace(target, means=means)


DAMAGES: dict[str, Damage] = {
    "lost": Damage("share of modes lost", (0, 0.04, 0.125, 0.25, 0.375, 0.52, 0.625, 0.75, 0.875, 0.96), 0, lose),
    "width": Damage("width of the modes, times", tuple(2.0 ** (k / 4) for k in range(-8, 9)), 1, widen, log=True),
    "tilt": Damage("heaviest over lightest mode", (1, 3, 10, 30, 100, 300, 1000), 1, tilt, log=True),
    "blur": Damage("share of mass blurred", (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1), 0, blur),
    "shift": Damage("shift of all modes [sd]", (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4), 0, shift),
}


def responses(names: Sequence[str] = TARGETS) -> pd.DataFrame:
    """A row for each target, damage and level, with every metric that a known fit has."""
    rows = []
    for name in names:
        target = named.target(name)
        assert isinstance(target, Mixture)
        asked = {f"{kind} {level:.6g}": (kind, level) for kind, d in DAMAGES.items() for level in d.levels}
        spoilt = {key: DAMAGES[kind].apply(target, level) for key, (kind, level) in asked.items()}
        drawn = {row.name: row.metrics for row in judged(target, spoilt)}
        for key, (kind, level) in asked.items():
            # Where quadrature is to be had it replaces the draws; the neighbour scores are of draws always.
            exact = exactly(target, spoilt[key]).metrics if target.dim == 1 else {}
            at = 1 - spoilt[key].modes / target.modes if kind == "lost" else level
            rows.append({"target": name, "damage": kind, "level": at, **drawn[key], **exact})
    return pd.DataFrame(rows).drop_duplicates(["target", "damage", "level"], ignore_index=True)


def exactly(target: Mixture, q: Mixture) -> Evaluation:
    """The metrics of a fit on a line, by quadrature."""
    of_p, of_q, level_p, level_q = mixture_quadrature([target], [q])
    (found,) = evaluate([target], of_p, of_q, level_p=level_p, level_q=level_q, df_q=q.df)
    return found
