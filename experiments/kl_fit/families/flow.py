"""Normalising flows: a Gaussian bent by chains of splines into densities of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from zuko.transforms import MonotonicRQSTransform

from experiments.kl_fit.families.gaussian import Gaussian

BOUND = 5.0  # a spline bends (-BOUND, BOUND) onto itself and leaves the rest of the line alone
LEAK = 0.01  # slope of hidden units below zero: so none is ever without a gradient


@dataclass(frozen=True)
class Coupling:
    """One transform: the coordinates that it bends, and those that say how."""

    bent: tuple[int, ...]
    given: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Weights ``(out, in)`` or biases ``(out, 1)`` of a layer; the last layer's start at zero."""

    shape: tuple[int, int]
    inputs: int
    is_last: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Flow:
    r"""Neural spline flows of coupling transforms on a Gaussian, in D dimensions.

    .. math:: x = loc + L f(z), \quad z \sim N(0, I), \qquad
              \log q(x) = \log N(z) + \log |\det \partial f^{-1}| - \log |\det L|

    :math:`f^{-1}` chains the transforms. Each bends some coordinates by monotonic rational-quadratic splines, whose
    knots a perceptron with two hidden layers makes of the others: Durkan et al. 2019,
    https://arxiv.org/abs/1906.04032; the splines are zuko's. Transform 2i bends the coordinates whose number has its
    i-th binary digit set, 2i + 1 the others, and from the last digit it starts again, so that every pair meets: Gao
    et al. 2020, https://arxiv.org/abs/2001.05486. In one dimension there are no others, and the knots are free.

    Parameters: those of a full ``Gaussian``, then each transform's. Weights and biases are held times the square root
    of their layer's inputs, so that one learning rate suits them and the Gaussian: Karras et al. 2018, section 4.1,
    https://arxiv.org/abs/1710.10196. Theta may have more columns, which are ignored.

    Args:
        transforms, hidden, bins: numbers of transforms, of units in a hidden layer and of a spline's pieces.
    """

    dim: int
    transforms: int
    hidden: int
    bins: int

    @property
    def noise_dim(self) -> int:
        return self.dim

    @property
    def parameters(self) -> int:
        """P."""
        return self._gaussian.parameters + sum(block.size for blocks in self._blocks for block in blocks)

    def rsample(self, theta: Tensor, normal: Tensor) -> Tensor:
        """Samples ``(K, D, N)``; differentiable in theta."""
        return self.rsample_and_log_prob(theta, normal)[0]

    def rsample_and_log_prob(self, theta: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Samples ``(K, D, N)`` and their log-density ``(K, N)``, in one pass; differentiable in theta."""
        base, weights = self._parts(theta)
        rows = list(normal.unbind(1))
        log_q = _log_normal(rows) - self._gaussian.log_det(base).unsqueeze(1)
        for coupling, own in zip(reversed(self.couplings), reversed(weights), strict=True):
            spline = self._spline(coupling, own, rows)
            moved = spline.inv(_stack(rows, coupling.bent))
            log_q = log_q + spline.call_and_ladj(moved)[1].sum(dim=1)
            _replace(rows, coupling.bent, moved)
        return self._gaussian.rsample(base, torch.stack(rows, dim=1)), log_q

    def weights(self, theta: Tensor, n: int) -> None:
        """All samples weigh alike."""

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density of x ``(K, D, N)``, as ``(K, N)``; differentiable in theta and x."""
        base, weights = self._parts(theta)
        rows = list(self._gaussian.whiten(base, x).unbind(1))
        change = -self._gaussian.log_det(base).unsqueeze(1)
        for coupling, own in zip(self.couplings, weights, strict=True):
            moved, ladj = self._spline(coupling, own, rows).call_and_ladj(_stack(rows, coupling.bent))
            change = change + ladj.sum(dim=1)
            _replace(rows, coupling.bent, moved)
        return _log_normal(rows) + change

    def entropy(self, theta: Tensor) -> None:
        """No closed form."""

    def project(self, mean: np.ndarray, covariance: np.ndarray, generator: torch.Generator | None = None) -> np.ndarray:
        """Parameters ``(P,)`` of the Gaussian with these moments: not bent yet, with hidden layers drawn at random."""
        parts = [self._gaussian.project(mean, covariance)]
        for block in (block for blocks in self._blocks for block in blocks):
            if block.is_last:
                parts.append(np.zeros(block.size))
            else:  # uniform, of unit variance
                uniform = torch.rand(block.size, generator=generator, dtype=torch.float64).numpy()
                parts.append(math.sqrt(3) * (2 * uniform - 1))
        return np.concatenate(parts)

    @property
    def _gaussian(self) -> Gaussian:
        return Gaussian("full", self.dim)

    @cached_property
    def couplings(self) -> tuple[Coupling, ...]:
        """In the order of ``log_prob``."""
        digits = max(1, (self.dim - 1).bit_length())
        found = []
        for i in range(self.transforms):
            side = {j for j in range(self.dim) if (j >> i // 2 % digits) % 2 != i % 2}
            bent = side if self.dim > 1 else {0}
            found.append(Coupling(tuple(sorted(bent)), tuple(j for j in range(self.dim) if j not in bent)))
        return tuple(found)

    @cached_property
    def _blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Of each transform: weights and biases in turn, or the free knots alone."""
        return tuple(self._blocks_of(coupling) for coupling in self.couplings)

    def _blocks_of(self, coupling: Coupling) -> tuple[Block, ...]:
        out = len(coupling.bent) * (3 * self.bins - 1)
        if not coupling.given:
            return (Block((out, 1), 1, is_last=True),)
        blocks: list[Block] = []
        for before, after in pairwise((len(coupling.given), self.hidden, self.hidden, out)):
            is_last = len(blocks) == 4
            blocks += [Block((after, before), before, is_last), Block((after, 1), before, is_last)]
        return tuple(blocks)

    def _parts(self, theta: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        """The Gaussian's parameters, and each transform's blocks, ``(K, *shape)``."""
        sizes = [self._gaussian.parameters, *(block.size for blocks in self._blocks for block in blocks)]
        scaled = theta * _scale(self, theta.shape[1], theta.dtype, str(theta.device))
        # One split, whose gradient is one concatenation; a slice's is as large as theta.
        base, *flat = scaled.split([*sizes, theta.shape[1] - sum(sizes)], dim=1)
        pieces = iter(flat)
        return base, [[next(pieces).unflatten(1, block.shape) for block in blocks] for blocks in self._blocks]

    def _spline(self, coupling: Coupling, own: Sequence[Tensor], rows: Sequence[Tensor]) -> MonotonicRQSTransform:
        """Of the bent coordinates ``(K, bent, N)``, given the others."""
        knots = own[-1]
        if coupling.given:
            h = _stack(rows, coupling.given)
            for weight, bias in (own[0:2], own[2:4]):
                h = torch.nn.functional.leaky_relu(torch.baddbmm(bias, weight, h), LEAK)
            knots = torch.baddbmm(own[5], own[4], h)
        knots = knots.unflatten(1, (len(coupling.bent), -1)).transpose(2, 3)
        return MonotonicRQSTransform(*knots.split([self.bins, self.bins, self.bins - 1], dim=3), bound=BOUND)


@lru_cache
def _scale(flow: Flow, columns: int, dtype: torch.dtype, device: str) -> Tensor:
    """What each parameter is multiplied by, ``(columns,)``; kept on the device."""
    scale = np.ones(columns)
    at = flow._gaussian.parameters
    for block in (block for blocks in flow._blocks for block in blocks):
        scale[at : at + block.size] = block.inputs**-0.5
        at += block.size
    return torch.as_tensor(scale, dtype=dtype, device=device)


def _stack(rows: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    return torch.stack([rows[j] for j in chosen], dim=1)


def _replace(rows: list[Tensor], chosen: Sequence[int], moved: Tensor) -> None:
    for j, row in zip(chosen, moved.unbind(1), strict=True):
        rows[j] = row


def _log_normal(rows: Sequence[Tensor]) -> Tensor:
    """Log-density of the standard normal, ``(K, N)``."""
    total = rows[0].square()
    for row in rows[1:]:
        total = total + row.square()
    return -0.5 * total - 0.5 * len(rows) * math.log(2 * math.pi)
