r"""What a VAE's training loss makes of the decoder's output d and the data x, and its gradient there, written out.

* ``gaussian``: :math:`|x - d|^2 / 2 s^2 + \tfrac{D}{2} \ln 2 \pi s^2` with fixed ``noise_std`` s.
* ``gaussian_learned``: the same, with ln s one more parameter of each network. The loss is least in s where s^2 is the
  mean squared error of a dimension (Rybkin, Daniilidis and Levine 2021, sigma-VAE, https://arxiv.org/abs/2006.13202).
* ``mse``: the squared error itself. Training with ``kl_weight`` w then has the optimum of a Gaussian beta-VAE with
  :math:`\beta s^2 = w / 2`; ``noise_std`` serves only to generate and to score.
* ``bernoulli``: the cross-entropy of pixels, :math:`\sum_j \ln(1 + e^{d_j}) - x_j d_j`.

A minibatch of n points is padded to N columns, of which each point has the ``share`` 1/n and the padding none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from experiments.vae.likelihood import Quadratic, gaussian


@dataclass(frozen=True)
class Slope:
    """The data term of one minibatch.

    Args:
        error: the squared error, or the term itself, summed over the points, ``(K,)``; see ``loss``.
        at_output: gradient of the mean at the decoder's output, ``(K, D, N)``.
        at_parameters: at each of the term's own ``parameters``, ``(K,)``.
    """

    error: Tensor
    at_output: Tensor
    at_parameters: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class SquaredError:
    """With a fixed weight and constant, ``(K,)``: ``gaussian`` and ``mse``."""

    term: Quadratic
    parameters: tuple[Tensor, ...] = ()

    def slope(self, decoded: Tensor, x: Tensor, share: Tensor, points: int) -> Slope:
        """At ``decoded (K, D, N)``."""
        residual = decoded - x
        error = residual[..., :points].square().sum((1, 2))
        return Slope(error, residual.mul_(2 * self.term.weight.view(-1, 1, 1) * share))

    def loss(self, error: Tensor) -> Tensor:
        """Of minibatches with these mean errors, ``(S, K)``; nats, or squared units."""
        return self.term.weight * error + self.term.constant


@dataclass(frozen=True)
class LearnedNoise:
    """With ``log_std (K,)``, which is trained in place."""

    log_std: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.log_std,)

    def slope(self, decoded: Tensor, x: Tensor, share: Tensor, points: int) -> Slope:
        """At ``decoded (K, D, N)``."""
        residual, dim = decoded - x, x.shape[1]
        precision = (-2 * self.log_std).exp()
        whitened = residual[..., :points].square().sum((1, 2)).mul_(precision)
        error = 0.5 * whitened + points * dim * (self.log_std + 0.5 * math.log(2 * math.pi))
        return Slope(error, residual.mul_(precision.view(-1, 1, 1) * share), (dim - whitened / points,))

    def loss(self, error: Tensor) -> Tensor:
        """The error is the loss."""
        return error


@dataclass(frozen=True)
class CrossEntropy:
    """Of pixels: ``bernoulli``."""

    parameters: tuple[Tensor, ...] = ()

    def slope(self, decoded: Tensor, x: Tensor, share: Tensor, points: int) -> Slope:
        """At ``decoded (K, D, N)``."""
        error = binary_cross_entropy_with_logits(decoded, x, reduction="none")[..., :points].sum((1, 2))
        return Slope(error, (decoded.sigmoid() - x).mul_(share))

    def loss(self, error: Tensor) -> Tensor:
        """The error is the loss."""
        return error


DataTerm = SquaredError | LearnedNoise | CrossEntropy


def data_term(likelihood: str, noise_std: Tensor, dim: int) -> DataTerm:
    """What training minimises beside the KL, for K cells of one likelihood with ``noise_std (K,)``."""
    if likelihood == "bernoulli":
        return CrossEntropy()
    if likelihood == "gaussian_learned":
        return LearnedNoise(noise_std.log())
    if likelihood == "mse":
        return SquaredError(Quadratic(torch.ones_like(noise_std), torch.zeros_like(noise_std)))
    return SquaredError(gaussian(noise_std, dim))
