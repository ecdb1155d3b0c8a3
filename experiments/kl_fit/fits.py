"""Fitted distributions, in float64 and in the targets' own units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from experiments.kl_fit.families import GaussianMixture, StudentT
from experiments.metrics.density import MASS
from experiments.targets import Mixture


@dataclass(frozen=True)
class Gaussians:
    """K Gaussians: means ``(K, D)``, Cholesky factors ``(K, D, D)``."""

    mean: np.ndarray
    tril: np.ndarray

    def __getitem__(self, block: slice) -> Gaussians:
        return Gaussians(self.mean[block], self.tril[block])

    @property
    def healthy(self) -> np.ndarray:
        """Which are finite and have a width, ``(K,)``."""
        finite = np.isfinite(self.mean).all(axis=1) & np.isfinite(self.tril).all(axis=(1, 2))
        return np.asarray(finite & (np.einsum("kii->ki", self.tril) > 0).all(axis=1))

    def moments(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, covariance and the weight of the one component of fit k."""
        return self.mean[k], self.tril[k] @ self.tril[k].T, np.ones(1)

    @property
    def dim(self) -> int:
        return int(self.mean.shape[1])

    @property
    def log_det(self) -> np.ndarray:
        """Of the Cholesky factors, ``(K,)``."""
        return np.asarray(np.log(np.einsum("kii->ki", self.tril)).sum(axis=1))

    @property
    def level(self) -> np.ndarray:
        """Log-density at the edge of the 95 % highest-density region, ``(K,)``."""
        peak = -0.5 * self.dim * math.log(2 * math.pi) - self.log_det
        half_quantile = special.gammaincinv(0.5 * self.dim, MASS)  # of chi2, whose module in scipy loads slowly
        return np.asarray(peak - half_quantile)

    def sample(self, normal: np.ndarray) -> np.ndarray:
        """``mean + L z``, ``(K, D, N)``."""
        return np.asarray(self.mean[:, :, None] + self.tril @ normal)


@dataclass(frozen=True)
class Mixtures:
    """K mixtures of one size; ``healthy`` ``(K,)`` says which fits they are, and which stand in for diverged ones."""

    each: Sequence[Mixture]
    healthy: np.ndarray

    @classmethod
    def of(
        cls, family: GaussianMixture | StudentT, theta: np.ndarray, center: np.ndarray, factor: np.ndarray
    ) -> Mixtures:
        """Of parameters ``(K, P)`` in frames ``center + factor x``."""
        rows = [family.mixture(*row) for row in zip(theta, center, factor, strict=True)]
        healthy = np.array([_is_proper(row) for row in rows])
        start = family.project(np.zeros(family.dim), np.eye(family.dim))
        spare = [family.mixture(start, *frame) for frame in zip(center, factor, strict=True)]
        each = [row if ok else other for row, ok, other in zip(rows, healthy, spare, strict=True)]
        return cls(each, healthy)

    def __getitem__(self, block: slice) -> Mixtures:
        return Mixtures(self.each[block], self.healthy[block])

    @property
    def dim(self) -> int:
        return self.each[0].dim

    def moments(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Overall mean and covariance, and the weights of the components, of fit k."""
        return self.each[k].mean, self.each[k].covariance, self.each[k].weights


Fits = Gaussians | Mixtures


def _is_proper(mixture: Mixture) -> bool:
    """Whether it is finite, and no component so thin that its covariance is singular in double precision."""
    parts = (mixture.weights, mixture.means, mixture.covariances)
    if not all(np.isfinite(part).all() for part in parts):
        return False
    try:
        np.linalg.cholesky(mixture.covariances)
    except np.linalg.LinAlgError:
        return False
    return True
