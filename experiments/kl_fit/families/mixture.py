"""Mixtures of Gaussians as fits: many modes, whose weights are learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.kl_fit.families.gaussian import Gaussian
from experiments.targets import Mixture


@dataclass(frozen=True)
class GaussianMixture:
    r"""The mixtures of C Gaussians with full covariances.

    .. math:: q(x) = \sum_c \pi_c N(x; loc_c, L_c L_c^T), \qquad
              E_q[f] = \sum_c \pi_c\, E_{z \sim N(0, I)}[f(loc_c + L_c z)]

    Samples are stratified: every component has its share of the columns, and a column of component c weighs
    :math:`\pi_c / n_c`. No component is drawn, so the weights' gradient is exact for the given points.
    Morningstar et al. 2021, "Automatic differentiation variational inference with mixture models",
    https://arxiv.org/abs/2003.01687.

    Parameters: C logits, then each component's, as those of a full ``Gaussian``.
    """

    dim: int
    components: int

    @property
    def noise_dim(self) -> int:
        return self.dim

    @property
    def parameters(self) -> int:
        """P."""
        return self.components * (1 + self._gaussian.parameters)

    def rsample(self, theta: Tensor, normal: Tensor) -> Tensor:
        """Samples ``(K, D, N)``, column j of component j modulo C; differentiable in theta."""
        k, d, n = normal.shape
        c = self.components
        rounds = -(-n // c)
        z = torch.nn.functional.pad(normal, (0, rounds * c - n)).view(k, d, rounds, c)
        loc, tril = self._gaussian.moments(self._parts(theta))
        x = loc.view(k, c, d).transpose(1, 2).unsqueeze(2)
        columns = tril.view(k, c, d, d).permute(3, 0, 2, 1).unsqueeze(3)
        for j in range(d):
            x = x + columns[j] * z[:, j : j + 1]
        return x.reshape(k, d, rounds * c)[:, :, :n].contiguous()

    def weights(self, theta: Tensor, n: int) -> Tensor:
        """Of the first n columns of ``rsample``, ``(K, n)``; rows sum to one where n is at least C."""
        column = torch.arange(n, device=theta.device) % self.components
        share = n // self.components + (torch.arange(self.components, device=theta.device) < n % self.components)
        return (self._log_weights(theta).exp() / share.to(theta.dtype)).index_select(1, column)

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density of x ``(K, D, N)``, as ``(K, N)``; differentiable in theta and x."""
        k, d, n = x.shape
        parts = self._parts(theta)
        factor = self._gaussian.precision_factor(parts).view(k, self.components, d, d)
        loc = parts[:, :d].view(k, self.components, 1, d)
        offset = -(factor * loc).sum(dim=3)
        rows = factor.transpose(1, 2).reshape(k, d * self.components, d)  # D-major, as in StackedMixture
        y = torch.baddbmm(offset.transpose(1, 2).reshape(k, -1, 1), rows, x).view(k, d, self.components, n)
        distance = y.square().sum(dim=1)
        log_det = self._gaussian.log_det(parts).view(k, self.components)
        log_scale = self._log_weights(theta) - log_det - 0.5 * d * math.log(2 * math.pi)
        return torch.logsumexp(log_scale.unsqueeze(2) - 0.5 * distance, dim=1)

    def entropy(self, theta: Tensor) -> None:
        """No closed form."""

    def project(self, mean: np.ndarray, covariance: np.ndarray, generator: torch.Generator | None = None) -> np.ndarray:
        """Parameters ``(P,)`` of C equal Gaussians whose mixture has, on average, these moments.

        Each has ``h^2`` of the covariance, ``h = C^{-1/D}`` so that together they fill its volume once, and their
        means are drawn from a Gaussian with the rest: a smoothed bootstrap (Silverman 1986, section 6.4.1).
        """
        share = self.components ** (-2.0 / self.dim)
        normal = torch.randn(self.components, self.dim, generator=generator, dtype=torch.float64).numpy()
        means = mean + math.sqrt(1 - share) * normal @ np.linalg.cholesky(covariance).T
        parts = [self._gaussian.project(m, covariance * share) for m in means]
        return np.concatenate([np.zeros(self.components), *parts])

    def mixture(self, theta: np.ndarray, center: np.ndarray, factor: np.ndarray) -> Mixture:
        """One cell's fit ``(P,)`` in the target's units, ``center + factor x``."""
        one = torch.as_tensor(theta[None], dtype=torch.float64)
        loc, tril = self._gaussian.moments(self._parts(one))
        roots = factor @ tril.numpy()
        weights = self._log_weights(one)[0].exp().numpy()
        return Mixture("fit", weights, center + loc.numpy() @ factor.T, roots @ roots.transpose(0, 2, 1))

    @property
    def _gaussian(self) -> Gaussian:
        return Gaussian("full", self.dim)

    def _log_weights(self, theta: Tensor) -> Tensor:
        return torch.log_softmax(theta[:, : self.components], dim=1)

    def _parts(self, theta: Tensor) -> Tensor:
        """The components' parameters, ``(K * C, .)``."""
        return theta[:, self.components :].reshape(len(theta) * self.components, -1)
