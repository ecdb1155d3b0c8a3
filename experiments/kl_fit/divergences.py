"""Divergences from the target P to the fit Q: each a value with the loss that training descends, and its gradient.

Where a Gaussian is fitted both KLs' gradients are written out; everything else is left to autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from experiments import pointwise
from experiments.kl_fit.families import Family, Gaussian, sampled
from experiments.kl_fit.names import kl_weights, operations
from experiments.stacked_mixture import StackedMixture

LossAndGradient = tuple[Tensor | None, Tensor]


class StackedTarget(Protocol):
    """K targets that can be sampled, and whose density may be known."""

    def sample(self, uniform: Tensor, normal: Tensor, gamma: Tensor | None = None) -> Tensor: ...

    @property
    def log_prob(self) -> Callable[[Tensor], Tensor] | None: ...


@dataclass(frozen=True)
class Noise:
    """The random numbers of one step: ``(K, D, N)``, and where samples of the target are drawn ``(K, N)``.

    Of the N columns the first ``count`` are used; the others fill a cache line, so that a matrix product's last bits
    do not depend on a cell's place in its stack.
    """

    normal: Tensor
    count: int
    uniform: Tensor | None = None
    gamma: Tensor | None = None

    def mean(self, value: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean of a value ``(K, N)`` over the columns in use, ``(K,)``, by their weights ``(K, count)`` if given."""
        used = value if value.shape[1] == self.count else value[:, : self.count]
        return used.mean(dim=1) if weights is None else (weights * used).sum(dim=1)


class Divergence(Protocol):
    """What training minimises, for a stack of cells."""

    @property
    def samples_target(self) -> bool:
        """Whether it needs samples of P."""
        ...

    def is_written_out(self, target: StackedTarget, family: Family) -> bool:
        """Whether the gradient is, so that autograd has no part in it."""
        ...

    def loss_and_gradient(
        self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise, whole: bool
    ) -> LossAndGradient:
        """The loss ``(K,)`` at parameters ``(K, P)``, and its gradient ``(K, P)``.

        Unless ``whole``, the loss may lack the target's entropy, and is None where the gradient does without it.
        """
        ...


@dataclass(frozen=True)
class ForwardKL:
    r"""KL(P || Q): covers what the target covers.

    .. math:: \mathrm{E}_{x \sim P} [\log p(x) - \log q(x)]

    Estimated with exact samples of the target; also called inclusive KL, or maximum likelihood.
    Bishop 2006, section 10.1.2; Murphy 2012, section 21.2.2.
    """

    samples_target: bool = True

    def is_written_out(self, target: StackedTarget, family: Family) -> bool:
        return isinstance(family, Gaussian)

    def loss_and_gradient(
        self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise, whole: bool
    ) -> LossAndGradient:
        assert noise.uniform is not None
        x = target.sample(noise.uniform, noise.normal[:, : family.dim], noise.gamma)
        if isinstance(family, Gaussian):
            loss, gradient = family.cross_entropy(theta, x, noise.count, whole)
        else:
            loss, gradient = _by_autograd(lambda at: -noise.mean(family.log_prob(at, x)), theta)
        if whole and loss is not None and target.log_prob is not None:
            loss = loss + noise.mean(target.log_prob(x))
        return loss, gradient


@dataclass(frozen=True)
class ReverseKL:
    r"""KL(Q || P): seeks a mode, or covers where the modes are close; minus the ELBO, up to log Z.

    .. math:: \mathrm{E}_{x \sim Q} [\log q(x) - \log p(x)] = -H(Q) - \mathrm{E}_{z \sim N(0, I)} [\log p(loc + L z)]

    Estimators of its gradient, all unbiased: ``reparameterization`` (Kingma and Welling 2014), with Q's entropy in
    closed form where it has one; ``sticking_the_landing`` (Roeder et al. 2017, https://arxiv.org/abs/1703.09194),
    without log q's own derivative by the parameters, whose mean is zero; ``score_function`` (Williams 1992), through
    the density alone, and ``score_function_baseline``, which subtracts from each value the mean of the others.
    """

    estimator: str = "reparameterization"
    samples_target: bool = False

    def is_written_out(self, target: StackedTarget, family: Family) -> bool:
        of_gaussian = isinstance(target, StackedMixture) and isinstance(family, Gaussian)
        return of_gaussian and self.estimator == "reparameterization"

    def loss_and_gradient(
        self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise, whole: bool
    ) -> LossAndGradient:
        if self.is_written_out(target, family):
            assert isinstance(target, StackedMixture) and isinstance(family, Gaussian)
            return self._written_out(target, family, theta, noise, whole)
        return _by_autograd(lambda at: self._loss(target, family, at, noise), theta)

    def _written_out(
        self, target: StackedMixture, family: Gaussian, theta: Tensor, noise: Noise, whole: bool
    ) -> LossAndGradient:
        x, tril = family.place(theta, noise.normal)
        log_p, score = target.log_prob_and_score(x)
        score[:, :, noise.count :] = 0.0
        gradient = family.pull_back(score, noise.normal, tril).div_(-noise.count)
        loss = -family.entropy(theta) - noise.mean(log_p) if whole else None
        return loss, gradient.sub_(family.entropy_gradient(theta))

    def _loss(self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise) -> Tensor:
        assert target.log_prob is not None
        if self.estimator.startswith("score_function"):
            return self._by_score(target, family, theta, noise)
        if self.estimator == "sticking_the_landing":
            x = family.rsample(theta, noise.normal)
            return noise.mean(family.log_prob(theta.detach(), x) - target.log_prob(x))
        x, log_q = sampled(family, theta, noise.normal)
        log_p, entropy = target.log_prob(x), family.entropy(theta)
        if entropy is not None:
            return -entropy - noise.mean(log_p)
        log_q = family.log_prob(theta, x) if log_q is None else log_q
        return noise.mean(log_q - log_p, family.weights(theta, noise.count))

    def _by_score(self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise) -> Tensor:
        """The value, with the gradient of ``mean((f - baseline) log q)`` at fixed samples and f."""
        assert target.log_prob is not None
        with torch.no_grad():
            x = family.rsample(theta, noise.normal)
            log_p = target.log_prob(x)
        log_q = family.log_prob(theta, x)
        f = (log_q - log_p).detach()[:, : noise.count]
        value, signal = f.mean(dim=1), f
        if self.estimator == "score_function_baseline":
            signal = (f - value.unsqueeze(1)) * (noise.count / (noise.count - 1))
        surrogate = noise.mean(torch.nn.functional.pad(signal, (0, log_q.shape[1] - noise.count)) * log_q)
        return value + surrogate - surrogate.detach()


