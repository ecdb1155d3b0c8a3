"""One-dimensional targets: where the highest-density region and the modes' cells end, to rounding error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from scipy import special

from experiments.targets import Mixture

# Numbers at once, of which there are M for each place: all of them would take gigabytes from some 100 components on.
BLOCK = 1 << 22
CACHED = 1 << 16  # where there are M^3 in all: three times as fast


@dataclass(frozen=True)
class Landmarks:
    """Of a one-dimensional mixture.

    Args:
        target: the mixture.
        level: log-density at the ends of the 95 % highest-density region.
        ends: the ends themselves, at most two for each component.
    """

    target: Mixture
    level: float
    ends: np.ndarray

    @cached_property
    def borders(self) -> np.ndarray:
        """Where the most responsible mode changes, and where the one whose own density is the highest does.

        Each at most ``2 M - 2`` places, and where all weights are equal the same; but rounding may make several of one.
        """
        found, weights = _borders(self.target), self.target.weights
        if (weights == weights[0]).all():
            return found
        unweighted = replace(self.target, weights=np.full_like(weights, 1 / len(weights)))
        return np.unique(np.concatenate([found, _borders(unweighted)]))


class _ByDigest:
    """A mixture that is hashed by its content, to be a key of the cache."""

    def __init__(self, target: Mixture) -> None:
        self.target = target

    def __hash__(self) -> int:
        return hash(self.target.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByDigest) and other.target.digest == self.target.digest


def landmarks(target: Mixture, mass: float = 0.95) -> Landmarks:
    """Of a mixture in one dimension; computed once for each target of a process."""
    return _landmarks(_ByDigest(target), mass)


def fresh_landmarks(mixture: Mixture, mass: float = 0.95) -> Landmarks:
    """The same, of a mixture that will not be asked for again."""
    return _landmarks.__wrapped__(_ByDigest(mixture), mass)


@lru_cache(maxsize=4096)
def _landmarks(key: _ByDigest, mass: float) -> Landmarks:
    target = key.target
    grid = _grid(target)
    on_grid = _in_parts(lambda x: _log_prob_and_score(target, x)[0], grid, BLOCK // target.modes)
    top = float(on_grid.max())
    low, high = top - 60.0, top
    level = _first_level(target, grid, on_grid, mass)
    for _ in range(100):
        ends, steepness = _ends(target, grid, on_grid, level)
        excess = float(np.diff(_cdf(target, ends).reshape(-1, 2), axis=1).sum()) - mass
        if abs(excess) < 1e-13:
            break
        low, high = (level, high) if excess > 0 else (low, level)
        # Raising the level by dl moves each end inwards by dl / |score|.
        newton = level + excess / float((math.exp(level) / steepness).sum())
        level = newton if low < newton < high else 0.5 * (low + high)
    return Landmarks(target, level, ends)


def _grid(target: Mixture) -> np.ndarray:
    """Points among which the density rises and falls once between neighbours, or hardly at all."""
    sd = np.sqrt(target.covariances[:, 0, 0])
    reach = np.linspace(0, 4, 81)[1:]
    tails = np.geomspace(4, 1e5 if target.df else 12, 40)[1:]
    steps = np.concatenate([-tails[::-1], -reach[::-1], [0.0], reach, tails])
    return np.unique(target.means[:, 0, None] + sd[:, None] * steps)


def _first_level(target: Mixture, grid: np.ndarray, on_grid: np.ndarray, mass: float) -> float:
    """To about a percent: the gaps of the grid, from the densest, until they hold the mass."""
    middle = 0.5 * (on_grid[1:] + on_grid[:-1])
    order = np.argsort(-middle)
    filled = np.cumsum(np.diff(_in_parts(lambda x: _cdf(target, x), grid, BLOCK // target.modes))[order])
    return float(middle[order[min(int(np.searchsorted(filled, mass)), len(order) - 1)]])


def _ends(target: Mixture, grid: np.ndarray, on_grid: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the log-density crosses a level, in order: up, down, up, down, ...; and how steeply."""
    above = on_grid >= level
    left = np.flatnonzero(above[1:] != above[:-1])
    low, high, rising = grid[left], grid[left + 1], above[left + 1]
    x = 0.5 * (low + high)
    for _ in range(80):  # Newton, by bisection where that would leave the bracket
        log_p, score = _log_prob_and_score(target, x)
        go_left = (log_p >= level) == rising
        low, high = np.where(go_left, low, x), np.where(go_left, x, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = x - (log_p - level) / score
        following = np.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
        if np.all(np.abs(following - x) <= 1e-15 * (1 + np.abs(x))):
            break
        x = following
    return x, np.maximum(np.abs(score), 1e-300)


def _borders(target: Mixture) -> np.ndarray:
    r"""Where two components' weighted densities are equal and no third is above them.

    For Gaussian and for Student-t components of one df alike that is where
    :math:`c_i (\nu + d_i^2) = c_j (\nu + d_j^2)`, or :math:`c_i + d_i^2 = c_j + d_j^2`: a quadratic.
    """
    means, sd, df = target.means[:, 0], np.sqrt(target.covariances[:, 0, 0]), target.df
    log_peak = np.log(target.weights / sd)
    i, j = np.triu_indices(target.modes, 1)
    if df is None:
        factor, constant = np.ones((2, len(i))), -2.0 * np.stack([log_peak[i], log_peak[j]])
    else:
        factor = np.exp(-2.0 / (df + 1) * (np.stack([log_peak[i], log_peak[j]]) - log_peak.max()))
        constant = factor * df
    middle = 0.5 * (means[i] + means[j])  # distances from there keep their digits wherever the modes are
    a = factor / np.stack([sd[i], sd[j]]) ** 2
    m = np.stack([means[i], means[j]]) - middle
    roots = _real_roots(*np.diff(np.stack([a, -2 * a * m, a * m**2 + constant]), axis=1)[:, 0]) + middle
    roots = roots[np.isfinite(roots)]
    if target.modes < 2:
        return roots

    def lead(x: np.ndarray) -> np.ndarray:
        """Relative: far from narrow components log-densities are large, and have as large an error at a root."""
        second, first = np.partition(_log_joint(target, x), -2, axis=0)[-2:]
        return np.asarray((first - second) / (1 + np.abs(first)))

    return np.unique(roots[_in_parts(lead, roots, CACHED // target.modes) < 1e-6])


def _in_parts(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, size: int) -> np.ndarray:
    """A function of places ``(n,)``, at so many of them at a time."""
    size = max(1, size)
    return np.concatenate([function(x[start : start + size]) for start in range(0, len(x) or 1, size)])


def _real_roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Of quadratics that may be lines, or nothing: ``(2, n)``, NaN or infinite where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        q = -0.5 * (b + np.where(b < 0, -1.0, 1.0) * np.sqrt(b * b - 4 * a * c))
        return np.stack([q / a, c / q])


def _log_joint(target: Mixture, x: np.ndarray) -> np.ndarray:
    """Log of weight times density of each component, up to one constant, ``(M, n)``."""
    sd = np.sqrt(target.covariances[:, 0, 0])[:, None]
    square = ((x - target.means) / sd) ** 2
    peak = np.log(target.weights[:, None] / sd)
    if target.df is None:
        return peak - 0.5 * square - 0.5 * np.log(2 * np.pi)
    nu = target.df
    constant = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)
    return peak + constant - 0.5 * (nu + 1) * np.log1p(square / nu)


def _log_prob_and_score(target: Mixture, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    joint = _log_joint(target, x)
    top = joint.max(axis=0)
    share = np.exp(joint - top)
    total = share.sum(axis=0)
    variance, away = target.covariances[:, 0], x - target.means
    slope = away / variance
    if target.df is not None:
        slope = slope * (target.df + 1) / (target.df + away**2 / variance)
    return top + np.log(total), -(share * slope).sum(axis=0) / total


def _cdf(target: Mixture, x: np.ndarray) -> np.ndarray:
    z = (x - target.means) / np.sqrt(target.covariances[:, 0, 0])[:, None]
    each = special.ndtr(z) if target.df is None else special.stdtr(target.df, z)
    return np.asarray(target.weights @ each)
