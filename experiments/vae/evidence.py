r"""The density of what a VAE generates, by importance sampling.

.. math:: \log q(x) = \log \int N(z; 0, I) \, N(x; \hat x(z), s^2 I) \, dz
          \approx \log \frac1M \sum_m \frac{p(x, z_m)}{r(z_m | x)}, \qquad z_m \sim r

(Burda et al. 2016, https://arxiv.org/abs/1509.00519). The encoder alone is a poor proposal: a small KL weight makes
it far narrower than the posterior, and the weights' variance infinite. So r is a defensive mixture (Hesterberg 1995;
Owen and Zhou 2000, doi:10.1080/01621459.2000.10473909) of

* the Laplace approximation at a mode that Gauss-Newton steps reach, from the best of a guess and ``BANK`` draws of
  the prior: the exact posterior of a linear decoder, whose density is then exact too;
* the encoder's posterior;
* the prior, which bounds every weight by the likelihood.

The draws are divided among the three in fixed shares, and each is weighted by the whole mixture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.randomness import normal
from experiments.vae.likelihood import gaussian
from experiments.vae.network import Layer, forward, jacobian

LAPLACE, ENCODER, PRIOR = 32, 16, 16  # draws of each point
DRAWS = LAPLACE + ENCODER + PRIOR
NEWTON_STEPS = 3
BANK = 128
_BLOCK_COLUMNS = 2048  # decoder inputs at a time: what stays in cache


@dataclass(frozen=True)
class Guess:
    """Where each point's posterior may lie: a mode to start from, and the encoder's Gaussian; each ``(K, L, N)``."""

    start: Tensor
    mean: Tensor
    std: Tensor


def log_evidence(
    decoder: Sequence[Layer],
    noise_std: Tensor,
    x: Tensor,
    guess: Guess,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Estimate log q at ``x (K, D, N)``, nats, ``(K, N)``; biased low by half the weights' squared variation / M."""
    size = max(1, _BLOCK_COLUMNS // DRAWS)
    start = _best_start(decoder, noise_std, x, guess.start, generators)
    blocks = zip(*(part.split(size, dim=-1) for part in (x, start, guess.mean, guess.std)), strict=True)
    estimates = [_block(decoder, noise_std, x, Guess(*rest), generators) for x, *rest in blocks]
    return torch.cat(estimates, dim=-1)


def _block(
    decoder: Sequence[Layer],
    noise_std: Tensor,
    x: Tensor,
    guess: Guess,
    generators: Sequence[torch.Generator],
) -> Tensor:
    mode, factor = _laplace(decoder, noise_std, x, guess.start)
    mean, std = guess.mean.mT.unsqueeze(-1), guess.std.mT.unsqueeze(-1)
    count, latent = mode.shape[1:3]
    near, posterior, prior = normal((count, latent, DRAWS), generators, x.dtype).split(
        (LAPLACE, ENCODER, PRIOR), -1
    )
    near = torch.linalg.solve_triangular(factor.mT, near, upper=True)
    z = torch.cat([mode + near, mean + std * posterior, prior], dim=-1)

    log_prior = -0.5 * z.square().sum(2)  # every density here lacks the factor (2 pi)^(-L/2)
    log_near = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
    log_near = log_near - 0.5 * (factor.mT @ (z - mode)).square().sum(2)
    log_encoder = -std.log().sum(2) - 0.5 * ((z - mean) / std).square().sum(2)
    shares = [math.log(part / DRAWS) for part in (LAPLACE, ENCODER, PRIOR)]
    parts = [log + share for log, share in zip((log_near, log_encoder, log_prior), shares, strict=True)]
    log_proposal = torch.logsumexp(torch.stack(parts), dim=0)

    decoded = forward(decoder, z.transpose(1, 2).reshape(len(z), latent, count * DRAWS))[-1]
    log_likelihood = _log_likelihood(decoded.view(len(z), -1, count, DRAWS), x.unsqueeze(-1), noise_std)
    return torch.logsumexp(log_likelihood + log_prior - log_proposal, dim=-1) - math.log(DRAWS)


def _best_start(
    decoder: Sequence[Layer],
    noise_std: Tensor,
    x: Tensor,
    start: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """For each point the likeliest of its own start and a bank of prior draws that all points share, ``(K, L, N)``."""
    bank = normal((start.shape[1], BANK), generators, x.dtype)
    decoded = forward(decoder, bank)[-1]
    weight = gaussian(noise_std, x.shape[1]).weight.view(-1, 1, 1)
    # |x - d|^2 without |x|^2, which every candidate shares.
    height = decoded.square().sum(1) * weight[:, 0] + 0.5 * bank.square().sum(1)
    joint = torch.baddbmm(-height.unsqueeze(1), x.mT, 2 * weight * decoded)
    best, index = joint.max(dim=2)
    best = best - weight[:, 0] * x.square().sum(1) - gaussian(noise_std, x.shape[1]).constant.unsqueeze(1)
    chosen = bank.gather(2, index.unsqueeze(1).expand_as(start))
    own = _log_joint(forward(decoder, start)[-1], x, start, noise_std)
    return torch.where((own >= best).unsqueeze(1), start, chosen)


def _laplace(decoder: Sequence[Layer], noise_std: Tensor, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """A mode of each posterior, ``(K, N, L, 1)``, and the Cholesky factor of its precision, ``(K, N, L, L)``.

    A Gauss-Newton step is kept where it raises the joint density.
    """
    z = start
    outputs = forward(decoder, z)
    joint = _log_joint(outputs[-1], x, z, noise_std)
    for _ in range(NEWTON_STEPS):
        slope = jacobian(decoder, outputs)
        factor = _precision_factor(slope, noise_std)
        residual = (x - outputs[-1]).mT.unsqueeze(-1) / noise_std.view(-1, 1, 1, 1) ** 2
        uphill = slope.mT @ residual - z.mT.unsqueeze(-1)
        trial = z + torch.cholesky_solve(uphill, factor).squeeze(-1).mT
        trial_joint = _log_joint(forward(decoder, trial)[-1], x, trial, noise_std)
        z = torch.where((trial_joint > joint).unsqueeze(1), trial, z)
        outputs = forward(decoder, z)
        joint = _log_joint(outputs[-1], x, z, noise_std)
    return z.mT.unsqueeze(-1), _precision_factor(jacobian(decoder, outputs), noise_std)


def _precision_factor(slope: Tensor, noise_std: Tensor) -> Tensor:
    precision = slope.mT @ slope / noise_std.view(-1, 1, 1, 1) ** 2
    precision.diagonal(dim1=-2, dim2=-1).add_(1)
    return torch.linalg.cholesky_ex(precision)[0]


def _log_joint(decoded: Tensor, x: Tensor, z: Tensor, noise_std: Tensor) -> Tensor:
    return _log_likelihood(decoded, x, noise_std) - 0.5 * z.square().sum(1)


def _log_likelihood(decoded: Tensor, x: Tensor, noise_std: Tensor) -> Tensor:
    """Log N(x; decoded, noise_std^2 I), nats, summed over the second axis."""
    term = gaussian(noise_std, x.shape[1])
    shape = (-1, *(1 for _ in decoded.shape[2:]))
    return -term.weight.view(shape) * (decoded - x).square().sum(1) - term.constant.view(shape)
