"""Student-t fits: one mode with heavy tails."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.kl_fit.families.gaussian import Gaussian
from experiments.targets import Mixture


@dataclass(frozen=True)
class StudentT:
    r"""The multivariate Student-t distributions with full scale matrix ``L L^T`` and fixed degrees of freedom.

    .. math:: x = loc + L z \sqrt{\nu / c}, \qquad z \sim N(0, I),\ c = \sum_{i \le \nu} e_i^2 \sim \chi^2_\nu

    Kotz and Nadarajah 2004, section 1.1. The chi-square is a sum of squares of normals, so the degrees of freedom
    are a whole number. Parameters as those of a full ``Gaussian``, with the scale matrix for the covariance.
    """

    dim: int
    df: int

    @property
    def noise_dim(self) -> int:
        return self.dim + self.df

    @property
    def parameters(self) -> int:
        """P."""
        return self._gaussian.parameters

    def rsample(self, theta: Tensor, normal: Tensor) -> Tensor:
        """Samples ``(K, D, N)`` from noise ``(K, D + df, N)``; differentiable in theta."""
        chi_square = normal[:, self.dim :].square().sum(dim=1, keepdim=True)
        return self._gaussian.rsample(theta, normal[:, : self.dim] * (self.df / chi_square).sqrt())

    def weights(self, theta: Tensor, n: int) -> None:
        """All samples weigh alike."""

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density of x ``(K, D, N)``, as ``(K, N)``; differentiable in theta and x."""
        distance = self._gaussian.whiten(theta, x).square().sum(dim=1)
        peak = self._log_normaliser - self._gaussian.log_det(theta)
        return peak.unsqueeze(1) - 0.5 * (self.df + self.dim) * torch.log1p(distance / self.df)

    def entropy(self, theta: Tensor) -> Tensor:
        r"""Differential entropy in nats, ``(K,)``.

        .. math:: \ln\det L - \ln Z + \frac{\nu + D}{2} [\psi((\nu + D) / 2) - \psi(\nu / 2)]

        Kotz and Nadarajah 2004, section 1.9.
        """
        half = torch.tensor([0.5 * (self.df + self.dim), 0.5 * self.df], dtype=torch.float64)
        upper, lower = torch.digamma(half).tolist()
        tails = 0.5 * (self.df + self.dim) * (upper - lower)
        return self._gaussian.log_det(theta) - self._log_normaliser + tails

    def project(self, mean: np.ndarray, covariance: np.ndarray, generator: torch.Generator | None = None) -> np.ndarray:
        """Parameters ``(P,)`` of the member with these moments; with two degrees of freedom or fewer, this scale."""
        scale = (self.df - 2) / self.df if self.df > 2 else 1.0
        return self._gaussian.project(mean, covariance * scale)

    def mixture(self, theta: np.ndarray, center: np.ndarray, factor: np.ndarray) -> Mixture:
        """One cell's fit ``(P,)`` in the target's units, ``center + factor x``: a mixture of one component."""
        loc, tril = self._gaussian.moments(torch.as_tensor(theta[None], dtype=torch.float64))
        root = factor @ tril[0].numpy()
        mean = center + factor @ loc[0].numpy()
        return Mixture("fit", np.ones(1), mean[None], (root @ root.T)[None], df=float(self.df))

    @property
    def _gaussian(self) -> Gaussian:
        return Gaussian("full", self.dim)

    @property
    def _log_normaliser(self) -> float:
        """Log-density of the standard member at its centre."""
        half = 0.5 * self.df
        return math.lgamma(half + 0.5 * self.dim) - math.lgamma(half) - 0.5 * self.dim * math.log(self.df * math.pi)
