"""Measures of one-dimensional targets and Gaussian fits by Gauss-Legendre quadrature: deterministic, to about 1e-9."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from experiments.metrics.density import MASS
from experiments.metrics.landmarks import fresh_landmarks, landmarks
from experiments.metrics.partition import Measure, log_density
from experiments.padding import padded_components
from experiments.stacked_mixture import StackedMixture
from experiments.targets import Mixture
from experiments.targets.mixture import log_normaliser

NODES = 10  # of each panel
NODE, WEIGHT = np.polynomial.legendre.leggauss(NODES)
# Multiples of a component's width at which panels end; 2.5758 is the 99 % interval, 3 that of high quality.
GAUSSIAN = np.array([0.6, 1.2, 1.8, 2.4, 2.5758293035489004, 3.0, 3.8, 4.8, 6.0, 7.5, 9.5])
# Student-t tails: panels that double, out to where even the square of x has nothing left for df of 2.5 and more, and a
# density for those of 1 and more; definitions of targets refuse the others.
STUDENT = np.concatenate([GAUSSIAN[:-4], 4.8 * 2.0 ** np.arange(32)])
MARKS = 6  # of each component: two ends of the region, and two borders of either partition
HALF = 1.959963984540054  # of the 95 % interval of a standard normal
# Spacings of floats at its mean: a fit's component with a smaller sd has nodes that round to too few places. Its
# weights would miss a sum of 1 by 1e-6 and more, in the end by all of it. So the ends of its panels are held as sums of
# two floats, and log q is taken where the nodes are, not where they are rounded to; log p is the same there, unless the
# target is as narrow.
NARROW = 2.0**18


def quadrature(
    targets: Sequence[Mixture], mean: np.ndarray, sd: np.ndarray, device: str = "cpu"
) -> tuple[Measure, Measure, Tensor]:
    """Measures of K targets and of K Gaussians ``N(mean, sd^2)``, and the level of P's highest-density region.

    No panel holds the end of a region or of a mode's cell, so sums of indicators are exact too.

    Args:
        mean, sd: of the fits, ``(K,)``.
    """
    edges = np.stack([_edges(t, m, s) for t, m, s in zip(targets, mean, sd, strict=True)])
    x, base = _nodes(torch.as_tensor(edges, device=device))
    mixture = StackedMixture.stack(targets, torch.float64, device)
    log_p = log_density(mixture, x.unsqueeze(1))
    loc, scale = (torch.as_tensor(v, device=device).unsqueeze(1) for v in (mean, sd))
    log_q = -0.5 * ((x - loc) / scale).square() - scale.log() - 0.5 * np.log(2 * np.pi)
    for k in np.flatnonzero(_narrow(mean, sd)):
        log_q[k] = torch.as_tensor(_log_q(edges[k], np.ones(1), mean[[k]], sd[[k]]), device=device)
    level = torch.tensor([landmarks(t).level for t in targets], device=device, dtype=torch.float64)
    p = Measure(x.unsqueeze(1), base * log_p.exp(), log_q, exact=True)
    q = Measure(x.unsqueeze(1), base * log_q.exp(), log_q, exact=True)
    return p, q, level


def mixture_quadrature(
    targets: Sequence[Mixture], fits: Sequence[Mixture], device: str = "cpu"
) -> tuple[Measure, Measure, Tensor, Tensor]:
    """Measures of K targets and of K fits that are mixtures, and the levels of both highest-density regions."""
    levels, ends = zip(*[_region(fit) for fit in fits], strict=True)
    edges = np.stack([_mixture_edges(t, f, end) for t, f, end in zip(targets, fits, ends, strict=True)])
    x, base = _nodes(torch.as_tensor(edges, device=device))
    stacked = (StackedMixture.stack(mixtures, torch.float64, device) for mixtures in (targets, fits))
    log_p, log_q = (log_density(mixture, x.unsqueeze(1)) for mixture in stacked)
    for k, fit in enumerate(fits):
        mean, sd = _places(fit)
        if _narrow(mean, sd).any():
            log_q[k] = torch.as_tensor(_log_q(edges[k], fit.weights, mean, sd, fit.df), device=device)
    level_p = torch.tensor([landmarks(t).level for t in targets], device=device, dtype=torch.float64)
    level_q = torch.tensor(levels, device=device, dtype=torch.float64)
    p = Measure(x.unsqueeze(1), base * log_p.exp(), log_q, exact=True)
    q = Measure(x.unsqueeze(1), base * log_q.exp(), log_q, exact=True)
    return p, q, level_p, level_q


def _nodes(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of all panels, ``(K, N)``, between ends ``(K, 2, n)`` and what rounding left of them."""
    nodes, weights = (torch.as_tensor(v, device=edges.device) for v in (NODE, WEIGHT))
    places, rests = edges.unbind(dim=1)
    half = 0.5 * (places.diff(dim=1) + rests.diff(dim=1)).unsqueeze(2)
    middle = 0.5 * (places[:, 1:] + places[:, :-1]).unsqueeze(2)
    return (middle + half * nodes).flatten(1), (half * weights).flatten(1)


