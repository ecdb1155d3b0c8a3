"""Measures of one-dimensional targets and Gaussian fits by Gauss-Legendre quadrature: deterministic, to about 1e-9."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experiments.metrics.landmarks import fresh_landmarks, landmarks
from experiments.metrics.partition import Measure, log_density
from experiments.padding import padded_components
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture

NODES = 10  # of each panel
# Multiples of a component's width at which panels end; 2.5758 is the 99 % interval, 3 that of high quality.
GAUSSIAN = np.array([0.6, 1.2, 1.8, 2.4, 2.5758293035489004, 3.0, 3.8, 4.8, 6.0, 7.5, 9.5])
# Student-t tails: panels that double, out to where even the square of x has nothing left for df of 2.5 and more, and a
# density for those of 1 and more; definitions of targets refuse the others.
STUDENT = np.concatenate([GAUSSIAN[:-4], 4.8 * 2.0 ** np.arange(32)])
HALF = 1.959963984540054  # of the 95 % interval of a standard normal


def quadrature(
    targets: Sequence[Mixture], mean: np.ndarray, sd: np.ndarray, device: str = "cpu"
) -> tuple[Measure, Measure, Tensor]:
    """Measures of K targets and of K Gaussians ``N(mean, sd^2)``, and the level of P's highest-density region.

    No panel holds the end of a region or of a mode's cell, so sums of indicators are exact too.

    Args:
        mean, sd: of the fits, ``(K,)``.
    """
    edges = torch.as_tensor(
        np.stack([_edges(t, m, s) for t, m, s in zip(targets, mean, sd, strict=True)]), device=device
    )
    x, base = _nodes(edges)
    mixture = StackedMixture.stack(targets, torch.float64, device)
    log_p = log_density(mixture, x.unsqueeze(1))
    loc, scale = (torch.as_tensor(v, device=device).unsqueeze(1) for v in (mean, sd))
    log_q = -0.5 * ((x - loc) / scale).square() - scale.log() - 0.5 * np.log(2 * np.pi)
    level = torch.tensor([landmarks(t).level for t in targets], device=device, dtype=torch.float64)
    p = Measure(x.unsqueeze(1), base * log_p.exp(), log_q, exact=True)
    q = Measure(x.unsqueeze(1), base * log_q.exp(), log_q, exact=True)
    return p, q, level


def mixture_quadrature(
    targets: Sequence[Mixture], fits: Sequence[Mixture], device: str = "cpu"
) -> tuple[Measure, Measure, Tensor, Tensor]:
    """Measures of K targets and of K fits that are mixtures, and the levels of both highest-density regions."""
    lands = [fresh_landmarks(fit) for fit in fits]
    rows = zip(targets, fits, lands, strict=True)
    edges = torch.as_tensor(np.stack([_mixture_edges(t, f, land.ends) for t, f, land in rows]), device=device)
    x, base = _nodes(edges)
    stacked = (StackedMixture.stack(mixtures, torch.float64, device) for mixtures in (targets, fits))
    log_p, log_q = (log_density(mixture, x.unsqueeze(1)) for mixture in stacked)
    level_p = torch.tensor([landmarks(t).level for t in targets], device=device, dtype=torch.float64)
    level_q = torch.tensor([land.level for land in lands], device=device, dtype=torch.float64)
    p = Measure(x.unsqueeze(1), base * log_p.exp(), log_q, exact=True)
    q = Measure(x.unsqueeze(1), base * log_q.exp(), log_q, exact=True)
    return p, q, level_p, level_q


def _nodes(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of all panels, ``(K, N)``."""
    nodes, weights = (torch.as_tensor(v, device=edges.device) for v in np.polynomial.legendre.leggauss(NODES))
    half = 0.5 * edges.diff(dim=1).unsqueeze(2)
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1]).unsqueeze(2)
    return (middle + half * nodes).flatten(1), (half * weights).flatten(1)


def _mixture_edges(target: Mixture, fit: Mixture, ends: np.ndarray) -> np.ndarray:
    parts = [*_landmarks(target), _fewest(ends, 2 * fit.modes)]
    count = 4 * padded_components(target.modes) + 2 * fit.modes
    for mixture, size in ((target, padded_components(target.modes)), (fit, fit.modes)):
        multiples = STUDENT if mixture.df else GAUSSIAN
        parts.append(_around(mixture.means[:, 0], np.sqrt(mixture.covariances[:, 0, 0]), multiples))
        count += (2 * len(multiples) + 1) * size
    edges = np.concatenate(parts)
    count = -(-count // 8) * 8 + 1  # as in _edges
    return np.sort(np.append(edges, np.full(count - len(edges), fit.means[0, 0])))


def _edges(target: Mixture, mean: float, sd: float) -> np.ndarray:
    """Ends of the panels, in order; their number depends on the padded number of components alone."""
    width = padded_components(target.modes)
    of_p = _around(target.means[:, 0], np.sqrt(target.covariances[:, 0, 0]), STUDENT if target.df else GAUSSIAN)
    of_q = _around(np.array([mean]), np.array([sd]), np.append(GAUSSIAN, HALF))
    edges = np.concatenate([of_p, of_q, *_landmarks(target)])
    each = 2 * len(STUDENT if target.df else GAUSSIAN) + 1
    # Panels of no width, where a target has fewer landmarks than another of its padded size might; and so many
    # that the nodes fill whole cache lines.
    count = -(-(each * width + len(of_q) + 4 * width) // 8) * 8 + 1
    return np.sort(np.append(edges, np.full(count - len(edges), mean)))


def _landmarks(target: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the region and borders of the cells: together no more than four for each component of the padded size."""
    known, width = landmarks(target), padded_components(target.modes)
    ends = _fewest(known.ends, 2 * width)
    return ends, _fewest(known.borders, 4 * width - len(ends))


def _fewest(places: np.ndarray, most: int) -> np.ndarray:
    """Of places in order ``(n,)`` at most so many, without those that are the nearest to the one before them.

    Where several pairs of modes meet at one point, as those of evenly spaced ones do, rounding makes several of it.
    """
    if len(places) <= most:
        return places
    gaps = np.diff(places, prepend=-np.inf)
    return places[np.sort(np.argsort(-gaps, kind="stable")[:most])]


def _around(means: np.ndarray, sd: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    steps = np.concatenate([-multiples, [0.0], multiples])
    return (means[:, None] + sd[:, None] * steps).ravel()
