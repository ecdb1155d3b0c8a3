"""K mixtures as one set of tensors: densities, scores and samples of a whole stack in a few calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import randomness
from experiments.padding import padded_components
from experiments.targets import Mixture
from experiments.targets.mixture import log_normaliser

FAR = 1e10  # whitened distance of padding: no point is near it, and its square is finite in single precision

# Where exp underflows, processors take fifty times as long for it and for what is computed from its result. A share of
# the density below e^LEAST[dtype] of the largest is held at that, far below what the sum can resolve.
LEAST = {torch.float32: -60.0, torch.float64: -600.0}

# exp is exp2 of so many times as much, which takes a quarter of its time (torch has exp from MKL, which is slow on
# processors not Intel's, and exp2 from SLEEF) and has the same bits with AVX2 and AVX-512. It has others in the loop
# over what vectors leave, so numbers of elements must be multiples of 32.
LOG2_E = 1 / math.log(2)

# Samples of each cell for which all components' noise is held: what stays in cache, or keeps a GPU busy.
DRAWN_AT_ONCE = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class StackedMixture:
    r"""K mixtures of M Gaussian (or Student-t) components in D dimensions.

    Components are held whitened, ``y = L^{-1} (x - m)`` with ``S = L L^T``: a density computed from
    :math:`|y|^2` keeps its digits in single precision where the expanded quadratic
    :math:`x^T S^{-1} x - 2 m^T S^{-1} x + \dots` loses them (modes a hundred widths apart, ``ring8``).
    Axes that hold both D and M are D-major. Padding components have log-weight -inf.

    Args:
        log_scale: log-weight and log-normaliser of each component, ``(K, M, 1)``.
        whiten: rows of the inverse Cholesky factors, ``(K, D * M, D)``.
        offset: whitened means, negated, ``(K, D * M, 1)``.
        center: subtracted from x before anything else, ``(K, D, 1)``.
        log_weights: ``(K, M, 1)``.
        means: relative to ``center``, ``(K, D, M)``.
        tril: columns of the Cholesky factors, ``(K, D, D * M)``.
        df: degrees of freedom, ``(K, 1, 1)``, or None for Gaussian components.
    """

    log_scale: Tensor
    whiten: Tensor
    offset: Tensor
    center: Tensor
    log_weights: Tensor
    means: Tensor
    tril: Tensor
    df: Tensor | None

    @classmethod
    def stack(
        cls,
        targets: Sequence[Mixture],
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> StackedMixture:
        """Stack mixtures of one dimension, all Gaussian or all Student-t; a mixture may appear many times."""
        kinds = {(target.dim, target.df is None, padded_components(target.modes)) for target in targets}
        if len(kinds) != 1:
            raise ValueError(f"mixtures of different shapes cannot be stacked: (dim, gaussian, padded) {kinds}")
        width = kinds.pop()[2]
        unique = {target.digest: target for target in targets}
        rows = {digest: _arrays(target, width) for digest, target in unique.items()}
        parts = {}
        for name in rows[targets[0].digest]:
            stacked = np.stack([rows[target.digest][name] for target in targets])
            parts[name] = torch.as_tensor(stacked, dtype=dtype, device=device)
        df = None
        if targets[0].df is not None:
            df = torch.tensor([[[target.df]] for target in targets], dtype=dtype, device=device)
        return cls(**parts, df=df)

    @property
    def dim(self) -> int:
        return self.center.shape[1]

    @property
    def components(self) -> int:
        """M, padding included."""
        return self.log_scale.shape[1]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density, ``(K, D, N) -> (K, N)``; differentiable once in x, by the score written out."""
        return _LogProb.apply(x, self)

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density ``(K, N)`` at x ``(K, D, N)``, and its gradient by x ``(K, D, N)``."""
        k, d, n = x.shape
        joint, distance, y = self._log_joint(x)
        share, total, top = shares(joint)
        if self.df is not None:
            share = share * ((self.df + d) / (self.df + distance))
        pull = y.view(k, d, self.components, n).mul_(share.unsqueeze(1)).view(k, d * self.components, n)
        score = torch.bmm(self.whiten.transpose(1, 2), pull).div_(-total)
        return total.log_().add_(top).squeeze(1), score

    def log_joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Log of weight times density, and squared Mahalanobis distance, of each component: both ``(K, M, N)``."""
        joint, distance, _ = self._log_joint(x)
        return joint, distance

    def sample(self, uniform: Tensor, normal: Tensor, gamma: Tensor | None = None) -> Tensor:
        """Exact samples ``(K, D, N)`` from noise.

        Args:
            uniform: chooses the component, ``(K, N)``.
            normal: ``(K, D, N)``.
            gamma: of concentration df / 2, ``(K, N)``; for Student-t components only.
        """
        k, d, n = normal.shape
        chosen = self._chosen(uniform)
        if gamma is not None:
            assert self.df is not None
            normal = normal * (0.5 * self.df / gamma.unsqueeze(1)).sqrt()
        if d > self.components:
            spread = (normal.unsqueeze(2) * chosen.unsqueeze(1)).view(k, d * self.components, n)
            return torch.baddbmm(torch.baddbmm(self.center, self.means, chosen), self.tril, spread)
        # Each point's own mean and factor take less than a copy of its noise for each component.
        own = torch.bmm(self._affine, chosen)
        x = own[:, :d].contiguous()
        for j in range(d):
            x.addcmul_(own[:, d + j * d : 2 * d + j * d], normal[:, j : j + 1])
        return x

    def draw(self, n: int, generators: Sequence[torch.Generator]) -> Tensor:
        """``(K, D, n)`` exact samples, those of mixture k from generator k alone."""
        dtype = self.center.dtype
        uniform = randomness.uniform((n,), generators, dtype)
        normal = randomness.normal((self.dim, n), generators, dtype)
        gamma = None
        if self.df is not None:
            gamma = randomness.gamma(0.5 * self.df[:, 0, 0], n, generators)
        pieces, size = [], DRAWN_AT_ONCE[uniform.device.type]
        for start in range(0, n, size):
            part = slice(start, start + size)
            mixing = None if gamma is None else gamma[:, part]
            pieces.append(self.sample(uniform[:, part], normal[:, :, part], mixing))
        return torch.cat(pieces, dim=2)

    @cached_property
    def _spans(self) -> tuple[Tensor, Tensor]:
        """Where each component's share of [0, 1) begins and ends, ``(K, M, 1)`` each."""
        upper = self.log_weights.exp().cumsum(dim=1)
        # What rounding leaves between the last sum and 1 belongs to the last component that has weight.
        upper = torch.where(upper >= upper[:, -1:], torch.full_like(upper, 2.0), upper)
        return torch.cat([torch.zeros_like(upper[:, :1]), upper[:, :-1]], dim=1), upper

    @cached_property
    def _affine(self) -> Tensor:
        """Each component's mean and the columns of its factor, ``(K, D + D * D, M)``."""
        k, d, m = self.means.shape
        columns = self.tril.view(k, d, d, m).transpose(1, 2).reshape(k, d * d, m)
        return torch.cat([self.means + self.center, columns], dim=1)

    def _chosen(self, uniform: Tensor) -> Tensor:
        """One-hot over the components, ``(K, M, N)``."""
        lower, upper = self._spans
        u, like = uniform.unsqueeze(1), uniform.new_empty(len(uniform), self.components, uniform.shape[1])
        return torch.ge(u, lower, out=like).mul_(torch.lt(u, upper, out=torch.empty_like(like)))

    def _log_joint(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, d, n = x.shape
        y = torch.baddbmm(self.offset, self.whiten, x - self.center)
        parts = y.view(k, d, self.components, n).unbind(1)
        # One pass for each dimension is four times as fast as a reduction over a short, strided axis.
        distance = parts[0] * parts[0]
        for part in parts[1:]:
            distance.addcmul_(part, part)
        if self.df is None:
            return torch.add(self.log_scale, distance, alpha=-0.5), distance, y
        return self.log_scale - 0.5 * (self.df + d) * torch.log1p(distance / self.df), distance, y


def shares(joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each component's density as a share of the largest, their sum, and the logarithm of the largest.

    Overwrites ``joint`` ``(K, M, N)``; the sum and the largest are ``(K, 1, N)``. The log-density is
    ``log(sum) + largest``.
    """
    top = joint.amax(dim=1, keepdim=True)
    share = joint.sub_(top).clamp_(min=LEAST[joint.dtype]).mul_(LOG2_E).exp2_()
    return share, share.sum(dim=1, keepdim=True), top


class _LogProb(torch.autograd.Function):
    """Log-density whose backward is one product: the score is computed on the way, at a third of autograd's cost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mixture: StackedMixture) -> Tensor:
        if not ctx.needs_input_grad[0]:
            _, total, top = shares(mixture.log_joint(x)[0])
            return total.log_().add_(top).squeeze(1)
        log_prob, score = mixture.log_prob_and_score(x)
        ctx.save_for_backward(score)
        return log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (score,) = ctx.saved_tensors
        return grad.unsqueeze(1) * score, None


def _arrays(target: Mixture, width: int) -> dict[str, np.ndarray]:
    """The tensors of one mixture, in float64, padded to ``width`` components."""
    m, d = target.modes, target.dim
    pad = width - m
    center = target.weights @ target.means
    means = np.concatenate([target.means - center, np.zeros((pad, d))])
    tril = np.concatenate([np.linalg.cholesky(target.covariances), np.broadcast_to(np.eye(d), (pad, d, d))])
    inverse = np.linalg.inv(tril)
    with np.errstate(divide="ignore"):
        log_weights = np.log(np.concatenate([target.weights, np.zeros(pad)]))
    log_scale = log_weights - np.log(np.einsum("kii->ki", tril)).sum(axis=1) + log_normaliser(d, target.df)
    whiten = inverse.transpose(1, 0, 2).reshape(d * width, d)
    offset = -np.einsum("kij,kj->ik", inverse, means)
    offset[:, m:] = FAR
    columns = tril.transpose(1, 2, 0).reshape(d, d * width)
    return {
        "log_scale": log_scale[:, None],
        "whiten": whiten,
        "offset": offset.reshape(d * width, 1),
        "center": center[:, None],
        "log_weights": log_weights[:, None],
        "means": means.T.copy(),
        "tril": columns,
    }
