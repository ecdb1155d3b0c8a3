"""Divergences from the target P to the fit Q: each a value with the loss that training descends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from experiments.kl_fit.families import Family


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
        used = value[:, : self.count]
        return used.mean(dim=1) if weights is None else (weights * used).sum(dim=1)


@dataclass(frozen=True)
class ForwardKL:
    r"""KL(P || Q): covers what the target covers.

    .. math:: \mathrm{E}_{x \sim P} [\log p(x) - \log q(x)]

    Estimated with exact samples of the target; also called inclusive KL, or maximum likelihood.
    Bishop 2006, section 10.1.2; Murphy 2012, section 21.2.2.
    """

    samples_target: bool = True

    def loss(self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise, whole: bool) -> Tensor:
        """``(K,)``; up to the target's entropy, which training does not need, unless ``whole``."""
        assert noise.uniform is not None
        x = target.sample(noise.uniform, noise.normal[:, : family.dim], noise.gamma)
        loss = -noise.mean(family.log_prob(theta, x))
        if whole and target.log_prob is not None:
            loss = loss + noise.mean(target.log_prob(x))
        return loss


@dataclass(frozen=True)
class ReverseKL:
    r"""KL(Q || P): seeks a mode, or covers where the modes are close; minus the ELBO, up to log Z.

    .. math:: \mathrm{E}_{x \sim Q} [\log q(x) - \log p(x)] = -H(Q) - \mathrm{E}_{z \sim N(0, I)} [\log p(loc + L z)]

    The reparameterization gradient (Kingma and Welling 2014), with Q's entropy in closed form where it has
    one, and otherwise by log q at the samples.
    """

    samples_target: bool = False

    def loss(self, target: StackedTarget, family: Family, theta: Tensor, noise: Noise, whole: bool) -> Tensor:
        """``(K,)``, always whole."""
        assert target.log_prob is not None
        x = family.rsample(theta, noise.normal)
        log_p, entropy = target.log_prob(x), family.entropy(theta)
        if entropy is not None:
            return -entropy - noise.mean(log_p)
        return noise.mean(family.log_prob(theta, x) - log_p, family.weights(theta, noise.count))


Divergence = ForwardKL | ReverseKL

DIVERGENCES: dict[str, Divergence] = {"forward_kl": ForwardKL(), "reverse_kl": ReverseKL()}
