"""A divergence and its exact gradient for a stack of S Gaussians, by deterministic quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments.closed_forms import Shape
from experiments.targets import Mixture
from experiments.truth.divergence import Divergence
from experiments.truth.nodes import TargetNodes, apply, entropy, log_prob_and_score, normal_nodes, target_nodes

BLOCK = 1 << 20  # numbers at once in the sums over P's nodes

Stack = tuple[np.ndarray, np.ndarray]
"""Means ``(S, D)`` and Cholesky factors ``(S, D, D)``."""


def basis(shape: Shape, dim: int) -> np.ndarray:
    """Lower-triangular directions ``(P, D, D)`` in which a factor moves: ``L <- L (I + sum_j t_j B_j)``."""
    if shape == "isotropic":
        return np.eye(dim)[None]
    rows, columns = np.diag_indices(dim) if shape == "diagonal" else np.tril_indices(dim)
    directions = np.zeros((len(rows), dim, dim))
    directions[np.arange(len(rows)), rows, columns] = 1.0
    return directions


def move(q: Stack, step: np.ndarray, directions: np.ndarray) -> Stack:
    """Where a step ``(S, D + P)`` in Gaussians' own widths leads: ``m + L d``, ``L (exp diag + lower)``."""
    mean, tril = q
    d = mean.shape[1]
    change = np.einsum("sj,jab->sab", step[:, d:], directions)
    factor = np.tril(change, -1)
    index = np.arange(d)
    factor[:, index, index] = np.exp(change[:, index, index])
    return mean + np.einsum("sij,sj->si", tril, step[:, :d]), tril @ factor