@dataclass(frozen=True)
class WeightedKLs:
    r""":math:`w_f KL(P \| Q) + w_r KL(Q \| P)`: Jeffreys' divergence where both weights are 1.

    Each KL from samples of its own side, which share the step's noise. Jeffreys 1946.

    Args:
        forward, reverse: weights, ``(K,)``.
    """

    forward: Tensor
    reverse: Tensor
    samples_target: bool = True

    def is_written_out(self, target: StackedTarget, family: Family) -> bool:
        return ForwardKL().is_written_out(target, family) and ReverseKL().is_written_out(target, family)

    def loss_and_gradient(
        self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise, whole: bool
    ) -> LossAndGradient:
        forward, by_forward = ForwardKL().loss_and_gradient(target, family, theta, noise, whole)
        reverse, by_reverse = ReverseKL().loss_and_gradient(target, family, theta, noise, whole)
        gradient = self.forward.unsqueeze(1) * by_forward + self.reverse.unsqueeze(1) * by_reverse
        loss = None if forward is None or reverse is None else self.forward * forward + self.reverse * reverse
        return loss, gradient


@dataclass(frozen=True)
class FromBothSides:
    r""":math:`E_P[g(u)] + E_Q[g(u)]`, with g of ``experiments.pointwise``: Jensen-Shannon and alpha divergences.

    Samples of P and reparameterized samples of Q, which share the step's noise. For alpha outside of [0, 1] g is
    unbounded: its mean may be dominated by samples that are never drawn.

    Args:
        integrand: ``(K, N) -> (K, N)``.
    """

    integrand: Callable[[Tensor], Tensor]
    samples_target: bool = True

    def is_written_out(self, target: StackedTarget, family: Family) -> bool:
        return False

    def loss_and_gradient(
        self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise, whole: bool
    ) -> LossAndGradient:
        return _by_autograd(lambda at: self._loss(target, family, at, noise), theta)

    def _loss(self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise) -> Tensor:
        assert noise.uniform is not None and target.log_prob is not None
        of_p = target.sample(noise.uniform, noise.normal[:, : family.dim], noise.gamma)
        of_q, log_q = sampled(family, theta, noise.normal)
        at_p = self.integrand(target.log_prob(of_p) - family.log_prob(theta, of_p))
        log_p = target.log_prob(of_q)
        log_q = family.log_prob(theta, of_q) if log_q is None else log_q
        at_q = self.integrand(log_p - log_q)
        return noise.mean(at_p) + noise.mean(at_q, family.weights(theta, noise.count))


def divergence(params: Sequence[Any], like: Tensor) -> Divergence:
    """That of a stack of cells, from their parameters; what differs between cells is a tensor.

    Args:
        params: K cells' ``kl_fit.Params`` of one batch key.
        like: gives dtype and device.
    """

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)

    match operations(params[0]):
        case "forward_kl":
            return ForwardKL()
        case "reverse_kl":
            return ReverseKL(params[0].estimator)
        case "weighted_kls":
            weights = [kl_weights(p) for p in params]
            return WeightedKLs(column([w[0] for w in weights]), column([w[1] for w in weights]))
        case "jensen_shannon":
            return FromBothSides(pointwise.jensen_shannon)
        case "alpha":
            alpha = column([p.alpha for p in params]).unsqueeze(1)
            return FromBothSides(lambda u: pointwise.alpha(u, alpha))
        case other:
            raise ValueError(f"unknown divergence {other!r}")


def _by_autograd(loss: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
    """A loss ``(K,)`` of parameters ``(K, P)``, and its gradient."""
    at = theta.detach().requires_grad_()
    value = loss(at)
    (gradient,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), gradient
