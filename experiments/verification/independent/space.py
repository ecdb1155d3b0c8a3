"""Any dimension: Gauss-Hermite quadrature in two, draws in more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize

from experiments.verification.independent.mix import Array, Mix

PLANE = 90  # nodes of Gauss and Hermite's rule along each axis
DRAWS = 100_000


@lru_cache
def _hermite(dim: int, nodes: int) -> tuple[Array, Array]:
    """Nodes ``(n, D)`` and weights of the standard normal."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[z] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    weight = np.prod(np.stack(np.meshgrid(*[w / w.sum()] * dim, indexing="ij"), axis=-1).reshape(-1, dim), axis=1)
    return grid[weight > 1e-18], weight[weight > 1e-18]


def reverse_kl(p: Mix, mean: Array, lower: Array, nodes: int = PLANE) -> float:
    """KL(N(mean, lower lower^T) || p) by Gauss and Hermite's rule, in a dimension or two."""
    z, w = _hermite(len(mean), nodes)
    minus_entropy = -0.5 * len(mean) * math.log(2 * math.pi * math.e) - np.log(np.abs(np.diag(lower))).sum()
    return float(minus_entropy - w @ p.log_pdf(mean + z @ lower.T))


def entropy_by_hermite(p: Mix, nodes: int = PLANE) -> float:
    """Of a Gaussian mixture, component by component."""
    z, w = _hermite(p.dim, nodes)
    parts = [
        weight * (w @ p.log_pdf(np.array(m) + z @ np.linalg.cholesky(np.array(s)).T))
        for weight, m, s in zip(p.weights, p.means, p.scales, strict=True)
    ]
    return -float(sum(parts))


def best_reverse(p: Mix, shape: str, starts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array, float]:
    """Mean, covariance and KL(Q || P) of the best Gaussian of that shape that scipy finds from some starts."""
    dim = p.dim
    rows, columns = np.tril_indices(dim, -1)

    def unpack(theta: Array) -> tuple[Array, Array]:
        widths = theta[dim : dim + 1] if shape == "isotropic" else theta[dim : 2 * dim]
        lower = np.diag(np.exp(np.broadcast_to(widths, dim)))
        if shape == "full":
            lower[rows, columns] = theta[2 * dim :]
        return theta[:dim], lower

    best: tuple[float, Array, Array] | None = None
    for mean, covariance in starts:
        lower = np.linalg.cholesky(covariance)
        widths = np.log(np.diag(lower))
        free = {"isotropic": widths.mean(keepdims=True), "diagonal": widths}.get(
            shape, np.concatenate([widths, lower[rows, columns]])
        )
        found = optimize.minimize(
            lambda t: reverse_kl(p, *unpack(t)), np.concatenate([mean, free]), method="BFGS", options={"gtol": 1e-6}
        )
        place, factor = unpack(found.x)
        if best is None or found.fun < best[0]:
            best = float(found.fun), place, factor @ factor.T
    assert best is not None
    return best[1], best[2], best[0]


@dataclass(frozen=True)
class Drawn:
    """Means of draws ``(n,)`` with their standard errors."""

    forward_kl: tuple[float, float]
    reverse_kl: tuple[float, float]
    jensen_shannon: tuple[float, float]
    coverage: tuple[float, float]
    sharpness: tuple[float, float]


def by_draws(p: Mix, q: Mix, seed: int = 0, n: int = DRAWS) -> Drawn:
    """Divergences, coverage and sharpness in any dimension, from independent draws of both."""
    rng = np.random.default_rng(seed)
    of_p, of_q = p.draw(n, rng), q.draw(n, rng)
    p_p, q_p, p_q, q_q = p.log_pdf(of_p), q.log_pdf(of_p), p.log_pdf(of_q), q.log_pdf(of_q)
    root = math.sqrt(n)

    def mean(values: Array) -> tuple[float, float]:
        return float(values.mean()), float(values.std()) / root

    halves = [math.log(2) - np.logaddexp(0, b - a) for a, b in ((p_p, q_p), (q_q, p_q))]
    middle = [mean(h) for h in halves]
    return Drawn(
        mean(p_p - q_p),
        mean(q_q - p_q),
        (0.5 * (middle[0][0] + middle[1][0]), 0.5 * math.hypot(middle[0][1], middle[1][1])),
        _inside(q_p, q_q),
        _inside(p_q, p_p),
    )


def _inside(log_density: Array, of_own: Array) -> tuple[float, float]:
    """Share of points in the region that holds 95 % of its own density's draws; their level has an error too."""
    n = len(of_own)
    shift = math.sqrt(0.05 * 0.95 / n)
    low, level, high = np.quantile(of_own, [0.05 - shift, 0.05, 0.05 + shift])
    share = (log_density >= level).mean()
    moved = 0.5 * float((log_density >= low).mean() - (log_density >= high).mean())
    error = math.hypot(math.sqrt(share * (1 - share) / n), moved)
    return min(1.0, float(share) / 0.95), error / 0.95