@dataclass(frozen=True)
class Objective:
    """The divergence of Gaussians of one shape from one target, at one level of quadrature.

    No value is a matrix product, whose rounding depends on the number of rows: a Gaussian's value is its own.
    """

    target: Mixture
    divergence: Divergence
    shape: Shape
    level: int

    @cached_property
    def directions(self) -> np.ndarray:
        return basis(self.shape, self.target.dim)

    @cached_property
    def _of_p(self) -> TargetNodes:
        return target_nodes(self.target, self.level)

    @cached_property
    def _entropy(self) -> float:
        return entropy(self.target)[0]

    def __call__(self, q: Stack) -> tuple[np.ndarray, np.ndarray]:
        """Values ``(S,)``, infinite where undefined; gradients ``(S, D + P)`` in ``move``'s coordinates."""
        forward, reverse = self.divergence.kl_weights
        parts = []
        with np.errstate(all="ignore"):
            if forward:
                parts.append(self._forward(q, forward))
            if reverse or self.divergence.has_rest:
                parts.append(self._under_q(q, reverse))
            if self.divergence.has_rest:
                parts.append(self._under_p(q))
        value = sum(part[0] for part in parts)
        by_mean, by_factor = (sum(part[i] for part in parts) for i in (1, 2))
        gradient = np.concatenate([by_mean, np.einsum("sab,jab->sj", by_factor, self.directions)], axis=1)
        bad = ~np.isfinite(value) | ~np.isfinite(gradient).all(axis=1) | ~self._is_finite(q)
        return np.where(bad, np.inf, value), np.where(bad[:, None], 0.0, gradient)

    def values(self, q: Stack) -> np.ndarray:
        """The values ``(S,)`` alone, the same to the last bit, at half the cost."""
        forward, reverse = self.divergence.kl_weights
        parts = []
        with np.errstate(all="ignore"):
            if forward:
                parts.append(self._forward(q, forward)[0])
            if reverse or self.divergence.has_rest:
                _, u = self._log_ratio(q, score=False)
                weight = normal_nodes(self.target.dim, self.level)[1]
                parts.append((self._integrand(u, reverse)[0] * weight).sum(axis=1))
            if self.divergence.has_rest:
                parts.append(self._under_p(q)[0])
        value = sum(parts)
        return np.where(np.isfinite(value) & self._is_finite(q), value, np.inf)

    def _forward(self, q: Stack, weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Forward KL needs only P's moments and entropy."""
        mean, tril = q
        inverse = np.linalg.inv(tril)
        away = np.einsum("sij,sj->si", inverse, self.target.mean - mean)
        second = inverse @ self.target.covariance @ inverse.transpose(0, 2, 1) + away[:, :, None] * away[:, None]
        d = mean.shape[1]
        trace = np.einsum("sii->s", second)
        value = 0.5 * (d * math.log(2 * math.pi) + trace) + _log_det(tril) - self._entropy
        return weight * value, -weight * away, weight * (np.eye(d) - second)

    def _under_q(self, q: Stack, weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums over Q's nodes, which move with it: the reparameterization gradient, without noise."""
        _, tril = q
        z, w = normal_nodes(self.target.dim, self.level)
        score, u = self._log_ratio(q, score=True)
        value, slope = self._integrand(u, weight)
        pull = np.einsum("sn,sni->sni", slope * w, score) @ tril
        by_factor = np.einsum("sni,nj->sij", pull, z) + (slope @ w)[:, None, None] * np.eye(self.target.dim)
        return (value * w).sum(axis=1), pull.sum(axis=1), by_factor

    def _log_ratio(self, q: Stack, score: bool) -> tuple[np.ndarray, np.ndarray]:
        """P's score ``(S, n, D)``, if asked for, and log p - log q ``(S, n)`` at Q's nodes."""
        mean, tril = q
        s, d = mean.shape
        z, _ = normal_nodes(d, self.level)
        x = mean[:, None] + apply(tril, z[None])
        log_p, slope = log_prob_and_score(self.target, x.reshape(-1, d), score)
        log_norm = _log_det(tril) + 0.5 * d * math.log(2 * math.pi)
        u = log_p.reshape(s, -1) + 0.5 * (z**2).sum(axis=1) + log_norm[:, None]
        return slope.reshape(s, -1, d), u

    def _integrand(self, u: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """What is summed over Q's nodes, and its derivative by u."""
        value, slope = -weight * u, np.full_like(u, -weight)
        if self.divergence.has_rest:
            rest, rest_slope = self.divergence.rest(u)
            value, slope = value + rest, slope + rest_slope
        return value, slope

    def _under_p(self, q: Stack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums over P's nodes, which stay."""
        block = max(1, BLOCK // len(self._of_p.x))
        starts = range(0, len(q[0]), block)
        parts = [self._block_under_p(q[0][i : i + block], q[1][i : i + block]) for i in starts]
        value, by_mean, by_factor = (np.concatenate(part) for part in zip(*parts, strict=True))
        return value, by_mean, by_factor

    def _block_under_p(self, mean: np.ndarray, tril: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nodes, d = self._of_p, mean.shape[1]
        y = apply(np.linalg.inv(tril), nodes.x - mean[:, None])
        log_q = -0.5 * (y**2).sum(axis=2) - (_log_det(tril) + 0.5 * d * math.log(2 * math.pi))[:, None]
        value, slope = self.divergence.rest(nodes.log_p - log_q)
        weighted = -slope * nodes.weight
        by_mean = np.einsum("sn,sni->si", weighted, y)
        second = np.einsum("sn,sni,snj->sij", weighted, y, y)
        return (value * nodes.weight).sum(axis=1), by_mean, second - weighted.sum(axis=1)[:, None, None] * np.eye(d)

    def _is_finite(self, q: Stack) -> np.ndarray:
        """Whether the integral over all of space is: nodes, which end somewhere, would not tell."""
        alpha = self.divergence.alpha
        if self.divergence.name != "alpha" or 0 <= alpha <= 1 or self.target.df is not None:
            return np.ones(len(q[0]), dtype=bool)
        # p^alpha q^(1 - alpha) must fall in every direction: alpha Lambda_p + (1 - alpha) Lambda_q > 0,
        # for every component if alpha > 1, and for one of them if alpha < 0.
        whitened = np.linalg.inv(np.linalg.cholesky(self.target.covariances))[None] @ q[1][:, None]
        lowest = np.linalg.eigvalsh(alpha * whitened.transpose(0, 1, 3, 2) @ whitened)[:, :, 0] + 1 - alpha > 0
        each: Callable[..., np.ndarray] = np.all if alpha > 1 else np.any
        return np.asarray(each(lowest, axis=1))


def _log_det(tril: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.einsum("sii->si", tril)).sum(axis=1))
