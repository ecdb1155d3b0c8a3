"""What a Gaussian keeps of a mixture, in a word."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import stats

from experiments.targets import Mixture
from experiments.truth.nodes import log_prob_and_score
from experiments.truth.objective import Stack

SHARE = 0.1  # of P's mass in a mode's 99 % ellipse, from which the mode is captured
ELLIPSE = 0.99
REGION = 0.95
RADII, ANGLES = 48, 64


def labels(target: Mixture, q: Stack) -> list[str]:
    """``covering``, ``seeking:<k>``, ``partial:<k>,<l>,...`` or ``between`` of each of S Gaussians.

    A mode is kept if Q holds in its 99 % ellipse at least a tenth of what P holds there, or if its centre lies
    inside Q's 95 % region: a wide Gaussian over needles has little mass in any of them, and still covers them.
    ``between`` keeps none.
    """
    return [_label(np.flatnonzero(row).tolist(), target.modes) for row in kept(target, q)]


def _label(modes: list[int], total: int) -> str:
    if len(modes) == total:
        return "covering"
    if not modes:
        return "between"
    return ("seeking:" if len(modes) == 1 else "partial:") + ",".join(map(str, modes))


def kept(target: Mixture, q: Stack) -> np.ndarray:
    """Which modes each Gaussian keeps, ``(S, M)``."""
    mean, tril = q
    d = target.dim
    if d > 2:
        raise ValueError(f"modes are told apart in one and two dimensions, not in {d}")
    z, weight = _disc(d)
    factors = np.linalg.cholesky(target.covariances)
    x = target.means[:, None] + np.einsum("mij,nj->mni", factors, z)
    volume = weight * np.linalg.det(factors)[:, None]
    log_p = log_prob_and_score(target, x.reshape(-1, d), score=False)[0].reshape(volume.shape)
    of_p = (np.exp(log_p) * volume).sum(axis=1)
    inverse = np.linalg.inv(tril)
    inside = stats.chi2.ppf(REGION, d)
    rows = []
    for m, lower in zip(mean, inverse, strict=True):
        norm = ((x - m) @ lower.T)**2
        density = np.exp(-0.5 * norm.sum(axis=2)) * np.linalg.det(lower) / (2 * math.pi) ** (d / 2)
        centre = (((target.means - m) @ lower.T) ** 2).sum(axis=1)
        rows.append(((density * volume).sum(axis=1) >= SHARE * of_p) | (centre <= inside))
    return np.stack(rows)


@lru_cache(maxsize=2)
def _disc(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the 99 % interval, or disc, of a standard normal."""
    nodes, weights = np.polynomial.legendre.leggauss(RADII)
    radius = math.sqrt(stats.chi2.ppf(ELLIPSE, dim))
    if dim == 1:
        return radius * nodes[:, None], radius * weights
    r, w = 0.5 * radius * (nodes + 1), 0.5 * radius * weights
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    x = r[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return x.reshape(-1, 2), np.repeat(r * w * 2 * np.pi / ANGLES, ANGLES)
