r"""Estimators of the gradient of KL(Q || P): each a loss whose gradient by autograd is the estimate.

Q is :math:`N(loc, diag(scale^2))`, and :math:`f(x) = \log q(x) - \log p(x)`, so that KL(Q || P) = E_Q f.
A survey: Mohamed et al. 2020, https://jmlr.org/papers/v21/19-346.html.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.stacked_mixture import StackedMixture


@dataclass(frozen=True)
class DiagonalGaussian:
    """K stacked Gaussians without correlation, each R times, so that every repeat has a gradient of its own.

    Args:
        loc: ``(K, D, R)``.
        log_scale: ``(K, D, R)``, or ``(K, 1, R)`` where one width serves all dimensions.
    """

    loc: Tensor
    log_scale: Tensor

    def rsample(self, noise: Tensor) -> Tensor:
        """``loc + scale * noise``, ``(K, D, R, N)``: differentiable in the parameters."""
        return torch.addcmul(self.loc.unsqueeze(3), self.log_scale.exp().unsqueeze(3), noise)

    def sample(self, noise: Tensor) -> Tensor:
        """The same numbers without a path to the parameters, as in ``sample`` of ``torch.distributions``."""
        with torch.no_grad():
            return self.rsample(noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """``(K, R, N)``; differentiable in the parameters and in x."""
        y = (x - self.loc.unsqueeze(3)) * self.log_scale.neg().exp().unsqueeze(3)
        dim = self.loc.shape[1]
        log_det = self.log_scale.sum(dim=1) * (dim / self.log_scale.shape[1])
        return y.square().sum(dim=1).mul(-0.5) - (log_det + 0.5 * dim * math.log(2 * math.pi)).unsqueeze(2)

    def detach(self) -> DiagonalGaussian:
        """The same distributions, as constants."""
        return DiagonalGaussian(self.loc.detach(), self.log_scale.detach())


def log_prob(target: StackedMixture, x: Tensor) -> Tensor:
    """Of the K targets at x ``(K, D, R, N)``: ``(K, R, N)``."""
    return target.log_prob(x.flatten(2)).view(len(x), *x.shape[2:])


def blocked(target: StackedMixture, q: DiagonalGaussian, noise: Tensor) -> Tensor:
    """``f(x)`` where x was drawn by ``sample``: the parameters are out of reach, and there is no gradient.

    It is ``sticking_the_landing`` with ``sample`` in the place of ``rsample``.
    """
    x = q.sample(noise)
    return (q.detach().log_prob(x) - log_prob(target, x)).mean(dim=2)


def naive(target: StackedMixture, q: DiagonalGaussian, noise: Tensor) -> Tensor:
    r"""``f(x)`` where x was drawn by ``sample`` and log q keeps its parameters: a gradient, but of mean zero.

    .. math:: \mathrm{E}_Q [\nabla \log q(x)] = 0

    Autograd does not see that the samples depend on the parameters.
    """
    x = q.sample(noise)
    return (q.log_prob(x) - log_prob(target, x)).mean(dim=2)


def score_function(target: StackedMixture, q: DiagonalGaussian, noise: Tensor) -> Tensor:
    r"""REINFORCE: needs no derivative of the target.

    .. math:: f(x) \, \nabla \log q(x)

    Williams 1992; Ranganath et al. 2014, arXiv 1401.0118.
    """
    x = q.sample(noise)
    log_q = q.log_prob(x)
    value = log_q.detach() - log_prob(target, x)
    return (value * log_q).mean(dim=2)


def score_function_baseline(target: StackedMixture, q: DiagonalGaussian, noise: Tensor) -> Tensor:
    r"""REINFORCE where each value is compared with the mean of the other N - 1: still without bias.

    .. math:: \Big(f(x_i) - \frac{1}{N - 1} \sum_{j \ne i} f(x_j)\Big) \nabla \log q(x_i)

    Mnih & Rezende 2016, arXiv 1602.06725; Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE.
    """
    x = q.sample(noise)
    log_q = q.log_prob(x)
    value = log_q.detach() - log_prob(target, x)
    n = noise.shape[3]
    advantage = (value - value.mean(dim=2, keepdim=True)) * (n / (n - 1))
    return (advantage * log_q).mean(dim=2)


def reparameterization(target: StackedMixture, q: DiagonalGaussian, noise: Tensor) -> Tensor:
    r"""The derivative of ``f(loc + scale * noise)``, for fixed noise.

    The total derivative of log q along the path is that of minus its entropy, so nothing of it is random.
    Kingma & Welling 2014, arXiv 1312.6114; Rezende et al. 2014, arXiv 1401.4082.
    """
    x = q.rsample(noise)
    return (q.log_prob(x) - log_prob(target, x)).mean(dim=2)


def sticking_the_landing(target: StackedMixture, q: DiagonalGaussian, noise: Tensor) -> Tensor:
    r"""The path's part of the reparameterization gradient; the rest is the score of Q, whose mean is zero.

    .. math:: \nabla x \cdot \nabla_x f(x)

    Its variance vanishes where Q equals P. Roeder et al. 2017, arXiv 1703.09194.
    """
    x = q.rsample(noise)
    return (q.detach().log_prob(x) - log_prob(target, x)).mean(dim=2)


@dataclass(frozen=True)
class Estimator:
    """An estimator of the gradient.

    Args:
        surrogate: ``(target, q, noise (K, D, R, N)) -> (K, R)``, a loss whose gradient is the estimate.
        evaluations: of the target's log-density for each sample: 2 where it is also differentiated.
    """

    surrogate: Callable[[StackedMixture, DiagonalGaussian, Tensor], Tensor]
    evaluations: int


ESTIMATORS: Mapping[str, Estimator] = {
    "blocked": Estimator(blocked, 1),
    "naive": Estimator(naive, 1),
    "score_function": Estimator(score_function, 1),
    "score_function_baseline": Estimator(score_function_baseline, 1),
    "reparameterization": Estimator(reparameterization, 2),
    "sticking_the_landing": Estimator(sticking_the_landing, 2),
}


def gradient(
    estimator: Estimator, target: StackedMixture, loc: Tensor, log_scale: Tensor, noise: Tensor
) -> Tensor | None:
    """One gradient for each repeat, ``(K, D + S, R)``, loc's components first; None where autograd has none.

    Args:
        estimator: one of ``ESTIMATORS``.
        target: the K targets.
        loc: ``(K, D)``.
        log_scale: ``(K, S)``, where S is D, or 1 where one width serves all dimensions.
        noise: standard normal, ``(K, D, R, N)``.
    """
    repeats = noise.shape[2]
    leaves = [part.unsqueeze(2).repeat(1, 1, repeats).requires_grad_() for part in (loc, log_scale)]
    loss = estimator.surrogate(target, DiagonalGaussian(*leaves), noise)
    if not loss.requires_grad:
        return None
    return torch.cat(torch.autograd.grad(loss.sum(), leaves), dim=1)
