"""Gaussian families: what is fitted. Parameters of a whole stack are one tensor ``(K, P)``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Shape = Literal["isotropic", "diagonal", "full"]


@dataclass(frozen=True)
class Gaussian:
    r"""The Gaussians ``N(loc, L L^T)`` in D dimensions whose covariance has a given shape.

    The parameters are ``loc``, the log of the diagonal of L and, for ``full``, the entries below it relative
    to the diagonal of their row, :math:`L_{ij} = L_{ii} a_{ij}`: steps then act on a width's logarithm and
    on regression coefficients, at whatever width the fit has come to.
    """

    shape: Shape
    dim: int

    @property
    def noise_dim(self) -> int:
        return self.dim

    @property
    def scales(self) -> int:
        return 1 if self.shape == "isotropic" else self.dim

    @property
    def parameters(self) -> int:
        """P."""
        lower = self.dim * (self.dim - 1) // 2 if self.shape == "full" else 0
        return self.dim + self.scales + lower

    @property
    def is_full(self) -> bool:
        """Whether L has entries below its diagonal."""
        return self.shape == "full" and self.dim > 1

    def rsample(self, theta: Tensor, normal: Tensor) -> Tensor:
        """``loc + L z`` for standard normal z, ``(K, D, N)``; differentiable in theta."""
        loc, scale = self._loc_and_scale(theta)
        if not self.is_full:
            return torch.addcmul(loc, scale, normal)
        return torch.baddbmm(loc, scale * self._unit(theta), normal)

    def weights(self, theta: Tensor, n: int) -> None:
        """All samples weigh alike."""

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density of x ``(K, D, N)``, as ``(K, N)``; differentiable in theta and x."""
        y = self.whiten(theta, x)
        constant = 0.5 * self.dim * math.log(2 * math.pi)
        return -0.5 * (y * y).sum(dim=1) - (self.log_det(theta) + constant).unsqueeze(1)

    def whiten(self, theta: Tensor, x: Tensor) -> Tensor:
        """``L^{-1} (x - loc)``, ``(K, D, N)``."""
        loc, scale = self._loc_and_scale(theta)
        if self.is_full:
            return torch.bmm(self._unit_inverse(theta), (x - loc) / scale)
        return (x - loc) / scale

    def precision_factor(self, theta: Tensor) -> Tensor:
        """``L^{-1}``, ``(K, D, D)``, of a full covariance."""
        _, scale = self._loc_and_scale(theta)
        if self.dim == 1:
            return 1.0 / scale
        return self._unit_inverse(theta) / scale.transpose(1, 2)

    def entropy(self, theta: Tensor) -> Tensor:
        """Differential entropy in nats, ``(K,)``."""
        return self.log_det(theta) + 0.5 * self.dim * (1 + math.log(2 * math.pi))

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(K, D)`` and Cholesky factor of the covariance ``(K, D, D)``."""
        loc, scale = self._loc_and_scale(theta)
        if self.is_full:
            return loc.squeeze(-1), scale * self._unit(theta)
        return loc.squeeze(-1), torch.diag_embed(scale.squeeze(-1).expand(-1, self.dim))

    def project(self, mean: np.ndarray, covariance: np.ndarray, generator: torch.Generator | None = None) -> np.ndarray:
        """Parameters ``(P,)`` of the family's member closest in forward KL to a Gaussian: its moments, restricted."""
        if self.shape == "isotropic":
            return np.append(mean, 0.5 * np.log(np.trace(covariance) / self.dim))
        if not self.is_full:
            return np.concatenate([mean, 0.5 * np.log(np.diag(covariance))])
        tril = np.linalg.cholesky(covariance)
        scale = np.diag(tril)
        lower = (tril / scale[:, None])[np.tril_indices(self.dim, -1)]
        return np.concatenate([mean, np.log(scale), lower])

    def _loc_and_scale(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = theta[:, : self.dim], theta[:, self.dim : self.dim + self.scales]
        return loc.unsqueeze(-1), log_scale.exp().unsqueeze(-1)

    def log_det(self, theta: Tensor) -> Tensor:
        """Log-determinant of L."""
        return theta[:, self.dim : self.dim + self.scales].sum(dim=1) * (self.dim / self.scales)

    def _unit(self, theta: Tensor, size: int | None = None) -> Tensor:
        """The unit lower-triangular factor: L with its rows divided by their diagonal.

        ``(K, D, D)``, or with rows and columns of the identity appended up to ``size``.
        """
        size = size or self.dim
        lower = theta[:, self.dim + self.scales :]
        # 0 and 1, then the entries below the diagonal: what ``_layout`` picks from.
        table = torch.nn.functional.pad(torch.nn.functional.pad(lower, (1, 0), value=1.0), (1, 0))
        return table.index_select(1, _layout(self.dim, size, str(theta.device))).view(len(theta), size, size)

    def _unit_inverse(self, theta: Tensor) -> Tensor:
        if self.dim == 2:
            unit = self._unit(theta)
            return 2.0 * torch.eye(2, dtype=theta.dtype, device=theta.device) - unit
        # A solver's last bits depend on where a matrix lies in memory, and so on a cell's place in its stack,
        # unless all are aligned: sixteen numbers fill a cache line.
        size = -(-self.dim // 16) * 16
        eye = torch.eye(size, dtype=theta.dtype, device=theta.device).expand(len(theta), -1, -1)
        unit = self._unit(theta, size)
        inverse = torch.linalg.solve_triangular(unit, eye, upper=False, unitriangular=True)
        return inverse[:, : self.dim, : self.dim]


@lru_cache
def _layout(dim: int, size: int, device: str) -> Tensor:
    """Where each entry of the unit factor comes from in the table of 0, 1 and the entries below the diagonal.

    Kept on the device: a copy at each step would make the host wait for it.
    """
    layout = np.eye(size, dtype=np.int64)
    layout[np.tril_indices(dim, -1)] = 2 + np.arange(dim * (dim - 1) // 2)
    return torch.as_tensor(layout.ravel(), device=device)
