"""Gaussian families: what is fitted. Parameters of a whole stack are one tensor ``(K, P)``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

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
        """``loc + L z`` for standard normal z, ``(K, D, N)``; differentiable once."""
        return _Rsample.apply(theta, normal, self)

    def place(self, theta: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """``loc + L z``, ``(K, D, N)``, and L as ``pull_back`` wants it."""
        loc, scale = self._loc_and_scale(theta)
        if not self.is_full:
            return torch.addcmul(loc, scale, normal), self._diagonal(scale)
        tril = scale * self._unit(theta)
        return torch.baddbmm(loc, tril, normal), tril

    def pull_back(self, by_x: Tensor, normal: Tensor, tril: Tensor) -> Tensor:
        """The gradient by theta, ``(K, P)``, of what has the gradient ``by_x`` ``(K, D, N)`` by the samples."""
        by_tril = torch.bmm(by_x, normal.transpose(1, 2)) if self.is_full else (by_x * normal).sum(dim=2)
        return self._by_theta(by_x.sum(dim=2), by_tril, tril)

    def weights(self, theta: Tensor, n: int) -> None:
        """All samples weigh alike."""

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density of x ``(K, D, N)``, as ``(K, N)``; differentiable in theta and x."""
        y = self.whiten(theta, x)
        constant = 0.5 * self.dim * math.log(2 * math.pi)
        return -0.5 * (y * y).sum(dim=1) - (self.log_det(theta) + constant).unsqueeze(1)

    def cross_entropy(self, theta: Tensor, x: Tensor, n: int, whole: bool) -> tuple[Tensor | None, Tensor]:
        r"""Mean of -log q over the first n columns of x ``(K, D, N)``, ``(K,)``, and its gradient ``(K, P)``.

        The mean itself, for which the gradient has no use, only if ``whole``.

        Of points a Gaussian needs but their mean and covariance, its sufficient statistics. With
        :math:`y = L^{-1} (\bar x - loc)` and :math:`C = L^{-1} \hat\Sigma L^{-T} + y y^T`

        .. math:: -\frac1N \sum_i \ln q(x_i) = \tfrac12 \mathrm{tr}\, C + \ln\det L + \tfrac D2 \ln 2\pi, \qquad
                  \partial_{loc} = -L^{-T} y, \quad \partial_L = L^{-T} (I - C)
        """
        loc, scale = self._loc_and_scale(theta)
        mean = x[:, :, :n].mean(dim=2, keepdim=True)
        away = x - mean
        away[:, :, n:] = 0.0
        if self.is_full:
            tril = scale * self._unit(theta)
            inverse = self._unit_inverse(theta) / scale.transpose(1, 2)
            covariance = torch.bmm(away, away.transpose(1, 2)).div_(n)
            y = torch.bmm(inverse, mean - loc)
            second = torch.baddbmm(torch.bmm(y, y.transpose(1, 2)), torch.bmm(inverse, covariance), inverse.mT)
            squares = second.diagonal(dim1=1, dim2=2)
            by_loc = torch.bmm(inverse.mT, y).squeeze(2).neg_()
            rest = torch.eye(self.dim, dtype=x.dtype, device=x.device) - second
            by_tril = torch.bmm(inverse.mT, rest)
        else:
            tril = self._diagonal(scale)
            y = (mean - loc).squeeze(2) / tril
            second = away.square_().sum(dim=2).div_(n) / tril.square() + y.square()
            squares = second
            by_loc = -y / tril
            by_tril = (1.0 - second) / tril
        value = None
        if whole:
            value = 0.5 * squares.sum(dim=1) + self.log_det(theta) + 0.5 * self.dim * math.log(2 * math.pi)
        return value, self._by_theta(by_loc, by_tril, tril)

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

    def entropy_gradient(self, theta: Tensor) -> Tensor:
        """Of ``entropy`` by theta, ``(P,)``: a constant."""
        return _entropy_gradient(self, theta.dtype, str(theta.device))

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

    def _diagonal(self, scale: Tensor) -> Tensor:
        """Of L, ``(K, D)``."""
        return scale.squeeze(2).expand(-1, self.dim)

    def _by_theta(self, by_loc: Tensor, by_tril: Tensor, tril: Tensor) -> Tensor:
        """A gradient ``(K, P)``, from those by the mean ``(K, D)`` and by the factor L, as ``tril`` is.

        L is ``(K, D, D)``, or for a covariance without correlation its diagonal ``(K, D)``.
        """
        by_log = by_tril * tril
        if not self.is_full:
            by_log = by_log.sum(dim=1, keepdim=True) if self.scales < self.dim else by_log
            return torch.cat([by_loc, by_log], dim=1)
        scale = tril.diagonal(dim1=1, dim2=2).unsqueeze(2)
        below = (by_tril * scale).flatten(1).index_select(1, _below(self.dim, str(tril.device)))
        return torch.cat([by_loc, by_log.sum(dim=2), below], dim=1)

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


class _Rsample(torch.autograd.Function):
    """Samples whose backward is two sums over them: a fifth of the calls that autograd would make."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, normal: Tensor, family: Gaussian) -> Tensor:
        ctx.family = family
        x, tril = family.place(theta, normal)
        ctx.save_for_backward(tril, normal)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        tril, normal = ctx.saved_tensors
        by_normal = None
        if ctx.needs_input_grad[1]:
            by_normal = torch.bmm(tril.mT, grad) if ctx.family.is_full else tril.unsqueeze(2) * grad
        return ctx.family.pull_back(grad, normal, tril), by_normal, None


@lru_cache
@torch.inference_mode(False)  # kept for autograd too
def _entropy_gradient(family: Gaussian, dtype: torch.dtype, device: str) -> Tensor:
    gradient = torch.zeros(family.parameters, dtype=dtype, device=device)
    gradient[family.dim : family.dim + family.scales] = family.dim / family.scales
    return gradient


@lru_cache
@torch.inference_mode(False)  # kept for autograd too
def _below(dim: int, device: str) -> Tensor:
    """Where the entries below the diagonal are in a flattened matrix; kept on the device, as ``_layout``."""
    rows, columns = np.tril_indices(dim, -1)
    return torch.as_tensor(rows * dim + columns, device=device)


@lru_cache
@torch.inference_mode(False)  # kept for autograd too
def _layout(dim: int, size: int, device: str) -> Tensor:
    """Where each entry of the unit factor comes from in the table of 0, 1 and the entries below the diagonal.

    Kept on the device: a copy at each step would make the host wait for it.
    """
    layout = np.eye(size, dtype=np.int64)
    layout[np.tril_indices(dim, -1)] = 2 + np.arange(dim * (dim - 1) // 2)
    return torch.as_tensor(layout.ravel(), device=device)
