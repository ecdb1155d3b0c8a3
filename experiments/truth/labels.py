"""What a Gaussian keeps of a mixture, in a word."""

from __future__ import annotations

import numpy as np
from scipy import special

from experiments.targets import Mixture
from experiments.truth.nodes import apply, normal_nodes, student_nodes
from experiments.truth.objective import Stack

REGION = 0.95
SHARE = 0.25  # of a mode's own mass inside Q's 95 % region, from which Q keeps it


def labels(target: Mixture, q: Stack) -> list[str]:
    """``covering``, ``seeking:<k>``, ``partial:<k>,<l>,...`` or ``between`` of each of S Gaussians.

    A mode is kept if at least a quarter of its own mass lies inside Q's 95 % region. So a wide Gaussian over
    needles covers them, though it has little mass in any, and one arm of a star does not hold the others,
    though it crosses all of them in the middle. ``between`` keeps none.
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
    z, weight = normal_nodes(d, 0) if target.df is None else student_nodes(d, 0, target.df)
    factors = np.linalg.cholesky(target.covariances)
    x = target.means[:, None] + apply(factors, z[None])
    limit = 2 * special.gammaincinv(0.5 * d, REGION)  # quantile of chi2
    rows = []
    for m, lower in zip(mean, np.linalg.inv(tril), strict=True):
        inside = (((x - m) @ lower.T) ** 2).sum(axis=2) <= limit
        rows.append(inside @ weight >= SHARE)
    return np.stack(rows)