def _log_q(
    edges: np.ndarray, weights: np.ndarray, mean: np.ndarray, sd: np.ndarray, df: float | None = None
) -> np.ndarray:
    """Log-density of one fit with M components ``(M,)`` at the nodes between edges ``(2, n)``, from their left ends."""
    (places, rests), half = edges[:, :-1, None], 0.5 * np.diff(edges).sum(axis=0)[:, None]
    away = rests + half * (1 + NODE)
    weights, mean, sd = (part[:, None, None] for part in (weights, mean, sd))
    with np.errstate(over="ignore"):  # far away from a narrow one there is nothing of it
        square = (((places - mean) + away) / sd) ** 2
    tail = square if df is None else (df + 1) * np.log1p(square / df)
    parts = np.log(weights) - np.log(sd) + log_normaliser(1, df) - 0.5 * tail
    return np.asarray(np.logaddexp.reduce(parts, axis=0).ravel())


def _narrow(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    return np.asarray((sd > 0) & (sd < NARROW * np.spacing(np.abs(mean))))


def _places(mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Means and widths of the components, ``(M,)``."""
    return mixture.means[:, 0], np.sqrt(mixture.covariances[:, 0, 0])


def _region(fit: Mixture) -> tuple[float, np.ndarray]:
    """Level and ends of the highest-density region; it holds narrow components whole, whose ends no float can be."""
    wide = ~_narrow(*_places(fit))
    if wide.all():
        found = fresh_landmarks(fit)
        return found.level, found.ends
    weight = float(fit.weights[wide].sum())
    if weight <= 1 - MASS:
        return math.inf, np.empty(0)  # it is within the narrow ones, where P has no mass to speak of
    parts = fit.weights[wide] / weight, fit.means[wide], fit.covariances[wide]
    rest = replace(fit, weights=parts[0], means=parts[1], covariances=parts[2])
    found = fresh_landmarks(rest, 1 - (1 - MASS) / weight)
    return found.level + math.log(weight), found.ends


def _mixture_edges(target: Mixture, fit: Mixture, ends: np.ndarray) -> np.ndarray:
    of_p, of_q = (_around(*_places(m), STUDENT if m.df else GAUSSIAN) for m in (target, fit))
    count = MARKS * padded_components(target.modes) + 2 * fit.modes
    for mixture, size in ((target, padded_components(target.modes)), (fit, fit.modes)):
        count += (2 * len(STUDENT if mixture.df else GAUSSIAN) + 1) * size
    others = [of_p[0], *_landmarks(target), _fewest(ends, 2 * fit.modes)]
    return _in_order(of_q, others, count, fit.means[0, 0])


def _edges(target: Mixture, mean: float, sd: float) -> np.ndarray:
    """Ends of the panels, in order; their number depends on the padded number of components alone."""
    width = padded_components(target.modes)
    of_p = _around(*_places(target), STUDENT if target.df else GAUSSIAN)
    of_q = _around(np.array([mean]), np.array([sd]), np.append(GAUSSIAN, HALF))
    each = 2 * len(STUDENT if target.df else GAUSSIAN) + 1
    return _in_order(of_q, [of_p[0], *_landmarks(target)], (each + MARKS) * width + of_q.shape[1], mean)


def _in_order(of_q: np.ndarray, others: Sequence[np.ndarray], count: int, spare: float) -> np.ndarray:
    """Ends of the panels and what rounding left of Q's, ``(2, n)``, n no less than ``count``."""
    # Panels of no width, where a target has fewer landmarks than another of its padded size might; and so many
    # that the nodes fill whole cache lines.
    edges = np.zeros((2, -(-count // 8) * 8 + 1))
    edges[0] = spare
    edges[:, : of_q.shape[1]] = of_q
    known = np.concatenate(others)
    edges[0, of_q.shape[1] :][: len(known)] = known
    return edges[:, np.lexsort(edges[::-1])]


def _landmarks(target: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the region and borders of the cells, together no more than ``MARKS`` times the padded components."""
    known, width = landmarks(target), padded_components(target.modes)
    ends = _fewest(known.ends, 2 * width)
    return ends, _fewest(known.borders, MARKS * width - len(ends))


def _fewest(places: np.ndarray, most: int) -> np.ndarray:
    """Of places in order ``(n,)`` at most so many, without those that are the nearest to the one before them.

    Where several pairs of modes meet at one point, as those of evenly spaced ones do, rounding makes several of it.
    """
    if len(places) <= most:
        return places
    gaps = np.diff(places, prepend=-np.inf)
    return places[np.sort(np.argsort(-gaps, kind="stable")[:most])]


def _around(means: np.ndarray, sd: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    """Multiples of widths from means ``(M,)``; and of narrow ones what rounding left of them, else 0: ``(2, n)``."""
    away = sd[:, None] * np.concatenate([-multiples, [0.0], multiples])
    places = means[:, None] + away
    # Knuth 1997, section 4.2.2, theorem B: the sum of both is exact.
    moved = places - means[:, None]
    rests = (means[:, None] - (places - moved)) + (away - moved)
    return np.stack([places, np.where(_narrow(means, sd)[:, None], rests, 0.0)]).reshape(2, -1)
