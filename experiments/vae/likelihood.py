r"""How data are scattered about a decoder's output: each p(x | z) once, as a frozen value.

Both are exponential families in the data,

.. math:: \ln p(x | z) = \eta(d) \cdot x - A(d) + h(x)

with d what the decoder gives for z: ``gaussian`` noise about d itself, and ``bernoulli`` pixels, each 1 with
probability :math:`\sigma(d)`. The first two terms are all that a search for the likeliest of many z needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from experiments.randomness import normal, uniform


@dataclass(frozen=True)
class Gaussian:
    r""":math:`N(d, s^2 I)`, with ``noise_std`` s, ``(K,)``. Decoded values and data are ``(K, D, ...)``."""

    noise_std: Tensor

    def log_prob(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Nats, summed over the D dimensions, ``(K, ...)``."""
        term = gaussian(self.noise_std, x.shape[1])
        shape = (-1, *(1 for _ in decoded.shape[2:]))
        return -term.weight.view(shape) * (decoded - x).square().sum(1) - term.constant.view(shape)

    def score(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Gradient of ``log_prob`` by ``decoded``."""
        return (x - decoded) / self._like(decoded) ** 2

    def information(self, slope: Tensor, decoded: Tensor) -> Tensor:
        """Fisher information of z, ``(K, N, L, L)``, where the decoder's Jacobian is ``slope (K, N, D, L)``."""
        return slope.mT @ slope / self._like(slope) ** 2

    def natural(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Eta, like ``decoded (K, D, N)``, and A, ``(K, 1, N)``."""
        weight = gaussian(self.noise_std, decoded.shape[1]).weight.view(-1, 1, 1)
        return 2 * weight * decoded, decoded.square().sum(1, keepdim=True) * weight

    def carrier(self, x: Tensor) -> Tensor:
        """H, at ``x (K, D, N)``: ``(K, N)``."""
        term = gaussian(self.noise_std, x.shape[1])
        return -(term.weight.unsqueeze(1) * x.square().sum(1) + term.constant.unsqueeze(1))

    def mean(self, decoded: Tensor) -> Tensor:
        """Of x, given z."""
        return decoded

    def sample(self, decoded: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """A draw of x for each decoded point ``(K, D, N)``."""
        return decoded + self._like(decoded) * normal(decoded.shape[1:], generators, decoded.dtype)

    def _like(self, values: Tensor) -> Tensor:
        return self.noise_std.view(-1, *(1 for _ in values.shape[1:]))


@dataclass(frozen=True)
class Bernoulli:
    r"""Independent pixels of 0 or 1, with the decoded values as log-odds; the methods are those of `Gaussian`.

    .. math:: \ln p(x | z) = \sum_j x_j d_j - \ln (1 + e^{d_j})
    """

    def log_prob(self, decoded: Tensor, x: Tensor) -> Tensor:
        return (x * decoded - softplus(decoded)).sum(1)

    def score(self, decoded: Tensor, x: Tensor) -> Tensor:
        return x - decoded.sigmoid()

    def information(self, slope: Tensor, decoded: Tensor) -> Tensor:
        spread = (decoded.sigmoid() * (-decoded).sigmoid()).mT.unsqueeze(-1)  # the pixels' variances
        return slope.mT @ (spread * slope)

    def natural(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        return decoded, softplus(decoded).sum(1, keepdim=True)

    def carrier(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), x.shape[2])

    def mean(self, decoded: Tensor) -> Tensor:
        return decoded.sigmoid()

    def sample(self, decoded: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return binarised(decoded.sigmoid(), generators)


Likelihood = Gaussian | Bernoulli


def of_name(name: str, noise_std: Tensor) -> Likelihood:
    """What a VAE with this ``likelihood`` generates and is scored by; a squared error stands for Gaussian noise."""
    return Bernoulli() if name == "bernoulli" else Gaussian(noise_std)


def binarised(probability: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Pixels of 0 or 1 with these probabilities, ``(K, ...)``; those that are 0 or 1 stay.

    So grey values become data that a Bernoulli likelihood is a density of (Salakhutdinov and Murray 2008,
    https://doi.org/10.1145/1390156.1390266).
    """
    return (uniform(probability.shape[1:], generators, probability.dtype) < probability).to(probability.dtype)


@dataclass(frozen=True)
class Quadratic:
    """``weight`` times the squared error, summed over dimensions, plus ``constant``; of K cells, or of their steps."""

    weight: Tensor
    constant: Tensor


def gaussian(noise_std: Tensor, dim: int) -> Quadratic:
    """The negative log-density, in nats, of N(decoded, noise_std^2 I) in ``dim`` dimensions."""
    return Quadratic(0.5 / noise_std**2, 0.5 * dim * torch.log(2 * math.pi * noise_std**2))


def theta(likelihood: str, kl_weight: float, noise_std: float) -> float:
    """The water level beta s^2 of the equivalent Gaussian beta-VAE: directions of less variance collapse."""
    return kl_weight / 2 if likelihood == "mse" else kl_weight * noise_std**2
