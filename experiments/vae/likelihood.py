r"""How a decoder's output is scored against the data: each likelihood once, as a frozen value.

The forms so far are quadratic in the residual, and training needs two numbers of them:

.. math:: -\log p(x|z) = c \, |x - \hat x(z)|^2 + b

* ``gaussian``: :math:`N(\hat x, s^2 I)` with fixed ``noise_std`` s: :math:`c = 1/(2 s^2)`,
  :math:`b = \tfrac{D}{2} \ln 2 \pi s^2`.
* ``mse``: the squared error itself, c = 1, b = 0. Training with ``kl_weight`` w then has the optimum of a
  Gaussian beta-VAE with :math:`\beta s^2 = w / 2`; ``noise_std`` serves only to generate and to score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """``weight (K,)`` times the squared error, summed over dimensions, plus ``constant (K,)``."""

    weight: Tensor
    constant: Tensor


def training_loss(likelihood: str, noise_std: Tensor, dim: int) -> Quadratic:
    """The data term that training minimises, for K cells of one likelihood with ``noise_std (K,)``."""
    if likelihood == "mse":
        return Quadratic(torch.ones_like(noise_std), torch.zeros_like(noise_std))
    return gaussian(noise_std, dim)


def gaussian(noise_std: Tensor, dim: int) -> Quadratic:
    """The negative log-density, in nats, of N(decoded, noise_std^2 I) in ``dim`` dimensions."""
    return Quadratic(0.5 / noise_std**2, 0.5 * dim * torch.log(2 * math.pi * noise_std**2))


def theta(likelihood: str, kl_weight: float, noise_std: float) -> float:
    """The water level beta s^2 of the equivalent Gaussian beta-VAE: directions of less variance collapse."""
    return kl_weight / 2 if likelihood == "mse" else kl_weight * noise_std**2
