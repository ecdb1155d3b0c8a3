"""Points that integrals are sums over: the trapezoidal rule, exact to rounding for smooth functions.

Under a Gaussian weight its error falls like exp(-2 pi^2 / h^2) until the function's own structure, such as
the border between two far modes, is what has to be resolved; hence levels, each with half the spacing or less
(Trefethen and Weideman 2014, https://doi.org/10.1137/130932132).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from experiments.stacked_mixture import LEAST, LOG2_E
from experiments.targets import Mixture
from experiments.targets.mixture import log_normaliser

# Spacing and radius, in standard deviations. The first level is for the search: 1e-8 of the mass is beyond.
LEVELS = {
    1: ((0.1, 8.0), (0.025, 9.0), (0.00625, 9.0), (0.0015, 9.0), (0.0004, 9.0)),
    2: ((0.5, 6.0), (0.25, 8.0), (0.125, 8.0), (0.0625, 8.0)),
}
FINEST_OF_P = 2  # all components of P have nodes, and its own density is smooth over each
CHUNK = 1 << 16  # component-node pairs at once: they stay in cache
VECTOR = 32  # numbers: processors compute what is left of an array beyond whole vectors by other functions
TILT = 0.6180339887498949  # angle of the lattice, so that no straight border between modes runs along it


@lru_cache(maxsize=32)
def normal_nodes(dim: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ``(n, D)`` and weights ``(n,)``, summing to one, of the standard normal in 1 or 2 dimensions.

    Their number is a multiple of 32, the last ones without weight: the rounding of a Gaussian's sums then does not
    depend on its place in a stack.
    """
    spacing, radius = LEVELS[dim][level]
    steps = np.arange(-np.ceil(radius / spacing), np.ceil(radius / spacing) + 1) * spacing
    nodes = np.stack(np.meshgrid(*[steps] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    nodes = nodes[(nodes**2).sum(axis=1) <= radius**2]
    if dim == 2:
        c, s = np.cos(TILT), np.sin(TILT)
        nodes = nodes @ np.array([[c, s], [-s, c]])
    weights = np.exp(-0.5 * (nodes**2).sum(axis=1))
    none = -len(nodes) % VECTOR
    return np.pad(nodes, ((0, none), (0, 0))), np.pad(weights / weights.sum(), (0, none))


@lru_cache(maxsize=32)
def student_nodes(dim: int, level: int, df: float) -> tuple[np.ndarray, np.ndarray]:
    """The same of the standard Student-t: trapezoidal in the logarithm of the radius, and in the angle."""
    # Seen from one component, another at 100 deviations is a bump of width 0.01: a line can afford to see it well.
    spacing = (0.1 if dim == 1 else 0.4) / 2 ** min(level, FINEST_OF_P)
    log_r = np.arange(-28.0 / dim, max(14.0, 34.0 / df), spacing)
    r = np.exp(log_r)
    radial = r**dim * (1 + r * r / df) ** (-0.5 * (df + dim))
    count = 2 if dim == 1 else 24 * 2 ** min(level, FINEST_OF_P)
    angles = 2 * np.pi * np.arange(count) / count + (0 if dim == 1 else TILT)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, :dim]
    nodes = (r[:, None, None] * directions).reshape(-1, dim)
    weights = np.repeat(radial, count)
    return nodes, weights / weights.sum()


@dataclass(frozen=True)
class TargetNodes:
    """P as weighted points: ``x (n, D)``, ``weight (n,)`` and ``log_p (n,)``."""

    x: np.ndarray
    weight: np.ndarray
    log_p: np.ndarray


def target_nodes(target: Mixture, level: int) -> TargetNodes:
    """Each component's own nodes, weighted by its share."""
    level = min(level, FINEST_OF_P)
    z, w = normal_nodes(target.dim, level) if target.df is None else student_nodes(target.dim, level, target.df)
    tril = np.linalg.cholesky(target.covariances)
    x = (target.means[:, None] + apply(tril, z[None])).reshape(-1, target.dim)
    weight = (target.weights[:, None] / target.weights.sum() * w).ravel()
    return TargetNodes(x, weight, log_prob_and_score(target, x, score=False)[0])


def entropy(target: Mixture, tolerance: float = 1e-9) -> tuple[float, float]:
    """H(P) in nats and how much the last refinement changed it.

    Of Gaussians on a line by panels, which see a component however narrow it is beside another.
    """
    if target.dim == 1 and target.df is None:
        return target.entropy
    values: list[float] = []
    for level in range(FINEST_OF_P + 1):
        nodes = target_nodes(target, level)
        values.append(-float(nodes.weight @ nodes.log_p))
        if len(values) > 1 and abs(values[-1] - values[-2]) < tolerance:
            break
    return values[-1], abs(values[-1] - values[-2])


def apply(factor: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``factor x`` of ``(S, D, D)`` and ``(S or 1, n, D)``, as ``(S, n, D)``.

    In one and two dimensions these are einsum's bits, in a tenth of its time.
    """
    d = factor.shape[1]
    product = np.empty((len(factor), x.shape[1], d))
    for i in range(d):
        row = product[:, :, i]
        np.multiply(factor[:, i, 0, None], x[:, :, 0], out=row)
        for j in range(1, d):
            row += factor[:, i, j, None] * x[:, :, j]
    return product


def log_prob_and_score(target: Mixture, x: np.ndarray, score: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Log-density ``(n,)`` of P at ``(n, D)``, and its gradient ``(n, D)`` if asked for."""
    d, df = target.dim, target.df
    tril = np.linalg.cholesky(target.covariances)
    inverse = np.linalg.inv(tril)
    log_det = np.log(np.einsum("kii->ki", tril)).sum(axis=1)
    log_scale = np.log(target.weights / target.weights.sum()) - log_det + log_normaliser(d, df)
    offset = np.einsum("kij,kj->ik", inverse, target.means).reshape(-1, 1)
    whiten = torch.as_tensor(inverse.transpose(1, 0, 2).reshape(-1, d))
    shift, scale = torch.as_tensor(offset), torch.as_tensor(log_scale[:, None])
    chunks = torch.split(torch.as_tensor(x), max(2, CHUNK // target.modes // VECTOR) * VECTOR)
    values, scores = zip(*[_piece(part, whiten, shift, scale, df, score) for part in chunks], strict=True)
    return torch.cat(values).numpy(), torch.cat(scores).numpy()


def _piece(
    x: Tensor, whiten: Tensor, offset: Tensor, log_scale: Tensor, df: float | None, score: bool
) -> tuple[Tensor, Tensor]:
    """For a part of the points; torch's exp and its products are several times as fast as numpy's."""
    n, d = x.shape
    y = torch.addmm(offset, whiten, x.T, beta=-1).view(d, -1, n)
    distance = y[0] * y[0]
    for part in y[1:]:
        distance.addcmul_(part, part)
    if df is None:
        joint = torch.add(log_scale, distance, alpha=-0.5)
    else:
        joint = log_scale - 0.5 * (df + d) * torch.log1p(distance / df)
    top = joint.amax(dim=0)
    share = joint.sub_(top).clamp_(min=LEAST[torch.float64]).mul_(LOG2_E).exp2_()
    total = share.sum(dim=0)
    value = total.log().add_(top)
    if not score:
        return value, torch.zeros_like(x)
    share.div_(total)
    if df is not None:
        share.mul_((df + d) / (df + distance))
    return value, -(whiten.T @ y.mul_(share).view(-1, n)).T
