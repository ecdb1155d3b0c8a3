"""Fitted distributions, in float64 and in the targets' own units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from experiments.kl_fit.families import Flow, GaussianMixture, StudentT
from experiments.metrics.density import MASS
from experiments.metrics.partition import pieces
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


@dataclass(frozen=True)
class Flows:
    """K flows in frames ``center + factor x``: parameters ``(K, P)``, centres ``(K, D)``, factors ``(K, D, D)``."""

    family: Flow
    theta: Tensor
    center: Tensor
    factor: Tensor

    @classmethod
    def of(cls, family: Flow, theta: Tensor, center: np.ndarray, factor: np.ndarray) -> Flows:
        """Of parameters ``(K, P)``, in float64 on any device."""
        frames = (torch.as_tensor(part, device=theta.device) for part in (center, factor))
        return cls(family, theta, *frames)

    def __getitem__(self, block: slice) -> Flows:
        # A copy: a product's last bits may depend on where its factors begin in memory.
        return Flows(self.family, self.theta[block].clone(), self.center[block], self.factor[block])

    def cpu(self) -> Flows:
        """The same, on the CPU."""
        return Flows(self.family, self.theta.cpu(), self.center.cpu(), self.factor.cpu())

    @property
    def healthy(self) -> np.ndarray:
        """Which are finite, ``(K,)``."""
        return np.asarray(torch.isfinite(self.theta).all(dim=1).cpu().numpy())

    @property
    def dim(self) -> int:
        return self.family.dim

    def sample(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Samples ``(K, D, N)`` from noise of that shape, and their log-density ``(K, N)``."""
        parts = [self.family.rsample_and_log_prob(self.theta, z) for z in pieces(normal)]
        x, log_q = torch.cat([x for x, _ in parts], dim=2), torch.cat([log_q for _, log_q in parts], dim=1)
        return torch.baddbmm(self.center.unsqueeze(2), self.factor, x), log_q - self._log_det

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of x ``(K, D, N)``, as ``(K, N)``."""
        inverse = torch.as_tensor(lower_inverse(self.factor.cpu().numpy()), device=x.device)
        framed = torch.bmm(inverse, x - self.center.unsqueeze(2))
        parts = [self.family.log_prob(self.theta, part) for part in pieces(framed)]
        return torch.cat(parts, dim=1) - self._log_det

    @property
    def _log_det(self) -> Tensor:
        """Of the frames, ``(K, 1)``."""
        log_diagonal = np.log(np.einsum("kii->ki", self.factor.cpu().numpy()))
        return torch.as_tensor(log_diagonal.sum(axis=1)[:, None], device=self.factor.device)


Fits = Gaussians | Mixtures | Flows


def lower_inverse(tril: np.ndarray) -> np.ndarray:
    """Of lower-triangular matrices ``(K, D, D)``, row by row: LAPACK's last bits depend on alignment."""
    inverse = np.zeros_like(tril)
    for i in range(tril.shape[1]):
        inverse[:, i] = -(tril[:, i, :i, None] * inverse[:, :i]).sum(axis=1)
        inverse[:, i, i] += 1.0
        inverse[:, i] /= tril[:, i, i, None]
    return inverse


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
